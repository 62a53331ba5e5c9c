"""Where the labels of an index lie, and how a file of new cells is brought to them.

The distance of a cell is that to the type that its neighbours vote for (class-wise Mahalanobis
distance, `annotation.domain`), in units of how far held-out cells of that type lie from it. A file
is moved as a whole (`annotation.align`) before its neighbours are searched for, if that helps:
cells of one type alone, or of another tissue, can be moved onto any type, so `auto` refuses where

- fewer than `PAIRED` of the cells have mutual nearest neighbours in the index,
- fewer than `AGREED` keep the label that they have without the move,
- nearly all are of one label, before or after it, or differ among each other hardly more than cells
  of one type do (`DIVERSE`),
- the nearest quarter still lies more than `SPREAD` times as far as that of held-out cells.

Letters: ``B`` cells, ``D`` width, ``C`` labels, ``S`` cells of the index that are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.align import (
    MOST_CELLS,
    MOST_SPREAD,
    NEAR,
    Alignment,
    fit_alignment,
    no_alignment,
)
from cellscribe.annotation.calls import FEWEST_CELLS, MOST_OF_ONE, PAIRED
from cellscribe.annotation.domain import Types, fit_types, standardisation
from cellscribe.annotation.shift import ERRORS, FAR, INSIDE, WIDE, Shift, Verdict
from cellscribe.config.annotate import Align
from cellscribe.index.nearest import Floats, Places

if TYPE_CHECKING:
    from cellscribe.index.store import Column, Index
    from cellscribe.index.votes import Labels

AGREED = 0.6
"""Share of cells that keep their best label."""
DIVERSE = 0.7
"""Mean square of a file's deviation from its own mean, where that within a type is 1."""
SPREAD = 1.8
"""Times as far as held-out cells, after the move."""
NEARER = 1.05
"""Ratio of distances up to which cells lie as held-out ones do, so that nothing is moved."""
FARTHEST = 1e6
"""Distance of a label that no cell shows where it lies."""
COMPARED = 50_000
"""Cells, drawn at random, that types are learnt from."""

Vote = Callable[[Floats], npt.NDArray[np.int64]]
"""Vectors ``[B, D]`` as the model makes them, to the best label of each."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Standardised vectors of an index, and the types of a column among them; from `fit_frame`."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    """``[D]`` each."""
    types: Types
    drawn: Places
    """``[S]`` rows of the index that were read."""
    standard: npt.NDArray[np.float64]
    """``[S, D]`` their vectors."""

    def standardise(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """``[B, D]``."""
        return (np.asarray(vectors, np.float64) - self.mean) / self.scale

    def restore(self, standard: Floats) -> npt.NDArray[np.float64]:
        """Undo `standardise`."""
        return standard * self.scale + self.mean

    def some(self, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
        """Vectors that cells are aligned to, ``[S', D]``, of `rows` of those that were drawn."""
        found = self.standard if rows is None else self.standard[rows]
        if len(found) <= MOST_CELLS:
            return found
        return found[np.random.default_rng(0).choice(len(found), MOST_CELLS, replace=False)]

    def distance(
        self, vectors: Floats, best: npt.NDArray[np.int64], spreads: Floats
    ) -> npt.NDArray[np.float64]:
        """Distance to the label ``best`` of each cell over that label's spread, ``[B]``."""
        each = self.types.distances(self.standardise(vectors))
        return np.minimum(each[np.arange(len(each)), best] / spreads[best], FARTHEST)


def fit_frame(index: Index, labels: Labels) -> Frame:
    """Read the cells that types are learnt from, the same each time, and learn them."""
    rows = np.flatnonzero(labels.codes >= 0)
    if len(rows) > COMPARED:
        rows = np.sort(np.random.default_rng(0).choice(rows, COMPARED, replace=False))
    vectors = index.rows(rows).astype(np.float64)
    mean, scale = standardisation(vectors)
    standard = (vectors - mean) / scale
    types = fit_types(standard, labels.codes[rows], len(labels.kept))
    return Frame(mean=mean, scale=scale, types=types, drawn=rows, standard=standard)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A file's alignment, and why there is none."""

    alignment: Alignment
    refused: str = ""
    """Why `auto` took none; empty where it took one, or none was needed."""


def align_file(
    frame: Frame,
    vectors: Floats,
    vote: Vote,
    *,
    name: Align = "auto",
    others: npt.NDArray[np.bool_] | None = None,
) -> Moved:
    """Fit what brings a file's cells to an index.

    Parameters
    ----------
    frame
        Of the index.
    vectors
        ``[B, D]`` of the file's cells, or a sample of them.
    vote
        Gives the best label of each.
    name
        What is asked for.
    others
        Of the cells that the frame was learnt from, those that are compared with; all if not given.
    """
    standard = frame.standardise(vectors)
    none = no_alignment(standard.shape[1])
    if name == "none":
        return Moved(alignment=none)
    fitted = fit_alignment("mnn" if name == "auto" else name, standard, frame.some(others))
    if name != "auto":
        return Moved(alignment=fitted)
    if len(standard) < FEWEST_CELLS:
        return Moved(alignment=none, refused=f"they are fewer than {FEWEST_CELLS}")
    before, after = vote(vectors), vote(frame.restore(fitted.apply(standard)))
    placed = standard @ frame.types.axes_DA
    diverse = float(((placed - placed.mean(axis=0)) ** 2).mean())
    one = max(np.bincount(each).max() for each in (before, after)) / len(before)
    agreed = float((before == after).mean())
    refused = ""
    if fitted.paired < PAIRED:
        refused = f"{fitted.paired:.0%} of them have mutual nearest neighbours in it"
    elif one > MOST_OF_ONE or diverse < DIVERSE:
        refused = "they look like cells of one type, which a move brings onto any type"
    elif agreed < AGREED:
        refused = f"{agreed:.0%} of them would keep the label that they have without"
    return Moved(alignment=none if refused else fitted, refused=refused)


def compare_cells(column: Column, distance: Floats, *, grouped: bool) -> Shift:
    """Say how cells lie next to the held-out cells of an index.

    Parameters
    ----------
    column
        What was learnt of those.
    distance
        ``[B]`` of the cells, from `Frame.distance`.
    grouped
        Whether whole groups were held out.
    """
    far = float((distance > column["limit"]).mean())
    ratio = float(np.median(distance))
    most_far, most_ratio = max(column["most_far"], 1 - INSIDE), max(column["most_ratio"], 1.0)
    error = np.sqrt(most_far * (1 - most_far) / len(distance))
    verdict: Verdict = "inside"
    if far > most_far + ERRORS * error:
        if ratio >= FAR * most_ratio:
            verdict = "outside"
        elif ratio > WIDE * most_ratio or far > 2 * most_far:
            verdict = "shifted"
    return Shift(
        cells=len(distance), far=far, most_far=most_far, ratio=ratio, most_ratio=most_ratio,
        verdict=verdict, grouped=grouped,
    )  # fmt: skip


def with_spread(moved: Moved, distance: Floats, near: float, *, asked: bool) -> Moved:
    """Measure how noisy aligned cells are, by which their distances are divided.

    Parameters
    ----------
    moved
        From `align_file`.
    distance
        ``[B]`` of the aligned cells.
    near
        Distance within which the nearest quarter of held-out cells lies.
    asked
        Whether the alignment was asked for, so that it is not refused.
    """
    spread = float(np.quantile(distance, NEAR) / near)
    if spread > SPREAD and not asked:
        why = f"moved, the nearest of them would still lie {spread:.1f} times as far as held-out"
        return Moved(alignment=no_alignment(len(moved.alignment.offset)), refused=f"{why} cells")
    spread = float(np.clip(spread, 1.0, MOST_SPREAD))
    return Moved(alignment=replace(moved.alignment, spread=spread))
