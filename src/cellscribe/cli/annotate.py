"""The verb annotate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.cli.written import AsJson, gene_facts, print_written
from cellscribe.config import AnnotateOptions


@app.command
def annotate(
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[AnnotateOptions | None, Parameter(name="*")] = None,
    report: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Give every cell a label and its probability, or unknown.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
    out
        .csv or .parquet, or .h5ad: a copy with columns added to obs; appears when it is whole.
    report
        Write a self-contained HTML page: what was called, a map, how far to trust it.
    as_json
        Print what was done as one JSON object.
    """
    options = options or AnnotateOptions()
    with progress_bar("Annotating") as progress:
        done = cellscribe.annotate_file(
            source, out, options, report=report, progress=progress, log=log_stderr
        )
    log_stderr(done.genes.summary())
    counts = done.counts()
    for label, n in counts.items():
        log_stderr(f"{n:>9,}  {label}")
    if done.n_empty:
        fate = "are among the unknown" if counts else "have no prediction"
        log_stderr(
            f"Warning: {done.n_empty:,} cells have no count on a gene that the model knows; they "
            f"{fate}."
        )
    print_written(
        (out, report),
        as_json,
        lambda: {"cells": counts, "genes": gene_facts(done.genes), "about": done.about},
    )
