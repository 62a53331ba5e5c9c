"""A checkpoint in scGPT's published format, its weights by formula, and cells to read with it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from families.formula import fill
from scipy.sparse import csr_matrix

SPECIALS = ("<pad>", "<cls>", "<eoc>")
MADE_NAMES = tuple(f"GENE{i}" for i in range(1_500))
SHAPES = {
    "small": {"embsize": 32, "nheads": 2, "d_hid": 48, "nlayers": 2},
    "full": {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12},
}
ARGS: dict[str, Any] = {
    "pad_token": "<pad>",
    "input_style": "binned",
    "input_emb_style": "continuous",
    "n_bins": 51,
    "max_seq_len": 1200,
    "training_tasks": "both",
    "fast_transformer": True,
    "dropout": 0.2,
    "n_layers_cls": 3,
    "mask_value": -1,
    "pad_value": -2,
    "no_cls": True,
    "MVC": True,
}
"""Of args.json of the whole-human model, what says how it computes."""
ATTENTION = {
    "flash": ("self_attn.Wqkv.", "self_attn.out_proj."),
    "impl": ("self_attn._impl.Wqkv.", "self_attn._impl.out_proj."),
    "torch": ("self_attn.in_proj_", "self_attn.out_proj."),
}
Size = Literal["small", "full"]


def shapes(size: Size, n_tokens: int, attention: str = "flash") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of ``best_model.pt``."""
    width, hidden = SHAPES[size]["embsize"], SHAPES[size]["d_hid"]
    out: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (n_tokens, width)}

    def norm(name: str) -> None:
        out[f"{name}.weight"] = out[f"{name}.bias"] = (width,)

    def linear(name: str, n_in: int, n_out: int) -> None:
        out[f"{name}weight"], out[f"{name}bias"] = (n_out, n_in), (n_out,)

    norm("encoder.enc_norm")
    linear("value_encoder.linear1.", 1, width)
    linear("value_encoder.linear2.", width, width)
    norm("value_encoder.norm")
    qkv, out_proj = ATTENTION[attention]
    for layer in range(SHAPES[size]["nlayers"]):
        prefix = f"transformer_encoder.layers.{layer}."
        linear(prefix + qkv, width, 3 * width)
        linear(prefix + out_proj, width, width)
        linear(f"{prefix}linear1.", width, hidden)
        linear(f"{prefix}linear2.", hidden, width)
        norm(f"{prefix}norm1")
        norm(f"{prefix}norm2")
    linear("decoder.fc.0.", width, width)
    linear("decoder.fc.2.", width, width)
    linear("decoder.fc.4.", width, 1)
    linear("mvc_decoder.gene2query.", width, width)
    out["mvc_decoder.W.weight"] = (width, width)
    out["flag_encoder.weight"] = (2, width)
    return out


def weights(size: Size, n_tokens: int, attention: str = "flash") -> dict[str, torch.Tensor]:
    """The state dict; the same numbers whatever the attention layers are called."""
    tensors = {}
    plain = shapes(size, n_tokens)
    for name, (key, shape) in zip(shapes(size, n_tokens, attention), plain.items(), strict=True):
        if "norm" in key:
            tensors[name] = fill(key, shape, 0.3) + (1.0 if key.endswith("weight") else 0.0)
        elif key.endswith("bias"):
            tensors[name] = fill(key, shape, 0.2)
        elif "embedding" in key:
            tensors[name] = fill(key, shape, 1.0)
        else:
            # Twice the usual spread, so that attention is far from even.
            tensors[name] = fill(key, shape, 2 * math.sqrt(3 / shape[1]))
    return tensors


def write_published(
    folder: Path,
    size: Size = "small",
    *,
    names: Sequence[str] = MADE_NAMES,
    attention: str = "flash",
) -> Path:
    """Write ``best_model.pt``, ``args.json`` and ``vocab.json`` for genes, special ones last."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {name: token for token, name in enumerate((*names, *SPECIALS))}
    torch.save(weights(size, len(tokens), attention), folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps({**ARGS, **SHAPES[size]}, indent=1))
    # As published, the file is not in the order of the tokens.
    (folder / "vocab.json").write_text(json.dumps(dict(reversed(tokens.items())), indent=2))
    return folder


def whole_human_names(shared_genes: Path) -> tuple[str, ...]:
    """The genes of the whole-human model, in token order, without the special tokens."""
    tokens = json.loads((shared_genes / "scgpt_vocab_60697.json").read_text())
    return tuple(sorted(tokens, key=tokens.__getitem__)[: -len(SPECIALS)])


def made_cells() -> csr_matrix:
    """Seven cells over `MADE_NAMES`: one gene, equal counts, few, many, more than are read."""
    row = fill("counts", (7, len(MADE_NAMES)), 1.0).numpy().astype(np.float64)
    share = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 0.85, 0.95])[:, None]
    depth = np.array([1, 1, 2, 4, 8, 30, 400])[:, None]
    drawn = (row + 1) / 2
    counts = np.where(drawn < share, np.ceil(depth * (drawn / np.maximum(share, 0.01)) ** 6), 0)
    counts[0, 77] = 5
    return csr_matrix(counts.astype(np.int64))
