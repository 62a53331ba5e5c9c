"""The verb perturb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cellscribe.callbacks import log_stderr, number_of
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import PerturbOptions

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 5
"""Rows that are shown; all of them are in the output."""


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
    for line in _summary(table):
        log_stderr(line)
    print(out)


def _summary(table: pd.DataFrame) -> list[str]:
    """The first rows, which move cells most, a line each."""
    lines = [f"{number_of(len(table), 'row')}; the largest shifts (1 - cosine, 0 to 2):"]
    for row in table[:MOST_SHOWN].to_dict("records"):
        name = row["symbol"] or row["gene"]
        lines.append(
            f"  {name:<12}  {row['group']}, {number_of(row['n_cells'], 'cell')}: "
            f"{row['shift']:.3g} (sd {row['shift_sd']:.2g}), FDR {row['fdr']:.2g}"
        )
    return lines
