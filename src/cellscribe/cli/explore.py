"""The verb explore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import ExploreOptions


@app.command
def explore(
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[ExploreOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write a page to look around in the cells: two linked maps, colours, lasso, neighbors.

    Parameters
    ----------
    source
        .h5ad or .zarr with vectors in obsm, as embed writes it.
    out
        .html; one page that needs no network.
    """
    with progress_bar("Drawing", "steps") as progress:
        done = cellscribe.explore(source, out, options, progress=progress, log=log_stderr)
    views = " and ".join(done.views)
    log_stderr(f"{done.n_cells:,} cells, {views}, {out.stat().st_size / 1e6:,.1f} MB")
    for note in done.notes:
        log_stderr(note)
    print(out)
