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
    return {"name": name, "preset": True, "parameters": parameters, **_shape(config)}


def about_model(name: str | Path) -> dict[str, Any]:
    """Collect the facts of a model of any family, by name.

    Raises
    ------
    InputError
        There is no such model, or it is damaged.
    """
    opened = open_model(name)
    header, cells = opened.header, opened.cells
    facts: dict[str, Any] = {
        "name": header.name,
        "family": header.family,
        "hash": opened.hash,
        "bytes": (header.directory / WEIGHTS).stat().st_size,
    }
    if isinstance(header, RankedHeader):
        # The file also holds the head, and each tensor once.
        with safe_open(header.directory / WEIGHTS, framework="np") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        parameters = sum(math.prod(shape) for shape in shapes)
        facts |= {"parameters": parameters, **_shape(header.config)}
    else:
        facts |= {
            "parameters": count_parameters(cells.network),
            "settings": dict(header.settings),
            "vector_size": cells.width,
            "vocabulary_size": len(header.table),
            "context": cells.context,
        }
    facts |= {
        "pooling": cells.pooling,
        "pools": list(header.pools),
        "gene_table_hash": header.table.hash,
        **_species(header.table),
    }
    if has_head(header.directory):
        facts |= _heads(header.directory)
    return {**facts, "provenance": dict(header.provenance)}


def _heads(directory: Path) -> dict[str, Any]:
    """What the heads of a fine-tuned model give."""
    if read_head_header(directory)["version"] == 1:
        head = load_head(directory, None)
        return {"labels" if head.of == "cells" else "gene_labels": head.labels}
    columns: dict[str, Any] = {}
    for each in load_heads(directory):
        if isinstance(each, NumberHead):
            columns[each.target] = list(each.range)
        else:
            columns[name_of(each)] = each.labels
    return {"columns": columns}


def _species(table: GeneTable) -> dict[str, str]:
    """Name the species of the genes, where they have ids that say it."""
    genes = [name for name in table.ids if name[0] not in "[<"]
    species = species_of(genes)
    return {"species": species} if species else {}


def _shape(config: ModelConfig) -> dict[str, int]:
    length = config.context + config.cls_token + config.sep_token
    return {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "attention_heads": config.num_attention_heads,
        "feed_forward_size": config.intermediate_size,
        "vector_size": config.cell_vector_size or config.hidden_size,
        "vocabulary_size": config.vocab_size,
        "context": config.context,
        "flop_per_cell": flops_per_cell(config, length),
        "flop_per_half_cell": flops_per_cell(config, length // 2),
    }
