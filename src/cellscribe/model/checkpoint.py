"""Checkpoints: directories of ``config.json``, ``model.safetensors``, ``genes.tsv``, ``README.md``.

Names and shapes of the weights are those of Hugging Face's ``BertForMaskedLM``, so
``AutoModelForMaskedLM.from_pretrained(directory)`` reads it as it is. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, Pooling
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.model.metadata import BERTS, Header, config_to_json, read_header

WEIGHTS = "model.safetensors"
CELL_HEAD = "encoder.cell_head."
"""Prefix of our names of the cell head's parameters; `transformers` has none."""
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
            if theirs not in weights:
                raise InputError(f"{where}: {theirs} is missing; copy or download the model again")
            if weights[theirs].shape != piece.shape:
                raise InputError(
                    f"{where}: {theirs} has shape {list(weights[theirs].shape)} where config.json "
                    f"asks for {list(piece.shape)}; weights and config belong to different models"
                )
            parts.append(weights[theirs])
        # one part stays where the file is mapped: no copy is made of it
        state[name] = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(wanted.dtype)
    return state


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
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    weights, digest = read_weights(header.directory)
    path = header.directory / WEIGHTS
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


def read_weights(directory: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors of a model directory, and the first 16 digits of the SHA-256 of their file.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    path = directory / WEIGHTS
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return load_file(path), digest
    except FileNotFoundError:
        raise InputError(f"{path}: missing; copy the whole model folder") from None
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}); copy or download the model again") from None
