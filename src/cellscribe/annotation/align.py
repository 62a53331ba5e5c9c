"""Bring the vectors of another study to those of a reference, without any label of theirs.

- ``center``: the means of the two become one. ``scale``: their deviations too.
- ``mnn``: the whole set is moved by the mean difference between mutual nearest neighbours
  (Haghverdi et al. 2018, doi:10.1038/nbt.4091), in a few rounds. Cells of a type that the other
  side lacks have no such neighbours, so other shares of types do not move the rest, as they do
  with the two others.

``auto`` takes ``mnn`` where the cells are shifted against the reference, half of them have mutual
nearest neighbours, they come to lie near more than one type, and aligning does no harm to the
groups that were held out of it; else none (`calls`). Distances of aligned cells are measured in
units of the spread of their nearest quarter, within bounds: cells of another assay are noisier
everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellscribe.config.annotate import Align

ROUNDS = 5
NEIGHBORS = 20
MOST_CELLS = 2_000
"""Cells of either side that are looked at."""
NEAR, MOST_SPREAD = 0.25, 1.6
"""Quantile of the distances that tells of noise, and the most that they are divided by."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """A change of standardised vectors: times `factor`, plus `offset`."""

    name: str
    factor: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    """``[D]`` each."""
    paired: float = 1.0
    """Share of the cells that had mutual nearest neighbours; 1 where none were asked for."""
    spread: float = 1.0
    """Distances of aligned cells are divided by it."""

    def apply(self, standard: Floats) -> npt.NDArray[np.float64]:
        """``[B, D]`` standardised by the reference, to the same, aligned."""
        return np.asarray(standard, np.float64) * self.factor + self.offset


def no_alignment(width: int) -> Alignment:
    """Vectors as they are."""
    return Alignment(name="none", factor=np.ones(width), offset=np.zeros(width))


def fit_alignment(name: Align, standard: Floats, reference: Floats) -> Alignment:
    """Learn how to bring cells to a reference.

    Parameters
    ----------
    name
        none, center, scale or mnn.
    standard
        ``[B, D]`` vectors of the cells, standardised by the reference.
    reference
        ``[R, D]`` standardised vectors of the reference.
    """
    width = standard.shape[1]
    factor, offset, paired = np.ones(width), np.zeros(width), 1.0
    if name == "scale":
        deviation = standard.std(axis=0)
        factor = reference.std(axis=0) / np.where(deviation > 0, deviation, 1.0)
    if name in ("center", "scale"):
        offset = reference.mean(axis=0) - factor * standard.mean(axis=0)
    if name == "mnn":
        offset, paired = _neighbours_offset(standard, reference)
    return Alignment(name=name, factor=factor, offset=offset, paired=paired)


def _neighbours_offset(
    standard: Floats, reference: Floats
) -> tuple[npt.NDArray[np.float64], float]:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    cells, others = (
        each[rng.permutation(len(each))[:MOST_CELLS]] for each in (standard, reference)
    )
    search = NearestNeighbors(metric="cosine").fit(others)
    offset, paired = np.zeros(standard.shape[1]), 0.0
    k = min(NEIGHBORS, len(cells), len(others))
    for _ in range(ROUNDS):
        moved = cells + offset
        here = search.kneighbors_graph(moved, k)
        back = NearestNeighbors(metric="cosine").fit(moved).kneighbors_graph(others, k)
        mine, theirs = here.multiply(back.T).nonzero()
        paired = len(np.unique(mine)) / len(cells)
        if not len(mine):
            break
        offset = offset + (others[theirs] - moved[mine]).mean(axis=0)
    return offset, paired


def spread_of(distance: Floats, held_out: Floats) -> float:
    """How many times as far as held-out cells the nearest quarter of aligned cells lies.

    Between 1 and `MOST_SPREAD`: beyond that it is no noise but another tissue.
    """
    near = float(np.quantile(distance, NEAR) / np.quantile(held_out, NEAR))
    return float(np.clip(near, 1.0, MOST_SPREAD))
