"""Verbs on models: import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import cellscribe
from cellscribe.cli.app import app


@app.command(name="import")
def import_(
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    genes: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Bring in a published model: Geneformer, BioNeMo, scGPT, scBERT, scFoundation.

    What it is, is recognised. The new folder is a model like any other: embed --model takes it.

    Parameters
    ----------
    source
        Folder or file as published, or a Hugging Face repository id (needs cellscribe[hub]).
    out
        Folder of the model; appears when it is whole.
    genes
        Gene list or dictionaries that are not in SRC itself; a refusal says when it is needed.
    overwrite
        Replace an output that exists.
    """
    from cellscribe.callbacks import log_stderr

    print(cellscribe.import_model(source, out, genes=genes, overwrite=overwrite, log=log_stderr))


@app.command
def export(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    format: Literal["hf"] = "hf",
    overwrite: bool = False,
) -> None:
    """Write a model as other tools read it.

    Parameters
    ----------
    model
        A bundled model's name or a checkpoint directory.
    out
        The new folder; appears when it is whole.
    format
        hf: a Hugging Face BertForMaskedLM with the dictionaries of Geneformer's own tools.
    overwrite
        Replace an output that exists.
    """
    print(cellscribe.export_model(model, out, format=format, overwrite=overwrite))
