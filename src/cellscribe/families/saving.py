"""Model directories of any family, written: what an import read, or what a training changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.families.registry import ModelHeader, RankedHeader, given_options
from cellscribe.model.metadata import config_to_json
from cellscribe.model.weights import WEIGHTS

if TYPE_CHECKING:
    import torch

    from cellscribe.config import ModelOptions
    from cellscribe.families.base import CellModel


def network_config(
    family: str,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    vector: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``config.json`` of a family with a network of its own.

    Parameters
    ----------
    family, settings, provenance
        As `registry.ModelHeader` has them.
    vector
        How vectors are made where it is not the family's own way.
    """
    own: dict[str, Any] = {"format": 1, "family": family, "settings": dict(settings)}
    if vector:
        own["vector"] = dict(vector)
    own["provenance"] = dict(provenance)
    return {"model_type": f"cellscribe-{family}", "cellscribe": own}


def write_files(
    folder: Path, config: Mapping[str, Any], table: GeneTable, readme: str, weights: Any
) -> None:
    """Write the files of a model directory, which is made here; nothing is sealed.

    Parameters
    ----------
    folder
        The directory.
    config, table, readme
        What goes into ``config.json``, ``genes.tsv`` and ``README.md``.
    weights
        Tensors by name, or the path of a file of them that is copied.
    """
    folder.mkdir()
    if isinstance(weights, Path):
        shutil.copyfile(weights, folder / WEIGHTS)
    else:
        write_tensors(folder / WEIGHTS, weights)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    table.write(folder / "genes.tsv")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a file of weights that everybody may read."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    # safetensors makes it readable by its owner alone.
    path.chmod(0o644)


def save_trained(
    folder: Path,
    header: ModelHeader,
    options: ModelOptions,
    provenance: Mapping[str, Any],
    readme: str,
    trained: CellModel | None,
) -> None:
    """Write a model that was trained further, so that every verb reads it as one of its family.

    Parameters
    ----------
    folder
        The directory; made here.
    header
        Of the model that it began from.
    options
        How its vectors are made; what is not given is what `header` says.
    provenance, readme
        Of the new model.
    trained
        The model as it now is; None if only a head was trained, and the weights are the very file.
    """
    if isinstance(header, RankedHeader):
        from cellscribe.families.bert.model import choose_pooling

        rule = choose_pooling(header.config, header.pooling, options)
        config = config_to_json(header.config, provenance, rule, header.family)
    else:
        vector = given_options(header.vector) | given_options(options)
        config = network_config(header.family, header.settings, provenance, vector)
    weights = header.directory / WEIGHTS if trained is None else trained.stored()
    write_files(folder, config, header.table, readme, weights)
