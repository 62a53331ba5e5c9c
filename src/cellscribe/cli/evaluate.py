"""Verbs that judge models, and ask them what a gene does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EvaluateOptions, PerturbOptions


@app.command
def evaluate(
    models: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    data: Annotated[list[Path], Parameter(negative=(), consume_multiple=True)],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    task: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=", ".join)] = (
        "core",
    ),
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
) -> None:
    """Judge models beside baselines and random weights; tables, figures and a report.

    Parameters
    ----------
    models
        Bundled models' names, checkpoint directories, or folders of training runs.
    data
        Files of cells in any known format; for mlm also a corpus.
    out
        Folder of results (JSON), report.md and report.html; what is there already is read.
    task
        mlm, celltype, integration, confounding, perturbation, deletion, genes, scaling,
        performance; core is the first seven, full is all.
    """
    from cellscribe.api.evaluate import evaluate as run
    from cellscribe.callbacks import log_stderr

    with progress_bar("Evaluating", "problems") as progress:
        results = run(models, data, out, options, task=task, progress=progress, log=log_stderr)
    log_stderr(f"{len(results):,} results")
    for name in ("report.md", "report.html"):
        print(out / name)


@app.command
def perturb(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[PerturbOptions | None, Parameter(name="*", consume_multiple=True)] = None,
) -> None:
    """Delete or promote genes in every cell, and tell how far cells and other genes move.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .csv or .parquet, a row a gene and group; appears when it is whole.
    """
    from cellscribe.callbacks import log_stderr
    from cellscribe.perturbation.perturb import write_perturbed

    with progress_bar("Perturbing") as progress:
        table = write_perturbed(
            source, out, options or PerturbOptions(), progress=progress, log=log_stderr
        )
    log_stderr(f"{len(table):,} rows")
    print(out)
