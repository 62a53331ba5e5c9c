"""The verb tokenize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import TokenizeOptions


@app.command
def tokenize(
    source: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[TokenizeOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write the ranked genes of every cell as tokens to a Parquet file.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        The .parquet file: cell_id, input_ids, length.
    """
    options = options or TokenizeOptions()
    with progress_bar("Tokenizing") as progress:
        done = cellscribe.tokenize(source, out, options=options, progress=progress, log=log_stderr)
    log_stderr(done.genes.summary())
    log_stderr(f"{done.n_cells:,} cells, {done.n_tokens:,} genes")
    if done.n_empty:
        log_stderr(f"Warning: {done.n_empty:,} cells have no count on a gene that the model knows.")
    print(out)
