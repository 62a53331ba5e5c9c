"""The verb collect."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar


@app.command
def collect(
    folder: str,
    *,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    overwrite: bool = False,
) -> None:
    """Join the vectors, or the tokens, of many sources into one file, in the manifest's order.

    Parameters
    ----------
    folder
        Output folder or URL of embed or tokenize.
    out
        .parquet, .zarr, .h5ad, or .npy with an index of its rows in OUT.cells.parquet; of tokens
        .parquet.
    overwrite
        Replace an output that exists.
    """
    with progress_bar("Joining") as progress:
        n_cells = cellscribe.collect(folder, out, overwrite=overwrite, progress=progress)
    log_stderr(f"{n_cells:,} cells")
    print(out)
