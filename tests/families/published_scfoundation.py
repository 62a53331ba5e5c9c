"""A checkpoint in scFoundation's published format, its weights by formula, and cells to read."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from families.formula import fill
from scipy.sparse import csr_matrix

from cellscribe.config import ImportOptions, ModelOptions
from cellscribe.families.base import Published
from cellscribe.families.scfoundation import checkpoint
from cellscribe.families.scfoundation.network import Scfoundation
from cellscribe.families.source import Source

Size = Literal["small", "full"]
GENE_FILE = "OS_scRNA_gene_index.19264.tsv"
BRANCHES = ("cell", "gene", "rde")
SHARED = ("token_emb.", "pos_emb.")
"""Tensors that all branches have alike: the published ones may or may not, so some should."""
MADE_NAMES = tuple(f"GENE{i}" for i in range(500))
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "bin_num": 12,
        "encoder": {"hidden_dim": 128, "depth": 2, "heads": 2, "dim_head": 64},
        "decoder": {"hidden_dim": 64, "depth": 2, "heads": 1, "dim_head": 64},
    },
    "full": {
        "bin_num": 100,
        "encoder": {"hidden_dim": 768, "depth": 12, "heads": 12, "dim_head": 64},
        "decoder": {"hidden_dim": 512, "depth": 6, "heads": 8, "dim_head": 64},
    },
}
MODEL: dict[str, Any] = {
    "mask_gene_name": False,
    "n_class": 104,
    "pad_token_id": 103,
    "mask_token_id": 102,
    "bin_alpha": 1.0,
    "rawcount": True,
    "model": "mae_autobin",
}
DATA: dict[str, Any] = {
    "num_tokens": 13,
    "bin_type": "auto_bin",
    "value_mask_prob": 0.3,
    "zero_mask_prob": 0.03,
    "replace_prob": 0.8,
    "random_token_prob": 0.1,
    "mask_ignore_token_ids": [0],
    "decoder_add_zero": True,
    "mae_encoder_max_seq_len": 15000,
    "mask_prob": 0.3,
}


def config(size: Size, n_genes: int) -> dict[str, Any]:
    """What a branch says of itself; of the published entries, those that could matter."""
    n_places = n_genes + 2
    shape: dict[str, Any] = copy.deepcopy(SHAPES[size])
    for side, kind in (("encoder", "transformer"), ("decoder", "performer")):
        shape[side] |= {"seq_len": n_places, "module_type": kind, "norm_first": False}
    model = {"gene_num": n_places, "seq_len": n_places, **MODEL, **shape}
    return {
        "model": "mae_autobin",
        "model_config": {"mae_autobin": model},
        "dataset_config": {"rnaseq": copy.deepcopy(DATA)},
    }


def shapes(size: Size, n_genes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a branch, without their prefix."""
    bins, encoder = SHAPES[size]["bin_num"], SHAPES[size]["encoder"]
    decoder, width = SHAPES[size]["decoder"], encoder["hidden_dim"]
    out: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        out[f"{name}.weight"] = out[f"{name}.bias"] = (width,)

    def linear(name: str, n_in: int, n_out: int) -> None:
        out[f"{name}weight"], out[f"{name}bias"] = (n_out, n_in), (n_out,)

    linear("token_emb.mlp.", 1, bins)
    linear("token_emb.mlp2.", bins, bins)
    out["token_emb.emb.weight"] = (bins, width)
    out["token_emb.emb_mask.weight"] = out["token_emb.emb_pad.weight"] = (1, width)
    out["pos_emb.weight"] = (n_genes + 3, width)
    for layer in range(encoder["depth"]):
        prefix = f"encoder.transformer_encoder.{layer}."
        linear(f"{prefix}self_attn.in_proj_", width, 3 * width)
        linear(f"{prefix}self_attn.out_proj.", width, width)
        linear(f"{prefix}linear1.", width, 4 * width)
        linear(f"{prefix}linear2.", 4 * width, width)
        norm(f"{prefix}norm1", width)
        norm(f"{prefix}norm2", width)
    norm("encoder.norm", width)
    out["decoder.performer.calls_since_last_redraw"] = ()
    into, width, head = width, decoder["hidden_dim"], decoder["dim_head"]
    inner = decoder["heads"] * head
    for layer in range(decoder["depth"]):
        prefix = f"decoder.performer.net.layers.{layer}."
        norm(f"{prefix}0.norm", width)
        features = int(head * math.log(head))
        out[f"{prefix}0.fn.fast_attention.projection_matrix"] = (features, head)
        for kind in "qkv":
            linear(f"{prefix}0.fn.to_{kind}.", width, inner)
        linear(f"{prefix}0.fn.to_out.", inner, width)
        norm(f"{prefix}1.norm", width)
        linear(f"{prefix}1.fn.fn.w1.", width, 4 * width)
        linear(f"{prefix}1.fn.fn.w2.", 4 * width, width)
    norm("decoder.norm", width)
    linear("decoder_embed.", into, width)
    norm("norm", width)
    linear("to_final.", width, 1)
    return out


def weights(size: Size, n_genes: int, branch: str) -> dict[str, torch.Tensor]:
    """The state dict of a branch."""
    tensors = {}
    for name, shape in shapes(size, n_genes).items():
        key = name if name.startswith(SHARED) else f"{branch}.{name}"
        if name.endswith("redraw"):
            tensor = torch.tensor(7)
        elif "norm" in name:
            tensor = fill(key, shape, 0.3) + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            tensor = fill(key, shape, 0.2)
        elif ".mlp" in name:
            # Values of 0 to 10 are to fall into different bins, and softly.
            tensor = fill(key, shape, 0.3 if shape[1] == 1 else math.sqrt(3 / shape[1]))
        elif "emb." in name or name == "pos_emb.weight":
            tensor = fill(key, shape, 1.0)
        elif "projection" in name:
            tensor = fill(key, shape, math.sqrt(3))
        else:
            # Twice the usual spread, so that attention is far from even.
            tensor = fill(key, shape, 2 * math.sqrt(3 / shape[1]))
        tensors[f"model.{name}"] = tensor
    return tensors


def write_published(
    folder: Path,
    size: Size = "small",
    *,
    names: Sequence[str] = MADE_NAMES,
    branches: Sequence[str] = BRANCHES,
) -> Path:
    """Write ``models.ckpt`` and the gene list for these genes."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        branch: {
            "config": config(size, len(names)),
            "state_dict": weights(size, len(names), branch),
        }
        for branch in branches
    }
    torch.save(data, folder / "models.ckpt")
    lines = [f"{name}\t{place}" for place, name in enumerate(names)]
    (folder / GENE_FILE).write_text("\n".join(("gene_name\tindex", *lines)) + "\n")
    return folder


def published_names(shared_genes: Path) -> tuple[str, ...]:
    """The genes of the published model, in order."""
    lines = (shared_genes / GENE_FILE).read_text().splitlines()[1:]
    return tuple(line.split("\t")[0] for line in lines)


def made_cells() -> csr_matrix:
    """Five cells over `MADE_NAMES`: two counts, few genes, many, all, one count among no others."""
    drawn = (fill("counts", (5, len(MADE_NAMES)), 1.0).numpy().astype(np.float64) + 1) / 2
    share = np.array([0.0, 0.02, 0.2, 1.0, 0.0])[:, None]
    depth = np.array([1, 2, 40, 3, 1])[:, None]
    counts = np.where(drawn < share, np.ceil(depth * drawn**6 + 1e-9), 0)
    counts[0, 77] = 2
    counts[4, 30] = 1
    return csr_matrix(counts.astype(np.int64))


def read(source: Path, **options: Any) -> Published:
    """Read a published checkpoint."""
    return checkpoint.read_published(Source(source), ImportOptions(**options))


def load(read: Published, **options: Any) -> Scfoundation:
    """Make a model of what was read."""
    model = checkpoint.load(read.settings, read.tensors, read.table, ModelOptions(**options))
    assert isinstance(model, Scfoundation)
    return model


def relative(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """Greatest difference over the greatest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
