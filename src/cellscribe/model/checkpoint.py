"""Checkpoints: directories of ``config.json``, ``model.safetensors``, ``genes.tsv``, ``README.md``.

Names and shapes of the weights are those of Hugging Face's ``BertForMaskedLM``, so
``AutoModelForMaskedLM.from_pretrained(directory)`` reads it as it is. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, Pooling
from cellscribe.errors import InputError
from cellscribe.model.checksums import seal
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.model.metadata import BERTS, Header, config_to_json, read_header
from cellscribe.model.weights import WEIGHTS, Shapes, read_weights

CELL_HEAD = "encoder.cell_head."
"""Prefix of our names of the cell head's parameters; `transformers` has none."""
LAYER = re.compile(r"bert\.encoder\.layer\.([^.]*)\.")
SPARE = re.compile(r"bert\.pooler\.|cls\.seq_relationship\.")
"""Parts of BERT that other programs save too, and that nothing here uses."""
BLOCK_NAMES = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
OUTER_NAMES = {
    "encoder.genes": "bert.embeddings.word_embeddings",
    "encoder.positions": "bert.embeddings.position_embeddings",
    "encoder.token_types": "bert.embeddings.token_type_embeddings",
    "encoder.norm": "bert.embeddings.LayerNorm",
    "encoder.pooler": "bert.pooler.dense",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Contents of a checkpoint directory."""

    name: str
    config: ModelConfig
    vocabulary: Vocabulary
    model: MaskedGeneModel
    provenance: dict[str, Any]
    """Origin of the weights: data, recipe, time, losses."""
    hash: str
    """SHA-256 of the weights file, the first 16 hexadecimal digits."""
    pooling: Pooling = field(default_factory=Pooling)
    family: str = BERTS[0]


def to_hugging_face(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename our state to ``BertForMaskedLM``'s; the fused qkv product becomes three."""
    out = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if name == "bias":
            out["cls.predictions.bias"] = tensor
        elif stem.startswith("encoder.blocks."):
            _, _, layer, part = stem.split(".")
            prefix = f"bert.encoder.layer.{layer}"
            if part == "qkv":
                for kind, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    out[f"{prefix}.attention.self.{kind}.{leaf}"] = third.clone()
            else:
                out[f"{prefix}.{BLOCK_NAMES[part]}.{leaf}"] = tensor
        elif name.startswith(CELL_HEAD):
            out[name.removeprefix("encoder.")] = tensor
        else:
            out[f"{OUTER_NAMES[stem]}.{leaf}"] = tensor
    return out


def from_hugging_face(
    weights: Mapping[str, torch.Tensor], template: Mapping[str, torch.Tensor], where: str
) -> dict[str, torch.Tensor]:
    """Rename ``BertForMaskedLM``'s state to ours, checking every name and shape.

    Raises
    ------
    InputError
        A tensor is missing or has another shape than `template` asks for.
    """
    state = {}
    for name, wanted in template.items():
        parts = []
        for theirs, piece in to_hugging_face({name: wanted}).items():
            there = tuple(weights[theirs].shape) if theirs in weights else None
            _check_shape(theirs, there, tuple(piece.shape), where)
            parts.append(weights[theirs])
        # one part stays where the file is mapped: no copy is made of it
        state[name] = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(wanted.dtype)
    return state


def _check_shape(
    name: str, found: tuple[int, ...] | None, wanted: tuple[int, ...], where: str
) -> None:
    if found is None:
        raise InputError(f"{where}: {name} is missing; copy or download the model again")
    if found != wanted:
        raise InputError(
            f"{where}: {name} has shape {list(found)} where config.json asks for {list(wanted)}; "
            "weights and config belong to different models"
        )


def save_checkpoint(
    directory: Path,
    model: MaskedGeneModel,
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
    *,
    readme: str = "",
    dtype: torch.dtype = torch.float32,
    pooling: Pooling | None = None,
    family: str = BERTS[0],
) -> None:
    """Write a checkpoint directory; it appears whole or not at all.

    Raises
    ------
    InputError
        The directory exists already, or vocabulary and model differ in size.
    """
    directory = Path(directory)
    if directory.exists():
        raise InputError(f"{directory} exists already; name another directory or remove it")
    if len(vocabulary) != model.config.vocab_size:
        raise InputError(
            f"the gene table has {len(vocabulary):,} tokens, the model {model.config.vocab_size:,}"
        )
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        weights = to_hugging_face(model.state_dict())
        save_file(
            {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()},
            partial / WEIGHTS,
            metadata={"format": "pt"},
        )
        # safetensors makes it readable by its owner alone.
        (partial / WEIGHTS).chmod(0o644)
        config = config_to_json(model.config, provenance, pooling, family)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        vocabulary.write(partial / "genes.tsv")
        (partial / "README.md").write_text(readme)
        seal(partial)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_shapes(config: ModelConfig, found: Shapes, where: str) -> None:
    """Refuse a file of weights that is not of a model of this shape, before it is read.

    Raises
    ------
    InputError
        It has other layers, fewer values than the shape needs, or tensors of something else.
    """
    belong = "weights and config belong to different models"
    layers = {match[1] for name in found if (match := LAYER.match(name))}
    if layers != {str(layer) for layer in range(config.num_hidden_layers)}:
        raise InputError(
            f"{where}: holds {len(layers):,} layers, and num_hidden_layers in config.json says "
            f"{config.num_hidden_layers:,}; {belong}"
        )
    width = config.hidden_size
    block = width * (4 * width + 2 * config.intermediate_size)
    needed = config.num_hidden_layers * block + config.vocab_size * width
    values = sum(math.prod(shape) for shape in found.values())
    if needed > values:
        raise InputError(
            f"{where}: holds {values:,} values where config.json asks for {needed:,} at least; "
            f"{belong}"
        )
    with torch.device("meta"):
        wanted = to_hugging_face(MaskedGeneModel(config).state_dict())
    for name, tensor in wanted.items():
        _check_shape(name, found.get(name), tuple(tensor.shape), where)
    for name in found:
        if name not in wanted and not SPARE.match(name):
            raise InputError(f"{where}: holds {name[:200]}, which is none of this model; {belong}")


def load_checkpoint(name: str | Path | Header) -> Checkpoint:
    """Read a checkpoint directory or a bundled model, on the CPU in float32.

    Parameters
    ----------
    name
        A directory, the name of a bundled model, or a header, which is not read again.

    Raises
    ------
    InputError
        Unknown name; config, gene table or weights missing, damaged or not of one model.
    """
    header = name if isinstance(name, Header) else read_header(name)
    path = header.directory / WEIGHTS
    weights, digest = read_weights(
        header.directory, lambda shapes, where: check_shapes(header.config, shapes, where)
    )
    with torch.device("meta"):
        model = MaskedGeneModel(header.config)
    state = from_hugging_face(weights, model.state_dict(), str(path))
    model.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return Checkpoint(
        name=header.name,
        config=header.config,
        vocabulary=header.table,
        model=model.eval(),
        provenance=header.provenance,
        hash=digest,
        pooling=header.pooling,
        family=header.family,
    )
