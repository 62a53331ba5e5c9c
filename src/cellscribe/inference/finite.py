"""Vectors that are not finite are never given out: which cells, and where in the model it began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.tokens import CellTokens
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import torch

    from cellscribe.config import Precision
    from cellscribe.families.base import CellModel

SHOWN = 5
"""Cells that a message names."""
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def check_finite(
    vectors: npt.NDArray[np.floating],
    cells: CellTokens,
    first: int,
    model: CellModel,
    precision: Precision,
) -> None:
    """Refuse vectors with a value that is no finite number.

    Parameters
    ----------
    vectors
        ``[B, D]`` of a block.
    cells
        What they were made from.
    first
        Row of the input at which the block begins.
    model, precision
        What made them.

    Raises
    ------
    InputError
        A vector is not finite; the message names cells, and the weights or the layer at fault.
    """
    # the sum is finite if all are, or overflows; one pass, and no array
    with np.errstate(all="ignore"):
        if np.isfinite(vectors.sum(dtype=np.float64)):
            return
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if not len(bad):
        return
    name = damaged_weights(model)
    if name is not None:
        fix = f"{name} of the model holds values that are not finite; copy or import it again"
    else:
        layer = first_layer(model, cells, bad[:1])
        where = f"from {layer} of the model on; " if layer else ""
        fix = f"{where}use --precision float32"
        if precision == "float32":
            fix = f"{where}its weights are damaged or too large; copy or import it again"
    raise InputError(f"the vectors of {which(first + bad)} are not finite, {fix}")


def check_float16(vectors: npt.NDArray[np.floating], first: int) -> None:
    """Refuse vectors that float16 cannot hold.

    Raises
    ------
    InputError
        A value is above 65504.
    """
    if vectors.size and np.abs(vectors).max() > LARGEST_FLOAT16:
        bad = np.flatnonzero((np.abs(vectors) > LARGEST_FLOAT16).any(axis=1))
        raise InputError(
            f"the vectors of {which(first + bad)} have values above {LARGEST_FLOAT16:.0f}, the "
            "largest of float16; use --dtype float32"
        )


def which(rows: npt.NDArray[np.int64]) -> str:
    """Name cells by their rows."""
    shown = ", ".join(f"{row:,}" for row in rows[:SHOWN])
    if len(rows) == 1:
        return f"cell {shown} (counted from 0)"
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"cells {shown}{more} (counted from 0)"


def damaged_weights(model: CellModel) -> str | None:
    """Name the first parameter with a value that is not finite."""
    import torch

    named = [*model.network.named_parameters(), *model.network.named_buffers()]
    for name, values in named:
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            return name
    return None


def first_layer(model: CellModel, cells: CellTokens, rows: npt.NDArray[np.int64]) -> str | None:
    """Name the first layer whose result is not finite, by running rows of a block once more."""
    import torch

    found: list[str] = []

    def hook(name: str) -> Any:
        def look(module: torch.nn.Module, given: Any, made: Any) -> None:
            number = isinstance(made, torch.Tensor) and made.is_floating_point()
            if not found and number and not bool(torch.isfinite(made).all()):
                found.append(name)

        return look

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.network.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            model.embed(cells, rows)
    except InputError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
