"""The verb tokenize."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.cli.sharing import MANY, is_many, refuse_sharing, run_many
from cellscribe.config import ShardOptions, TokenizeOptions


@app.command
def tokenize(
    *sources: str,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    options: Annotated[TokenizeOptions | None, Parameter(name="*")] = None,
    sharing: Annotated[ShardOptions | None, Parameter(name="*", group=MANY)] = None,
) -> None:
    """Write the ranked genes of every cell as tokens to a Parquet file.

    Parameters
    ----------
    sources
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
        One result for each of several, of a folder, a glob, a URL, or a CSV with the column path.
    out
        The .parquet file: cell_id, input_ids, length; of several sources a folder or a URL.
    """
    options, sharing = options or TokenizeOptions(), sharing or ShardOptions()
    if is_many(sources, out):
        run_many(cellscribe.tokenize_files, sources, out, options, sharing)
        return
    refuse_sharing(out, sharing)
    with progress_bar("Tokenizing") as progress:
        done = cellscribe.tokenize(
            sources[0], out, options=options, progress=progress, log=log_stderr
        )
    log_stderr(done.genes.summary())
    log_stderr(f"{done.n_cells:,} cells, {done.n_tokens:,} genes")
    for warning in done.warnings:
        log_stderr(f"Warning: {warning}")
    print(out)
