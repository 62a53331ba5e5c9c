"""The verb embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EmbedOptions


@app.command
def embed(
    source: str,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
    report: Path | None = None,
    map_png: Annotated[Path | None, Parameter(name="--map")] = None,
    color_by: str | None = None,
) -> None:
    """Turn every cell of a file into a vector.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        .npy, .h5ad, .zarr or .parquet; appears when it is whole.
    report
        Write a self-contained HTML page on the run: map, coverage, lengths, warnings.
    map_png
        Draw the map (UMAP of the vectors) as a PNG.
    color_by
        Column of obs that colours the map.
    """
    with progress_bar("Embedding") as progress:
        done = cellscribe.embed_file(
            source,
            out,
            options or EmbedOptions(),
            report=report,
            map_png=map_png,
            color_by=color_by,
            progress=progress,
            log=log_stderr,
        )
    about = done.provenance
    log_stderr(done.genes.summary())
    log_stderr(
        f"{done.n_cells:,} cells x {done.width} with {about['model']} on "
        f"{about['device']} ({about['precision']}), {done.cells_per_second:,.0f} cells/s"
    )
    for warning in done.warnings:
        log_stderr(f"Warning: {warning}")
    for path in (out, report, map_png):
        if path is not None:
            print(path)
