"""Verbs that learn labels and give them: finetune, annotate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import AnnotateOptions, FinetuneOptions


@app.command
def finetune(
    model: str,
    data: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[FinetuneOptions, Parameter(name="*")],
) -> None:
    """Learn labels from annotated cells: a model that annotate applies to others.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    data
        Files of raw counts with labels in obs.
    out
        Directory of the new model; appears when it is whole.
    """
    from cellscribe.api import annotate
    from cellscribe.callbacks import log_stderr

    with progress_bar("Embedding") as progress:
        done = annotate.finetune(model, data, out, options, progress=progress, log=log_stderr)
    cells = done.labelled.counts()
    log_stderr(
        f"{sum(cells.values()):,} cells of {len(cells)} labels learnt with --mode {options.mode}."
    )
    log_stderr(done.calibration.summary())
    print(out)


@app.command
def annotate(
    source: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[AnnotateOptions | None, Parameter(name="*")] = None,
) -> None:
    """Give every cell a label and its probability, or unknown.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .csv or .parquet, or .h5ad: a copy with columns added to obs; appears when it is whole.
    """
    from cellscribe.api import annotate
    from cellscribe.callbacks import log_stderr

    with progress_bar("Annotating") as progress:
        done = annotate.annotate_file(source, out, options, progress=progress, log=log_stderr)
    log_stderr(done.genes.summary())
    for label, n in done.counts().items():
        log_stderr(f"{n:>9,}  {label}")
    if done.n_empty:
        log_stderr(
            f"Warning: {done.n_empty:,} cells have no count on a gene that the model knows; they "
            "are among the unknown."
        )
    print(out)
