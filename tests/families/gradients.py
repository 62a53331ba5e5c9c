"""One step of a fine-tuning in numbers: the loss, and of each tensor's gradient two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from families.formula import fill

CLASSES = 3


def head(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear head, by formula."""
    return fill("head.weight", (CLASSES, width), 1.0), fill("head.bias", (CLASSES,), 0.5)


def loss_of(vectors_BD: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of that head, the cells being of the classes 0, 1, 2, 0, ..."""
    weight, bias = head(vectors_BD.shape[1])
    truth = torch.arange(len(vectors_BD)) % CLASSES
    return F.cross_entropy(vectors_BD @ weight.T + bias, truth)


def summary(loss: torch.Tensor, gradients: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Loss, and of each gradient its norm and its product with a tensor of the formula."""
    told = {}
    for name, gradient in sorted(gradients.items()):
        probe = fill(f"probe {name}", tuple(gradient.shape), 1.0).double()
        found = gradient.double()
        told[name] = [
            float(f"{x:.7g}") for x in (found.norm().item(), (found * probe).sum().item())
        ]
    return {"loss": float(f"{loss.item():.8g}"), "gradients": told}


def far(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Largest difference by tensor, over the norm of the gradient; and that of the loss."""
    assert ours["gradients"].keys() == theirs["gradients"].keys()
    out = {"loss": abs(ours["loss"] - theirs["loss"]) / theirs["loss"]}
    for name, (norm, product) in theirs["gradients"].items():
        mine = ours["gradients"][name]
        scale = max(norm, 1e-7)
        out[name] = max(abs(mine[0] - norm), abs(mine[1] - product)) / scale
    return out
