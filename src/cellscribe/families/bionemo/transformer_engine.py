"""NVIDIA's export of Geneformer for Transformer Engine: Geneformer, its layers named otherwise.

``config.json`` is Geneformer's own with ``use_te_layers``; tokens, pooling and the place of the
norms (after each branch, whatever their names are) are Geneformer's too, so the import gives a
model of that family. Only query, key and value have to be taken apart, their rows go by head as
Megatron's do. The export has no gene table: Geneformer's dictionaries come by --genes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellscribe.config import ImportOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.families.base import PublishedBert
from cellscribe.families.geneformer import checkpoint
from cellscribe.families.geneformer.dictionaries import read_dictionaries
from cellscribe.families.shards import WEIGHTS, read_weights, without_prefixes
from cellscribe.families.source import Source

if TYPE_CHECKING:
    import torch

FLAG = "use_te_layers"
QKV = "self_attention.qkv"
IN_A_LAYER = {
    "self_attention.proj": "attention.output.dense",
    "layernorm": "attention.output.LayerNorm",
    "layernorm_mlp.fc1": "intermediate.dense",
    "layernorm_mlp.fc2": "output.dense",
    "layernorm_mlp.layer_norm": "output.LayerNorm",
}
"""Transformer Engine's modules -> Hugging Face's."""
_LAYER = re.compile(r"(bert\.encoder\.layer\.\d+)\.(.+)\.(weight|bias)")


def recognise(source: Source) -> bool:
    """Whether it is such an export (or its file of weights), by ``config.json``."""
    path = source.find_sibling("config.json")
    if path is None or source.find(*WEIGHTS) is None:
        return False
    config = source.json(path)
    return isinstance(config, dict) and bool(config.get(FLAG))


def to_hugging_face(
    weights: Mapping[str, torch.Tensor], heads: int, where: str
) -> dict[str, torch.Tensor]:
    """Give tensors the names that Geneformer's own have.

    Parameters
    ----------
    weights
        By Transformer Engine's names.
    heads
        Attention heads.
    where
        Name of the file in messages.

    Raises
    ------
    InputError
        The rows of a product of query, key and value do not fit the number of heads.
    """
    from cellscribe.families.bionemo.megatron import split_heads

    out = {}
    for name, tensor in weights.items():
        match = _LAYER.fullmatch(name)
        if name.endswith("_extra_state"):
            continue
        if match and match[2] == QKV:
            if len(tensor) % (3 * heads):
                raise InputError(
                    f"{where}: {name} has {len(tensor):,} rows, which {heads} heads do not divide; "
                    "config.json and weights belong to different models"
                )
            thirds = zip(("query", "key", "value"), split_heads(tensor, heads), strict=True)
            for kind, third in thirds:
                out[f"{match[1]}.attention.self.{kind}.{match[3]}"] = third
        elif match and match[2] in IN_A_LAYER:
            out[f"{match[1]}.{IN_A_LAYER[match[2]]}.{match[3]}"] = tensor
        else:
            out[name] = tensor
    return out


def read_published(source: Source, options: ImportOptions) -> PublishedBert:
    """Read an export.

    Raises
    ------
    InputError
        Files missing, damaged or not of one model; no gene dictionaries, or another model's.
    """
    config_path, path = source.find_sibling("config.json"), source.find(*WEIGHTS)
    assert config_path is not None
    assert path is not None
    data: dict[str, Any] = source.json(config_path)
    n_tokens = data.get("vocab_size")
    if not isinstance(n_tokens, int):
        raise InputError(f"{config_path}: no vocab_size; copy or download it again")
    found = read_dictionaries(source.folder, options.genes, n_tokens)
    config = checkpoint.model_config(data, found, str(config_path))
    weights = without_prefixes(read_weights(path), str(path))
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
    renamed = to_hugging_face(weights, config.num_attention_heads, str(path))
    tensors, notes = checkpoint.bert_tensors(renamed, config, str(path))
    if stored != ["float32"]:
        notes.append(f"weights are stored as {', '.join(stored)}; kept here as float32")
    pooling = Pooling(hidden_layer=-2, pool="cls" if config.cls_token else "genes")
    return PublishedBert(
        family="geneformer",
        title=(
            f"Geneformer, exported for Transformer Engine, {config.num_hidden_layers} layers, "
            f"{config.hidden_size} wide, {n_tokens:,} tokens"
        ),
        config=config,
        pooling=pooling,
        tensors=tensors,
        table=found.vocabulary,
        licence=checkpoint.LICENCE,
        origin=f"{checkpoint.ORIGIN}, in NVIDIA's layout for Transformer Engine",
        notes=tuple(notes),
    )
