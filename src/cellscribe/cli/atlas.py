"""The verb collect, and how the verb embed runs over many sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EmbedOptions, ShardOptions


@app.command
def collect(
    folder: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    overwrite: bool = False,
) -> None:
    """Join the vectors of many sources into one file, in the order of the manifest.

    Parameters
    ----------
    folder
        Output folder of embed.
    out
        .parquet, .zarr, or .npy with an index of its rows in OUT.cells.parquet.
    overwrite
        Replace an output that exists.
    """
    with progress_bar("Joining") as progress:
        n_cells = cellscribe.collect(folder, out, overwrite=overwrite, progress=progress)
    log_stderr(f"{n_cells:,} cells")
    print(out)


def embed_many(
    sources: tuple[str, ...], out: str, options: EmbedOptions, sharing: ShardOptions
) -> None:
    """Embed many sources with a bar; the failures are listed at the end, with status 1."""
    from cellscribe.api.atlas import shards_of

    total = len(shards_of(sources, out))
    ended: dict[str, str] = {}
    with progress_bar("Embedding", "sources") as progress:

        def on_shard(name: str, what: str) -> None:
            ended[name] = what
            progress(len(ended), total)

        run = cellscribe.embed_files(
            sources, out, options, sharing=sharing, on_shard=on_shard, log=log_stderr
        )
    done = sum(shard["status"] == "done" for shard in run.manifest["shards"])
    log_stderr(f"{done:,} of {total:,} sources, {run.n_cells:,} cells")
    for shard in run.manifest["shards"]:
        for warning in shard.get("warnings", ()):
            log_stderr(f"Warning: {shard['name']}: {warning}")
        if shard["status"] != "done":
            log_stderr(f"failed: {shard['name']}: {shard.get('reason', 'no worker was left')}")
    print(out)
    if done < total:
        sys.exit(1)
