"""The verb enhance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EnhanceOptions


@app.command
def enhance(
    source: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EnhanceOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write the expression that a model gives back, at another read depth (scFoundation).

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        .h5ad; appears when it is whole.
    """
    from cellscribe.api.enhance import enhance_file

    with progress_bar("Enhancing") as progress:
        done = enhance_file(source, out, options, progress=progress, log=log_stderr)
    log_stderr(f"{done.n_obs:,} cells x {done.n_vars:,} genes")
    print(out)
