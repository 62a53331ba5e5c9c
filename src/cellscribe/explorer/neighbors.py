"""The nearest cells of each cell, ready for a page.

Vectors are standardised and compared by cosine, as `index` does. Up to `EXACT_CELLS` the lists are
exact. All pairs of more cells take many minutes, so pynndescent (which umap-learn brings) makes the
lists, shorter ones, and the page says how many of the exact neighbors are in them. A table of
principal components that the browser would search was tried: of 200,000 cells, sixteen components
of 8 bits took three quarters of the room of ten neighbors, and found 23% of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.errors import InputError
from cellscribe.explorer.packing import Packing, codes_of
from cellscribe.index.nearest import nearest_in, unit
from cellscribe.report.umap import EXTRA, finite_rows

NEIGHBORS, FEWER = 15, 10
"""Cells of a list that is exact, and of one that is not."""
EXACT_CELLS = 50_000
QUERIES, ROWS = 1_024, 32_768
TRIED = 200
"""Cells by which lists that are not exact are judged."""
BASE = 65_536
"""Places are stored as their remainder and quotient by this: the quotients of 200,000 cells are
two bits each, which the packing takes no more room for."""

Matrix = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def pack_neighbors(
    vectors: Matrix, packing: Packing, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any] | None:
    """Pack what a page needs to show the nearest cells.

    Parameters
    ----------
    vectors
        ``[n, D]``; rows that are not finite have no neighbors.
    packing
        Takes the numbers.
    seed
        Of the search that is not exact, and of the cells by which it is judged.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    dict or None
        What the page needs to know; None if fewer than two cells have vectors.

    Raises
    ------
    InputError
        There are more than `EXACT_CELLS` cells, and pynndescent is not installed.
    """
    usable = np.flatnonzero(finite_rows(vectors))
    if len(usable) < 2:
        return None
    rows, about = _standard(vectors[usable]), {}
    if len(vectors) <= EXACT_CELLS:
        k = min(NEIGHBORS, len(usable) - 1)
        near = _exact(rows, np.arange(len(rows)), k, progress)
    else:
        k = min(FEWER, len(usable) - 1)
        near = _approximate(rows, k, seed)
        tried = np.random.default_rng(seed).choice(len(rows), min(TRIED, len(rows)), replace=False)
        exact = _exact(rows, tried, k)
        pairs = zip(exact, near[tried], strict=True)
        shared = [len(np.intersect1d(a, b)) for a, b in pairs]
        about = {"recall": float(np.mean(shared) / k), "tried": len(tried)}
    n = len(vectors)
    found = np.full((n, k), n, np.int64)
    found[usable] = usable[near]
    return {
        "k": k,
        "base": BASE,
        "low": packing.add(codes_of(found % BASE, BASE - 1)),
        "high": packing.add(codes_of(found // BASE, n // BASE)),
        **about,
    }


def _standard(vectors: Matrix) -> Matrix:
    mean, scale = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0
    return unit(vectors, {"kind": "standardised", "mean": mean.tolist(), "scale": scale.tolist()})


def _exact(rows: Matrix, queries: Places, k: int, progress: Progress | None = None) -> Places:
    """The `k` nearest others of some rows, ``[len(queries), k]``."""
    found = np.empty((len(queries), k), np.int64)
    blocks = [(first, rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]
    places = np.arange(len(rows))
    for start in range(0, len(queries), QUERIES):
        asked = queries[start : start + QUERIES]
        _, found[start : start + QUERIES] = nearest_in(rows[asked], blocks, k, (asked, places))
        if progress is not None:
            progress(min(start + QUERIES, len(queries)), len(queries))
    return found


def _approximate(rows: Matrix, k: int, seed: int) -> Places:
    """About the `k` nearest others of all rows, ``[n, k]``."""
    try:
        from pynndescent import NNDescent
    except ModuleNotFoundError as error:
        raise InputError(
            f"neighbors of more than {EXACT_CELLS:,} cells need {error.name}; {EXTRA}"
        ) from None
    # of twice as many the first are found far better
    made = NNDescent(rows, metric="dot", n_neighbors=2 * k + 1, random_state=seed, n_jobs=1)
    listed = np.asarray(made.neighbor_graph[0], np.int64)
    others = listed != np.arange(len(rows))[:, None]
    order = np.argsort(~others, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(listed, order, axis=1)
