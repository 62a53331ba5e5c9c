"""The verbs on models: import, export, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.config import ExportOptions, ImportOptions


@app.command(name="import")
def import_(
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[ImportOptions | None, Parameter(name="*")] = None,
) -> None:
    """Bring in a published model: Geneformer, BioNeMo, scGPT, scBERT, scFoundation.

    Its family is recognised. The new folder is a model like any other: embed --model takes it.

    Parameters
    ----------
    source
        Folder or file as published, or a Hugging Face repository id (needs cellscribe[hub]).
    out
        Folder of the model; appears when it is whole.
    """
    options = options or ImportOptions()
    print(cellscribe.import_model(source, out, options=options, log=log_stderr))


@app.command
def export(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[ExportOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write a model as other tools read it.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    out
        The new folder; appears when it is whole.
    """
    print(cellscribe.export_model(model, out, options=options or ExportOptions()))


@app.command
def info(model: str = "mini", /) -> None:
    """Describe a model: size, cost, vocabulary, context and origin.

    Parameters
    ----------
    model
        A bundled model's name, a preset's, or a checkpoint directory.
    """
    facts = cellscribe.info(model)
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines):
            print(f"{name if number == 0 else '':<{width}}  {line}")
