"""Names and layout of Megatron's BERT, turned into Hugging Face's, which our checkpoints have.

Three spellings are read: NeMo 1 (``model.language_model.encoder.layers.0...query_key_value``),
Megatron-core's (norms of their own, or inside the next product as Transformer Engine has them), and
the latter as NeMo 2 saves it, layers stacked along a first axis. All become Megatron-core's names
without Transformer Engine, and what these must be, no more and no less, follows from the sizes.

- query, key and value are one product, its rows by head: head 0's q, k, v, then head 1's.
- Megatron pads the vocabulary to a multiple of 128 a rank; rows after the last token are dropped.
- norms come before each branch, and one after the last block; our network has this with
  ``norm = "pre"``, and keeps the last one where Hugging Face has the embeddings' norm.

Letters: ``D`` width, ``H`` heads, ``K`` head width, ``F`` feed-forward width, ``P`` positions,
``V`` rows of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

import torch

from cellscribe.errors import InputError
from cellscribe.families.weights import as_float

HEAD_WIDTH = 64
"""Of every published model; used where no config says how many heads there are."""
PADDED_TO = 128
RANKS = (1, 2, 4, 8)
"""Tensor-parallel ranks that a vocabulary may have been padded for."""
RENAMED = {
    # NeMo 1
    "self_attention.query_key_value.": "self_attention.linear_qkv.",
    "self_attention.dense.": "self_attention.linear_proj.",
    "post_attention_layernorm.": "pre_mlp_layernorm.",
    "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
    "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
    "lm_head.layernorm.": "lm_head.layer_norm.",
    "lm_head.bias": "output_layer.bias",
    "lm_head.weight": "output_layer.weight",
    # Transformer Engine
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
"""Pieces of other spellings -> Megatron-core's."""
IN_A_LAYER = {
    "input_layernorm": "attention.output.LayerNorm",
    "self_attention.linear_proj": "attention.output.dense",
    "pre_mlp_layernorm": "output.LayerNorm",
    "mlp.linear_fc1": "intermediate.dense",
    "mlp.linear_fc2": "output.dense",
}
OUTSIDE = {
    "embedding.word_embeddings": "bert.embeddings.word_embeddings",
    "embedding.position_embeddings": "bert.embeddings.position_embeddings",
    "encoder.final_layernorm": "bert.embeddings.LayerNorm",
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
    "output_layer": "cls.predictions",
}
"""Megatron-core's modules -> Hugging Face's."""
QKV = "self_attention.linear_qkv"
TABLE, OUTPUT_TABLE = "embedding.word_embeddings.weight", "output_layer.weight"
_PREFIX = re.compile(r"^(?:(?:model|module)\.)+(?:language_model\.)?")
_LAYER = re.compile(r"encoder\.layers\.(?:(\d{1,6})\.)?(.+)\.(weight|bias)")
_NO_WEIGHTS = re.compile(r"_extra_state|^optimizer\.|rng_state|rerun_state")
_OTHER_HEAD = re.compile(r"(?:^|\.)(?:regression|classification)_head\.")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model, read from its tensors."""

    layers: int
    width: int
    ffn: int
    positions: int
    rows: int
    """Rows of the vocabulary as stored, with padding."""


def holds_weights(key: str) -> bool:
    """Whether a key is the encoder's or the masked-gene head's, not state or another head's."""
    return not (_NO_WEIGHTS.search(key) or _OTHER_HEAD.search(key))


def core_name(key: str) -> str:
    """Megatron-core's name of a tensor, from any of the spellings."""
    name = _PREFIX.sub("", key)
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def to_core(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give tensors Megatron-core's names, one for each layer where they are stacked."""
    core = {}
    for key, tensor in tensors.items():
        name = core_name(key)
        stacked = _LAYER.fullmatch(name)
        if stacked and stacked[1] is None:
            for layer, part in enumerate(tensor):
                core[f"encoder.layers.{layer}.{stacked[2]}.{stacked[3]}"] = part
        else:
            core[name] = tensor
    return core


def measure(core: Mapping[str, torch.Tensor], where: str) -> Sizes:
    """Read the sizes of a model from its tensors.

    Raises
    ------
    InputError
        A tensor that is needed for this is missing.
    """
    layers = {int(match[1]) for name in core if (match := _LAYER.fullmatch(name)) and match[1]}
    fc1 = "encoder.layers.0.mlp.linear_fc1.weight"
    positions = "embedding.position_embeddings.weight"
    for name in (TABLE, positions, fc1):
        if name not in core or core[name].ndim != 2:
            raise InputError(
                f"{where}: no {name} (or its like in other spellings); not a Megatron BERT, or not "
                "all of it"
            )
    if layers != set(range(len(layers))):
        raise InputError(f"{where}: some of its layers are missing; copy or download it again")
    return Sizes(
        layers=len(layers),
        width=core[TABLE].shape[1],
        ffn=core[fc1].shape[0],
        positions=core[positions].shape[0],
        rows=core[TABLE].shape[0],
    )


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of these sizes consists of."""
    width, ffn = sizes.width, sizes.ffn
    found: dict[str, tuple[int, ...]] = {
        TABLE: (sizes.rows, width),
        "embedding.position_embeddings.weight": (sizes.positions, width),
        "output_layer.bias": (sizes.rows,),
    }
    products = {"lm_head.dense": (width, width)}
    norms = ["encoder.final_layernorm", "lm_head.layer_norm"]
    for layer in range(sizes.layers):
        stem = f"encoder.layers.{layer}"
        products[f"{stem}.{QKV}"] = (3 * width, width)
        products[f"{stem}.self_attention.linear_proj"] = (width, width)
        products[f"{stem}.mlp.linear_fc1"] = (ffn, width)
        products[f"{stem}.mlp.linear_fc2"] = (width, ffn)
        norms += [f"{stem}.input_layernorm", f"{stem}.pre_mlp_layernorm"]
    for name, (rows, columns) in products.items():
        found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in norms:
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return found


def split_heads(packed: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Query, key and value out of a product whose rows go by head.

    Parameters
    ----------
    packed
        ``[H * 3 * K, ...]``: weight ``[3 D, D]`` or bias ``[3 D]``.
    heads
        ``H``.

    Returns
    -------
    Three tensors ``[H * K, ...]``.
    """
    by_head = packed.unflatten(0, (heads, 3, -1))
    return tuple(part.flatten(0, 1) for part in by_head.unbind(1))


def padded_rows(n_tokens: int) -> set[int]:
    """Rows that a vocabulary of so many tokens may be stored with."""
    steps = (PADDED_TO * ranks for ranks in RANKS)
    return {n_tokens, *(ceil(n_tokens / step) * step for step in steps)}


def name_five(names: Iterable[str]) -> str:
    """First five names, in order, for a message."""
    first = sorted(names)
    return ", ".join(first[:5]) + (f" and {len(first) - 5:,} more" if len(first) > 5 else "")


def check(
    core: Mapping[str, torch.Tensor], sizes: Sizes, n_tokens: int, where: str
) -> dict[str, torch.Tensor]:
    """Refuse what is not one whole model of the given vocabulary; drop a tied copy of its table.

    Raises
    ------
    InputError
        Tensors missing, left over or of other shapes; a vocabulary that does not fit.
    """
    core = dict(core)
    untied = core.pop(OUTPUT_TABLE, None)
    if untied is not None and not torch.equal(untied, core[TABLE]):
        raise InputError(
            f"{where}: its head has a gene table of its own ({OUTPUT_TABLE}); only models whose "
            "head shares the embeddings' are read, as all published ones do"
        )
    wanted = shapes(sizes)
    if missing := wanted.keys() - core.keys():
        raise InputError(
            f"{where}: tensors are missing: {name_five(missing)}; copy or download the whole "
            "checkpoint"
        )
    if left := core.keys() - wanted.keys():
        raise InputError(
            f"{where}: tensors that no Geneformer has: {name_five(left)}; it is another model"
        )
    for name, shape in wanted.items():
        if core[name].shape != shape:
            raise InputError(
                f"{where}: {name} has shape {list(core[name].shape)} where its other tensors ask "
                f"for {list(shape)}; its files belong to different models"
            )
    if sizes.rows not in padded_rows(n_tokens):
        raise InputError(
            f"{where}: {sizes.rows:,} rows of gene vectors do not fit a gene table of "
            f"{n_tokens:,} tokens; give this model's own medians by --genes"
        )
    return core


def to_hugging_face(
    core: Mapping[str, torch.Tensor], n_tokens: int, heads: int, where: str
) -> dict[str, torch.Tensor]:
    """Turn Megatron-core's tensors into those of our checkpoints.

    Parameters
    ----------
    core
        From `check`.
    n_tokens
        Tokens of the gene table; rows after them are padding.
    heads
        Attention heads.
    where
        Name of the file in messages.

    Returns
    -------
    Float32 tensors by the names of ``BertForMaskedLM``; its token types have no row.

    Raises
    ------
    InputError
        A tensor holds something else than floating-point numbers.
    """
    out = {"bert.embeddings.token_type_embeddings.weight": torch.empty(0, core[TABLE].shape[1])}
    for name, tensor in core.items():
        stem, _, leaf = name.rpartition(".")
        values = as_float(name, tensor, where)
        if match := _LAYER.fullmatch(name):
            prefix, part = f"bert.encoder.layer.{match[1]}", match[2]
            if part == QKV:
                thirds = zip(("query", "key", "value"), split_heads(values, heads), strict=True)
                for kind, third in thirds:
                    out[f"{prefix}.attention.self.{kind}.{leaf}"] = third
            else:
                out[f"{prefix}.{IN_A_LAYER[part]}.{leaf}"] = values
        else:
            rows = n_tokens if name in (TABLE, "output_layer.bias") else len(values)
            out[f"{OUTSIDE[stem]}.{leaf}"] = values[:rows]
    return out
