"""The verb perturb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import PerturbOptions


@app.command
def perturb(
    source: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[PerturbOptions | None, Parameter(name="*", consume_multiple=True)] = None,
) -> None:
    """Delete or promote genes in every cell, and measure how far cells and other genes move.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        .csv or .parquet, a row a gene and group; appears when it is whole.
    """
    from cellscribe.api.perturb import perturb_file

    options = options or PerturbOptions()
    with progress_bar("Perturbing") as progress:
        table = perturb_file(source, out, options, progress=progress, log=log_stderr)
    log_stderr(f"{len(table):,} rows")
    print(out)
