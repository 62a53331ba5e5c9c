"""Batches of cells of similar length, so that no time is spent on padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def length_buckets(
    lengths: npt.NDArray[np.int64], token_budget: int
) -> list[npt.NDArray[np.int64]]:
    """Cut cells, longest first, into batches of at most `token_budget` padded tokens.

    Parameters
    ----------
    lengths
        ``[B]`` tokens of each cell.
    token_budget
        Most tokens of a batch, counted as if every cell were as long as its longest one. A single
        cell that is longer gets a batch of its own.

    Returns
    -------
    list
        Row numbers of each batch. Every row is in exactly one; rows of equal length keep their
        order, so the batches depend on nothing but the lengths.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, token_budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
