"""AdamW, its schedule, and the scaling that keeps fp16 gradients from vanishing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cellscribe.config import TrainOptions

LARGEST_SCALE = 2.0**24
GROW_AFTER = 2_000
"""Finite steps in a row after which the loss scale doubles."""


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """Make AdamW over `decay_groups`."""
    return torch.optim.AdamW(
        decay_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=True,
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters: weights of linear layers decay, all others do not."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {
            "params": [p for name, p in trained if decays(name) == decayed],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for decayed in (True, False)
    ]


def decays(name: str) -> bool:
    """Tell whether weight decay applies to a parameter of this name."""
    return name.endswith("weight") and not any(
        part in name for part in ("norm", "genes", "positions", "token_types")
    )


def learning_rate(step: int, options: TrainOptions) -> float:
    """Return the rate of a step, from 1 on: a linear warm-up, then a decay to `last_rate`."""
    if step <= options.warmup_steps:
        return options.learning_rate * step / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.schedule_steps - options.warmup_steps)
    left = 1 - done if options.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return options.learning_rate * (options.last_rate + (1 - options.last_rate) * left)


@dataclass(kw_only=True)
class LossScale:
    """Factor of the loss before the backward pass; gradients are divided by it afterwards.

    Halved when a gradient is not finite, doubled after `GROW_AFTER` steps without that
    (Micikevicius et al. 2018, arXiv:1710.03740). `torch.amp.GradScaler` is not used, because the
    loop computes the norm of the gradient anyway, also over shards, and skips a step by it in every
    precision.
    """

    scale: float = 1.0
    finite: int = 0
    moving: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """Make a scale that starts at 2^16 for fp16, and stays 1 for other precisions."""
        return cls(scale=2.0**16, moving=True) if dtype == torch.float16 else cls()

    def update(self, finite: bool) -> bool:
        """Update after a step; return whether the scale explains that it was not finite."""
        if not self.moving:
            return False
        self.finite = self.finite + 1 if finite else 0
        if not finite and self.scale > 1:
            self.scale /= 2
            return True
        if self.finite == GROW_AFTER:
            self.scale, self.finite = min(LARGEST_SCALE, self.scale * 2), 0
        return False

    def state_dict(self) -> dict[str, float]:
        """Return scale and number of finite steps."""
        return {"scale": self.scale, "finite": self.finite}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned."""
        if self.moving:
            self.scale, self.finite = float(state["scale"]), int(state["finite"])


def clip_gradients(model: nn.Module, scale: float, clip: float) -> torch.Tensor:
    """Divide gradients by `scale`, clip them to the norm `clip`; return the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):  # gradients are in shards
        norm = norm.full_tensor()
    norm = norm / scale
    factor = (clip / (norm + 1e-6)).clamp(max=1.0) / scale
    torch._foreach_mul_(gradients, factor)
    return norm
