"""Tensors of scFoundation's branches in one dict, each that several of them share once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cellscribe.families.scfoundation.config import BRANCHES

if TYPE_CHECKING:
    import torch


def merge(branches: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors of all branches in one dict, those that are the same in several of them once."""
    import torch

    groups: dict[str, list[tuple[list[str], torch.Tensor]]] = {}
    for branch, published in branches.items():
        for name, tensor in published.items():
            for owners, other in groups.setdefault(name, []):
                if torch.equal(tensor, other):
                    owners.append(branch)
                    break
            else:
                groups[name].append(([branch], tensor))
    return {
        f"{'+'.join(owners)}.{name}": tensor
        for name, parts in groups.items()
        for owners, tensor in parts
    }


def split(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by branch, as before `merge`; nothing is copied."""
    branches: dict[str, dict[str, torch.Tensor]] = {}
    for stored, tensor in tensors.items():
        owners, _, name = stored.partition(".")
        for branch in owners.split("+"):
            branches.setdefault(branch, {})[name] = tensor
    return {branch: branches[branch] for branch in BRANCHES if branch in branches}
