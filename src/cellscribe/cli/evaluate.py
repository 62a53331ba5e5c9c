"""The verb evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.cli.written import AsJson, print_written
from cellscribe.config import EvaluateOptions


@app.command
def evaluate(
    models: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    data: Annotated[list[str], Parameter(negative=(), consume_multiple=True)],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    task: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=", ".join)] = (
        "core",
    ),
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare models with baselines and random weights; tables, figures and a report.

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
    as_json
        Print all results as one JSON object.
    """
    from cellscribe.evaluation.results import as_plain

    options = options or EvaluateOptions()
    with progress_bar("Evaluating", "parts") as progress:
        results = cellscribe.evaluate(
            models, data, out, options, task=task, progress=progress, log=log_stderr
        )
    log_stderr(f"{len(results):,} results")
    print_written(
        (out / "report.md", out / "report.html"),
        as_json,
        lambda: {"results": [as_plain(result) for result in results]},
    )
