"""Facts of a model or a preset: size, cost, gene table, origin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import ModelConfig, load_preset
from cellscribe.families.geneformer.dictionaries import species_of
from cellscribe.families.registry import RankedHeader, open_model
from cellscribe.model.checkpoint import WEIGHTS
from cellscribe.model.encoder import MaskedGeneModel, count_parameters, flops_per_cell
from cellscribe.model.heads import has_head, load_head, read_head_header
from cellscribe.model.several_heads import NumberHead, load_heads, name_of


def about_preset(name: str) -> dict[str, Any]:
    """Collect the facts of a preset, by name.

    Raises
    ------
    InputError
        There is no such preset.
    """
    config = load_preset(name)
    with torch.device("meta"):
        parameters = count_parameters(MaskedGeneModel(config))
    facts = {"name": name, "weights": "none: a preset, to be trained"}
    return {**facts, "parameters": f"{parameters:,}", **_shape(config)}


def about_model(name: str | Path) -> dict[str, Any]:
    """Collect the facts of a model of any family, by name.

    Raises
    ------
    InputError
        There is no such model, or it is damaged.
    """
    opened = open_model(name)
    header, cells = opened.header, opened.cells
    on_disk = (header.directory / WEIGHTS).stat().st_size / 1e6
    facts: dict[str, Any] = {
        "name": header.name,
        "weights": f"{on_disk:,.1f} MB on disk, hash {opened.hash}",
    }
    if isinstance(header, RankedHeader):
        # The file also holds the head, and each tensor once.
        with safe_open(header.directory / WEIGHTS, framework="np") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        parameters = sum(math.prod(shape) for shape in shapes)
        facts |= {"parameters": f"{parameters:,}", **_shape(header.config)}
    else:
        facts |= {
            "parameters": f"{count_parameters(cells.network):,}",
            "settings": [f"{key}: {value}" for key, value in header.settings.items()],
            "vector": f"{cells.width} values a cell",
            "vocabulary": f"{len(header.table):,} tokens",
            "context": f"{cells.context:,} genes",
        }
    facts |= {
        "family": header.family,
        "pooling": [cells.pooling, f"--pool: {', '.join(header.pools)}"],
        "gene table": f"hash {header.table.hash}",
        **_species(header.table),
        **header.provenance,
    }
    if has_head(header.directory):
        facts |= _heads(header.directory)
    return facts


def _heads(directory: Path) -> dict[str, Any]:
    """What the heads of a fine-tuned model give."""
    if read_head_header(directory)["version"] == 1:
        head = load_head(directory, None)
        return {"labels" if head.of == "cells" else "labels of genes": head.labels}
    facts: dict[str, Any] = {}
    for each in load_heads(directory):
        if isinstance(each, NumberHead):
            facts[each.target] = "a number, from {:g} to {:g} in training".format(*each.range)
        else:
            facts[f"labels of {name_of(each)}"] = each.labels
    return facts


def _species(table: GeneTable) -> dict[str, str]:
    """Name the species of the genes, where they have ids that say it."""
    genes = [name for name in table.ids if name[0] not in "[<"]
    species = species_of(genes)
    return {"species": species} if species else {}


def _shape(config: ModelConfig) -> dict[str, str]:
    length = config.context + config.cls_token + config.sep_token
    work, work_half = (flops_per_cell(config, n) / 1e9 for n in (length, length // 2))
    return {
        "shape": f"{config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.num_attention_heads} heads, FFN {config.intermediate_size}",
        "vector": f"{config.cell_vector_size or config.hidden_size} values a cell",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "context": f"{config.context:,} genes",
        "work": f"{work:.2f} GFLOP for a cell of {config.context:,} genes, "
        f"{work_half:.2f} for one of {config.context // 2:,}",
    }
