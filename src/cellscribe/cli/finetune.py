"""The verb finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import FinetuneOptions


@app.command
def finetune(
    model: str,
    data: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[FinetuneOptions | None, Parameter(name="*")] = None,
) -> None:
    """Learn labels from annotated cells: a model that annotate (of genes: genes) applies.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    data
        Files of raw counts with labels in obs.
    out
        Directory of the new model; appears when it is whole.
    """
    options = options or FinetuneOptions()  # which refuses that nothing is to be learnt
    with progress_bar("Embedding") as progress:
        done = cellscribe.finetune(model, data, out, options, progress=progress, log=log_stderr)
    for line in done.lines(options.mode):
        log_stderr(line)
    print(out)
