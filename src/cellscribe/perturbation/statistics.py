"""From the moves of single cells to a table of genes: means, rank tests, false discovery rates.

A gene's shifts are tested against those of everything else that was perturbed in the same group of
cells, by the Mann-Whitney test. All genes share one ranking of a group's shifts, so the test of
thousands of genes costs one sort. Cells are taken as independent, which cells of one donor are not:
with many cells a small p is easily had, and the size of a shift says more.

Letters: ``P`` pairs of an edit and a cell, ``E`` edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

NULL = -1
"""Number of the edits that are no one's: random genes, to test against."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shifts:
    """How far cells moved, a row a pair of edit and cell."""

    edit: Integers
    """``[P]`` number of the edit, or `NULL`."""
    cell: Integers
    """``[P]`` row of the cell."""
    shift: Floats
    """``[P]`` 1 - cosine between the cell's vectors without and with the edit."""
    gene_shift: Floats
    """``[P]`` the same of genes that are in both cells, mean over them; NaN if not known."""
    towards_goal: Floats
    """``[P]`` change of the cosine to the goal less that of the cosine to the start; else NaN."""

    @classmethod
    def concatenate(cls, parts: Sequence[Shifts]) -> Shifts:
        """Pairs of all parts, in order."""
        names = [field.name for field in fields(cls)]
        kinds = (np.int64, np.int64, np.float32, np.float32, np.float32)
        return cls(
            **{
                name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
                for name, kind in zip(names, kinds, strict=True)
            }
        )

    def take(self, chosen: npt.NDArray[np.bool_]) -> Shifts:
        """Some of the pairs."""
        return Shifts(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def tabulate(
    shifts: Shifts,
    names: pd.DataFrame,
    group_of_cell: Integers,
    groups: Sequence[str],
    *,
    with_goal: bool,
) -> pd.DataFrame:
    """Sum up the pairs by group and edit.

    Parameters
    ----------
    shifts
        Of all groups.
    names
        ``E`` rows: what identifies each edit.
    group_of_cell
        Number of each cell's group, by `Shifts.cell`.
    groups
        Their names.
    with_goal
        Whether there is a goal to come near to.

    Returns
    -------
    pandas.DataFrame
        A row a group and edit, the largest move first in each group: columns of `names`, ``group``,
        ``n_cells``, ``shift``, ``shift_sd``, ``gene_shift``, ``p``, ``fdr``, and with a goal
        ``towards_goal``, ``goal_p``, ``goal_fdr``. What cannot be known is NaN.
    """
    tables = []
    for number, group in enumerate(groups):
        here = shifts.take(group_of_cell[shifts.cell] == number)
        table = names.assign(group=group, **_summary(here, len(names), with_goal=with_goal))
        by = "towards_goal" if with_goal else "shift"
        tables.append(table.sort_values(by, ascending=False, kind="stable", na_position="last"))
    return pd.concat(tables, ignore_index=True)


def _summary(shifts: Shifts, n_edits: int, *, with_goal: bool) -> dict[str, npt.NDArray]:
    own = shifts.take(shifts.edit != NULL)
    n_cells = np.bincount(own.edit, minlength=n_edits)
    mean = _mean(own.edit, own.shift, n_edits)
    squares = _mean(own.edit, (own.shift - mean[own.edit]) ** 2, n_edits) * n_cells
    p = mann_whitney_of_each(shifts.shift, shifts.edit, n_edits)
    columns = {
        "n_cells": n_cells,
        "shift": mean,
        "shift_sd": np.sqrt(squares / np.where(n_cells > 1, n_cells - 1.0, np.nan)),
        "gene_shift": _mean(own.edit, own.gene_shift, n_edits),
        "p": p,
        "fdr": false_discovery_rates(p),
    }
    if with_goal:
        columns["towards_goal"] = _mean(own.edit, own.towards_goal, n_edits)
        columns["goal_p"] = mann_whitney_of_each(shifts.towards_goal, shifts.edit, n_edits)
        columns["goal_fdr"] = false_discovery_rates(columns["goal_p"])
    return columns


def _mean(edit: Integers, values: Floats, n_edits: int) -> npt.NDArray[np.float64]:
    """``[E]`` mean by edit of the values that are not NaN; NaN where there are none."""
    known = ~np.isnan(values)
    sums = np.bincount(edit[known], values[known].astype(np.float64), n_edits)
    numbers = np.bincount(edit[known], minlength=n_edits)
    return sums / np.where(numbers > 0, numbers, np.nan)


def mann_whitney_of_each(values: Floats, edit: Integers, n_edits: int) -> npt.NDArray[np.float64]:
    """Test each edit's values against all the others', two-sided.

    The normal approximation with the corrections for ties and continuity (Mann and Whitney 1947;
    `scipy.stats.mannwhitneyu` with ``method="asymptotic"``), from one ranking of all values.

    Parameters
    ----------
    values
        ``[P]``.
    edit
        ``[P]`` whose each is; `NULL` belongs to the others of every edit.
    n_edits
        ``E``.

    Returns
    -------
    numpy.ndarray
        ``[E]`` p-values; NaN for an edit without values, or without others; 1 where all values
        are the same.
    """
    from scipy.stats import norm, rankdata

    own = edit != NULL
    n = len(values)
    ranks = rankdata(values) if n else np.empty(0)
    n_own = np.bincount(edit[own], minlength=n_edits).astype(np.float64)
    n_rest = n - n_own
    wins = np.bincount(edit[own], ranks[own], n_edits) - n_own * (n_own + 1) / 2
    half = n_own * n_rest / 2
    ties = np.unique(values, return_counts=True)[1].astype(np.float64)
    correction = (ties**3 - ties).sum() / max(n * (n - 1), 1)
    deviation = np.sqrt(n_own * n_rest / 12 * max(n + 1 - correction, 0.0))
    testable = (n_own > 0) & (n_rest > 0)
    distance = np.maximum(wins, n_own * n_rest - wins) - half - 0.5
    z = np.divide(distance, deviation, out=np.zeros(n_edits), where=deviation > 0)
    return np.where(testable, np.minimum(2 * norm.sf(z), 1.0), np.nan)


def false_discovery_rates(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjust p-values over genes (Benjamini and Hochberg 1995); NaN stays and does not count."""
    from scipy.stats import false_discovery_control

    known = ~np.isnan(p)
    rates = np.full(len(p), np.nan)
    if known.any():
        rates[known] = false_discovery_control(p[known])
    return rates
