"""How the verbs embed and tokenize run over many sources."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from cyclopts import Group

from cellscribe.atlas.listener import Listener
from cellscribe.callbacks import Progress, log_stderr
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EmbedOptions, ShardOptions, TokenizeOptions
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from cellscribe.atlas.run import Run


class _Bar(Listener):
    """Shows how many sources have ended."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.ended = progress, total, 0

    def on_shard(self, shard: str, what: str) -> None:
        """Show one more."""
        self.ended += 1
        self.progress(self.ended, self.total)


MANY = Group("Many sources", sort_key=8)
"""Options of a run over many sources, in the help."""


def is_many(sources: tuple[str, ...], out: str) -> bool:
    """Tell a run over many sources, into a folder, from one with a file as its output.

    Raises
    ------
    InputError
        No source is named, or several are and the output is a file.
    """
    from cellscribe.cells.source_lists import MAGIC
    from cellscribe.inference.outputs import FORMS

    if not sources:
        raise InputError("no source is named; name a file, a folder or a list of them")
    pattern = any(mark in sources[0] for mark in MAGIC) and not Path(sources[0]).exists()
    several = len(sources) > 1 or pattern
    if several and PurePath(out).suffix in FORMS:
        raise InputError(
            f"several sources give a file each: name a folder in place of {out}, and join what is "
            "in it with cellscribe collect"
        )
    return several or "://" in out or not PurePath(out).suffix


def refuse_sharing(out: str, sharing: ShardOptions) -> None:
    """Refuse options of a run over many sources for a run over one.

    Raises
    ------
    InputError
        One of them is given.
    """
    if sharing != ShardOptions():
        raise InputError(
            f"{out} is one file; --form, --workers and the like are for an output folder"
        )


def run_many(
    verb: Callable[..., Run],
    sources: tuple[str, ...],
    out: str,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
) -> None:
    """Run over many sources with a bar; the failures are listed at the end, with status 1.

    Parameters
    ----------
    verb
        The function of the package.
    sources, out, options, sharing
        Its arguments.
    """
    from cellscribe.api.atlas import shards_of

    if sharing.dry_run:
        print_estimate(sources, out, options, sharing)
        return
    total = len(shards_of(sources, out))
    with progress_bar("Sources", "sources") as progress:
        listener = _Bar(progress, total)
        run = verb(sources, out, options, sharing=sharing, listener=listener, log=log_stderr)
    # a large source is several
    total = len(run.manifest["shards"])
    done = sum(shard["status"] == "done" for shard in run.manifest["shards"])
    log_stderr(f"{done:,} of {total:,} shards, {run.n_cells:,} cells")
    for shard in run.manifest["shards"]:
        for warning in shard.get("warnings", ()):
            log_stderr(f"Warning: {shard['name']}: {warning}")
        if shard["status"] != "done":
            log_stderr(f"failed: {shard['name']}: {shard.get('reason', 'no worker was left')}")
    print(out)
    if done < total:
        sys.exit(1)


def print_estimate(
    sources: tuple[str, ...],
    out: str,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
) -> None:
    """Print what a run would take, a line for each source and one for all; status 1 if one is bad.

    Raises
    ------
    InputError
        See `estimate_run`.
    """
    from cellscribe.api.atlas import shards_of
    from cellscribe.atlas.estimate import estimate_run

    found = estimate_run(shards_of(sources, out), options, sharing, log_stderr)
    for source in found.sources:
        cells = f"{source['cells']:,} cells" if "cells" in source else "cells not known"
        size = f"{source['bytes'] / 1e6:,.1f} MB" if "bytes" in source else ""
        shards = f"{source['shards']:,} shards" if source["shards"] > 1 else ""
        print(f"{source['name']}\t{source.get('reason', cells)}\t{size}\t{shards}".rstrip())
    workers = sharing.workers or 1
    bad = f" ({len(found.bad):,} bad)" if found.bad else ""
    print(
        f"{len(found.sources):,} sources{bad}, {found.n_shards:,} shards, {found.n_cells:,} cells, "
        f"{found.n_bytes / 1e9:,.1f} GB: about {found.seconds(workers) / 60:,.1f} min "
        f"at {found.cells_per_second:,.0f} cells/s of {found.device}, "
        f"{workers} x {found.memory_bytes / 1e9:.1f} GB of memory"
    )
    if found.bad:
        sys.exit(1)
