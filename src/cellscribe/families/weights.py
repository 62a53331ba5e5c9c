"""Published weights, checked by name and shape and brought under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError

if TYPE_CHECKING:
    import torch

SHOWN = 5
"""Names that a message lists."""


def as_float(name: str, tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Return a tensor of ordinary floating-point numbers as float32, contiguous.

    Raises
    ------
    InputError
        It has whole numbers, or floats that need a scale: quantised weights.
    """
    import torch

    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise InputError(f"{where}: {name} is quantised ({tensor.dtype}); import the full weights")
    return tensor.float().contiguous()


def check_names(
    found: Mapping[str, Any], wanted: Mapping[str, Any], where: str, *, spare: str = ""
) -> None:
    """Refuse weights whose names or shapes are not the wanted ones.

    Parameters
    ----------
    found
        Tensors, by name.
    wanted
        Tensors, or anything with a shape.
    where
        Name of the weights in messages.
    spare
        Regular expression of names that may be left over.

    Raises
    ------
    InputError
        A name is missing, left over, or has another shape; the first five are named.
    """
    missing = [key for key in wanted if key not in found]
    left = [key for key in found if key not in wanted and not (spare and re.match(spare, key))]
    for keys, what in ((missing, "missing"), (left, "left over")):
        if keys:
            more = f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
            raise InputError(
                f"{where}: {len(keys):,} tensors are {what}: {', '.join(keys[:SHOWN])}{more}; "
                "is it another model, or not downloaded whole?"
            )
    for key, tensor in wanted.items():
        if tuple(found[key].shape) != tuple(tensor.shape):
            raise InputError(
                f"{where}: {key} has shape {list(found[key].shape)} where the configuration asks "
                f"for {list(tensor.shape)}; weights and configuration belong to different models"
            )


def unstacked(
    state: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]]
) -> dict[str, torch.Tensor]:
    """Bring our tensors back under published names: the inverse of `renamed`."""
    made = {}
    for name, parts in names.items():
        for part, rows in zip(parts, state[name].chunk(len(parts)), strict=True):
            made[part] = rows.contiguous()
    return made


def renamed(
    published: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]], where: str
) -> dict[str, torch.Tensor]:
    """Rename published tensors to ours, float32; rows are stacked if one of ours has several.

    Raises
    ------
    InputError
        Published tensors are missing, or some are left over.
    """
    import torch

    wanted = [name for parts in names.values() for name in parts]
    for found, what in (
        ([name for name in wanted if name not in published], "lacks"),
        (sorted(set(published) - set(wanted)), "also holds"),
    ):
        if found:
            raise InputError(
                f"{where}: {what} {', '.join(found[:5])} ({len(found):,} tensors in all), so it is "
                "not this model, or not whole; give the checkpoint as its makers published it"
            )
    made = {}
    for name, parts in names.items():
        tensors = [as_float(part, published[part], where) for part in parts]
        # stacked by rows, so all but the number of rows must be the same
        kinds = {(tensor.ndim, tensor.shape[1:]) for tensor in tensors}
        if len(tensors) > 1 and (len(kinds) > 1 or tensors[0].ndim == 0):
            raise InputError(
                f"{where}: {', '.join(parts)} do not fit each other; give the checkpoint as its "
                "makers published it"
            )
        made[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return made
