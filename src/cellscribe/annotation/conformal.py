"""Intervals around predicted numbers, from the errors on groups that were held out.

The interval is the prediction plus and minus one width: a quantile of the absolute errors of cells
by models that did not see their group (split conformal prediction: Lei et al. 2018,
doi:10.1080/01621459.2017.1307116; errors of all folds together, as the "CV" of Barber et al. 2021,
doi:10.1214/20-AOS1965, whose CV+ keeps a model for each fold).

Cells of one group resemble each other, so groups are what is exchangeable, and each counts alike
however many cells it has, as in Dunn, Wasserman and Ramdas (2022, arXiv:1809.07441) and Lee, Barber
and Willett (2023, arXiv:2306.06342). These also count one more group of infinite error, which gives
a guarantee: with fewer than ``coverage / (1 - coverage)`` groups (9 for 90 %) only by an infinite
interval. That part is left out here, so nothing is guaranteed; what is given instead is the share
that each fold's intervals hold when they come from the other folds. Without groups each cell is its
own, there is one more cell, and the quantile is the usual one.

Letters: ``B`` held-out cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Groups = npt.NDArray[np.object_]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Width of an interval, and how often it holds the truth."""

    half_width: float
    """In the unit of the number."""
    coverage: float
    """Share of the cells of a new group that was asked for."""
    reached: float | None
    """Share of held-out cells within intervals from the other folds, groups counting alike; None
    of a single fold."""
    worst_fold: float | None
    """The same of the fold that fared worst."""
    groups: int | None
    """Held-out groups; None where single cells were held out."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def weights_of(groups: Groups | None, n_cells: int) -> npt.NDArray[np.float64]:
    """Weight of each cell, ``[B]``, sum 1: every group has the same."""
    if groups is None:
        return np.full(n_cells, 1 / n_cells)
    _, number, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    return 1 / (len(sizes) * sizes[number.ravel()])


def conformal_quantile(errors: Floats, groups: Groups | None, coverage: float) -> float:
    """Find the width that holds a share of absolute errors.

    Parameters
    ----------
    errors
        ``[B]`` absolute errors of held-out cells.
    groups
        ``[B]``, each of which counts alike; without, each cell counts alike, and a cell of unknown
        error with them.
    coverage
        Wanted share, above 0 and below 1.

    Returns
    -------
    float
        The largest error where no smaller one holds the share.
    """
    order = np.argsort(errors, kind="stable")
    share = np.cumsum(weights_of(groups, len(errors))[order])
    level = coverage if groups is not None else coverage * (len(errors) + 1) / len(errors)
    place = int(np.searchsorted(share, level - 1e-12))
    return float(errors[order][min(place, len(errors) - 1)])


def fit_interval(
    errors: Floats, groups: Groups | None, folds: npt.NDArray[np.integer], coverage: float
) -> Interval:
    """Choose the width of the interval, and try that of each fold by the others.

    Parameters
    ----------
    errors, groups, coverage
        As for `conformal_quantile`.
    folds
        ``[B]`` fold in which the cell was held out.
    """
    numbers = np.unique(folds)
    reached, by_fold = None, []
    if len(numbers) > 1:
        held = np.empty(len(errors), bool)
        for number in numbers:
            here = folds == number
            others = None if groups is None else groups[~here]
            held[here] = errors[here] <= conformal_quantile(errors[~here], others, coverage)
            own = weights_of(None if groups is None else groups[here], int(here.sum()))
            by_fold.append(float(held[here] @ own))
        reached = float(held @ weights_of(groups, len(errors)))
    return Interval(
        half_width=conformal_quantile(errors, groups, coverage),
        coverage=coverage,
        reached=reached,
        worst_fold=min(by_fold, default=None),
        groups=None if groups is None else len(np.unique(groups.astype(str))),
    )
