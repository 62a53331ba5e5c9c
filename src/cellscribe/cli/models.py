"""The verbs on models: import, export, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.written import AsJson
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
def info(
    model: str = "mini",
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Describe a model: size, cost, vocabulary, context and origin.

    Parameters
    ----------
    model
        A bundled model's name, a preset's, or a checkpoint directory.
    as_json
        Print all of it as one JSON object.
    """
    facts = cellscribe.info(model)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    shown = _shown(facts)
    width = max(map(len, shown))
    for name, value in shown.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines):
            print(f"{name if number == 0 else '':<{width}}  {line}")


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a model as a reader wants them, by the heads of their lines."""
    shown: dict[str, Any] = {"name": facts["name"], "weights": "none: a preset, to be trained"}
    if "hash" in facts:
        shown["weights"] = f"{facts['bytes'] / 1e6:,.1f} MB on disk, hash {facts['hash']}"
    shown["parameters"] = f"{facts['parameters']:,}"
    if "layers" in facts:
        shown["shape"] = (
            f"{facts['layers']} layers, {facts['hidden_size']} wide, "
            f"{facts['attention_heads']} heads, FFN {facts['feed_forward_size']}"
        )
    else:
        shown["settings"] = [f"{key}: {value}" for key, value in facts["settings"].items()]
    genes = facts["context"]
    shown |= {
        "vector": f"{facts['vector_size']} values a cell",
        "vocabulary": f"{facts['vocabulary_size']:,} tokens",
        "context": f"{genes:,} genes",
    }
    if "flop_per_cell" in facts:
        whole, half = (facts[f"flop_per_{what}"] / 1e9 for what in ("cell", "half_cell"))
        shown["work"] = (
            f"{whole:.2f} GFLOP for a cell of {genes:,} genes, {half:.2f} for one of {genes // 2:,}"
        )
    if "family" in facts:
        shown |= {
            "family": facts["family"],
            "pooling": [facts["pooling"], f"--pool: {', '.join(facts['pools'])}"],
            "gene table": f"hash {facts['gene_table_hash']}",
        }
    names = {"species": "species", "labels": "labels", "gene_labels": "labels of genes"}
    shown |= {name: facts[key] for key, name in names.items() if key in facts}
    for column, learnt in facts.get("columns", {}).items():
        if isinstance(learnt[0], str):
            shown[f"labels of {column}"] = learnt
        else:
            shown[column] = "a number, from {:g} to {:g} in training".format(*learnt)
    return shown | facts.get("provenance", {})
