"""A scBERT checkpoint in exactly the published format, its weights by formula.

The published file: ``panglao_pretrain.pth``, a torch archive of ``epoch``, ``model_state_dict``,
``optimizer_state_dict``, ``scheduler_state_dict`` and ``losses``; 91 tensors at full size, gene
vectors in float64. The order of genes is not in it; ``genes.txt`` beside it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from families.formula import fill

from cellscribe.cells.gene_names.genes import human_genes


@dataclass(frozen=True)
class Shape:
    """Size of a checkpoint."""

    genes: int
    width: int
    depth: int
    heads: int
    head_width: int = 64
    features: int = 266


SHAPES = {
    "small": Shape(genes=96, width=40, depth=2, heads=2),
    "full": Shape(genes=16_906, width=200, depth=6, heads=10),
}


def published_state(shape: Shape) -> dict[str, torch.Tensor]:
    """The tensors, under their published names."""
    width, inner = shape.width, shape.heads * shape.head_width
    state = {
        "token_emb.weight": fill("token_emb.weight", (7, width), 1.0),
        "pos_emb.emb.weight": fill("pos_emb.emb.weight", (shape.genes + 1, width), 1.0).double(),
        "performer.calls_since_last_redraw": torch.tensor(17),
    }
    state["pos_emb.emb.weight"][-1] = 0.0

    def linear(name: str, n_out: int, n_in: int, scale: float, *, bias: bool = True) -> None:
        state[f"{name}.weight"] = fill(f"{name}.weight", (n_out, n_in), scale)
        if bias:
            state[f"{name}.bias"] = fill(f"{name}.bias", (n_out,))

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1.0 + fill(f"{name}.weight", (width,), 0.2)
        state[f"{name}.bias"] = fill(f"{name}.bias", (width,), 0.2)

    for i in range(shape.depth):
        layer = f"performer.net.layers.{i}"
        norm(f"{layer}.0.norm")
        projection = f"{layer}.0.fn.fast_attention.projection_matrix"
        # entries of variance 1, as drawn ones have
        state[projection] = fill(projection, (shape.features, shape.head_width), 3**0.5)
        # queries and keys short enough that features stand well above epsilon
        for x, scale in (("q", 1.2), ("k", 1.2), ("v", 1.0)):
            spread = scale / width**0.5
            linear(f"{layer}.0.fn.to_{x}", inner, width, spread, bias=False)
        linear(f"{layer}.0.fn.to_out", width, inner, 1 / inner**0.5)
        norm(f"{layer}.1.norm")
        linear(f"{layer}.1.fn.fn.w1", 4 * width, width, 1 / width**0.5)
        linear(f"{layer}.1.fn.fn.w2", width, 4 * width, 1 / width**0.5)
    norm("norm")
    linear("to_out", 7, width, 0.05)
    return state


def convolution(shape: Shape, h_dim: int = 128) -> dict[str, torch.Tensor]:
    """The published classifier's tensors but for its last layer, under their published names."""
    sizes = {
        "conv1": (1, 1, 1, shape.width),
        "fc1": (512, shape.genes + 1),
        "fc2": (h_dim, 512),
    }
    state = {}
    for name, size in sizes.items():
        state[f"{name}.weight"] = fill(f"{name}.weight", size, 2 / size[-1] ** 0.5)
        state[f"{name}.bias"] = fill(f"{name}.bias", size[:1], 0.3)
    return state


def published_genes(shape: Shape) -> list[str]:
    """A made-up order of genes: the first symbols of the human genes that come with cellscribe."""
    symbols = human_genes()["symbol"]
    return sorted(set(symbols[symbols != ""]))[: shape.genes]


def write_published(
    folder: Path, size: str = "small", *, genes: list[str] | None = None, classes: int = 0
) -> tuple[Path, Path]:
    """Write a checkpoint and a list of its genes; returns both paths.

    With `classes` it is a classifier of so many, as ``finetune.py`` saves it.
    """
    shape = SHAPES[size]
    folder.mkdir(parents=True, exist_ok=True)
    state = published_state(shape)
    if classes:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("to_out.")}
        state |= {f"to_out.{name}": tensor for name, tensor in convolution(shape).items()}
        state["to_out.fc3.weight"] = fill("fc3.weight", (classes, 128), 0.3)
        state["to_out.fc3.bias"] = fill("fc3.bias", (classes,), 0.3)
    first = "token_emb.weight"
    torch.save(
        {
            "epoch": 17,
            "model_state_dict": state,
            "optimizer_state_dict": {
                "state": {0: {"step": 1, "exp_avg": torch.zeros_like(state[first])}},
                "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
            },
            "scheduler_state_dict": {"cycle": 0, "step_in_cycle": 2, "min_lr": 1e-6},
            "losses": np.float64(0.25),
        },
        folder / "panglao_pretrain.pth",
    )
    listed = folder / "genes.txt"
    listed.write_text("\n".join(genes or published_genes(shape)) + "\n", encoding="utf-8")
    return folder / "panglao_pretrain.pth", listed
