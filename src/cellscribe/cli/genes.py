"""The verb genes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import GenesOptions


@app.command
def genes(
    source: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[GenesOptions | None, Parameter(name="*")] = None,
) -> None:
    """Turn every gene into a vector: the mean of its vectors over the cells that show it.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        .h5ad (genes as observations) or .parquet; .csv for the labels of a model that labels genes.
    """
    from cellscribe.api.genes import embed_genes_file

    with progress_bar("Embedding genes") as progress:
        done = embed_genes_file(source, out, options, progress=progress, log=log_stderr)
    log_stderr(f"{done.n_obs:,} genes x {done.n_vars}")
    print(out)
