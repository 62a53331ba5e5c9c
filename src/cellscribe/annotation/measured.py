"""Cells with a number: which rows of which files a regression learns from.

Cells without a value are left out, and counted. A column of texts is refused, as are values that
are infinite or all the same.

Letters: ``B`` cells with a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.labels import EMPTY, NO_GROUP, Integers, choose_folds, describe, rows_of
from cellscribe.callbacks import Log
from cellscribe.cells.columns import find_column, has_label, text_column
from cellscribe.cells.counts import Counts
from cellscribe.errors import InputError

FEWEST = 30
"""Cells that a regression takes at least."""
STRATA = 5
"""Parts of the values, equal in cells, that are spread evenly over the folds."""
EVEN = 1e-9
"""Deviation, as a share of the largest value, below which all values count as the same."""
SMALLEST, LARGEST = 1e-25, 1e25
"""Deviations that weights in float32 can carry."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Cells to learn a number from, those of all sources one after the other."""

    target: str
    """Column of obs."""
    rows: list[Integers]
    """Of each source, the rows that are learnt from, ascending."""
    values: npt.NDArray[np.float64]
    """``[B]``, in the unit of the column."""
    groups: npt.NDArray[np.object_] | None
    """``[B]`` group of each cell."""
    sources: list[dict[str, Any]]
    """Name, hash and number of cells of each source."""
    left_out: dict[str, int]
    """Cells that are not learnt from, by reason."""

    def keep(self, filled: Any) -> Measured:
        """Leave out the other cells, which have no count on a known gene."""
        if filled.all():
            return self
        return replace(
            self,
            rows=rows_of(self.rows, filled),
            values=self.values[filled],
            groups=None if self.groups is None else self.groups[filled],
            left_out=self.left_out | {EMPTY: int((~filled).sum())},
        )

    @property
    def strata(self) -> Integers:
        """``[B]`` fifth of the values that each cell lies in, by which folds are drawn."""
        inner = np.linspace(0, 1, STRATA + 1)[1:-1]
        place = np.searchsorted(np.quantile(self.values, inner), self.values, side="right")
        return np.unique(place, return_inverse=True)[1].astype(np.int64)

    def folds(self, most: int, seed: int) -> Integers:
        """``[B]`` fold of each cell, see `choose_folds`."""
        return choose_folds(self.strata, self.groups, most, seed)

    def check(self, where: str, group: str | None, log: Log | None = None) -> None:
        """Refuse values that nothing can be learnt from, and say what figures will rest on."""
        check_values(self.values, self.target, where)
        groups = self.groups
        if groups is None:
            if log is not None:
                log(NO_GROUP)
            return
        names = np.unique(groups)
        if len(names) < 2:
            raise InputError(
                f"{where}: all cells with a value are of one {group} ({groups[0]!r}), so none can "
                "be held out; name another column with --group, or leave it out"
            )
        within = [np.ptp(self.values[groups == name]) for name in names]
        if log is not None and not any(within):
            log(
                f"Warning: {self.target} is one value for each {group}: what is learnt, and every "
                f"held-out figure, rests on {len(names):,} values."
            )


def read_target(
    sources: Sequence[Counts], target: str, group: str | None, fewest: int, *, log: Log
) -> Measured:
    """Read the number of each cell; no count is read.

    Parameters
    ----------
    sources
        Opened files.
    target, group
        Columns of obs; every source has them. Groups of one name are one group, in all sources.
    fewest
        Cells with a value that there must be, and never fewer than `FEWEST`.
    log
        Called with a line on each kind of cells that is left out.

    Raises
    ------
    InputError
        A column is missing, or the target holds texts, infinite values, the same value everywhere,
        or too few of them.
    """
    parts = [numbers_of(source, target) for source in sources]
    values = np.concatenate(parts)
    known = ~np.isnan(values)
    left_out = {"no value": int((~known).sum())}
    groups = None
    if group is not None:
        groups = np.concatenate(
            [text_column(source.obs, group, "--group", source.name) for source in sources]
        )
        left_out["no group"] = int((known & (groups == "")).sum())
        known &= groups != ""
    where = sources[0].name if len(sources) == 1 else f"{len(sources)} files"
    least = max(fewest, FEWEST)
    if (n := int(known.sum())) < least:
        raise InputError(
            f"{where}: {n:,} cells have a value in {target}, and at least {least:,} are needed; "
            "name another column with --target, or give more cells"
        )
    bounds = np.cumsum([len(part) for part in parts])[:-1]
    found = Measured(
        target=target,
        rows=[np.flatnonzero(part) for part in np.split(known, bounds)],
        values=values[known],
        groups=None if groups is None else groups[known],
        sources=[],
        left_out={why: n for why, n in left_out.items() if n},
    )
    found.check(where, group)
    for why, n in found.left_out.items():
        log(f"{n:,} cells are left out ({why}).")
    return replace(found, sources=[describe(source) for source in sources])


def numbers_of(source: Counts, target: str) -> npt.NDArray[np.float64]:
    """Read a column of obs as numbers, ``[cells]``, NaN where a value is missing.

    Texts that are all numbers are read as such.

    Raises
    ------
    InputError
        There is no such column, or it holds a text, or an infinite value.
    """
    column = find_column(source.obs, target, "--target", source.name)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    else:
        texts = text_column(source.obs, target, "--target", source.name)
        there = has_label(texts)
        values = np.full(len(texts), np.nan)
        values[there] = pd.to_numeric(pd.Series(texts[there]), errors="coerce").to_numpy()
        if (odd := there & np.isnan(values)).any():
            raise InputError(
                f"{source.name}: {target} holds texts ({texts[odd][0]!r} in one of {odd.sum():,} "
                "cells) and a number is wanted of --target; learn classes with --label, or name "
                "another column"
            )
    if n := int(np.isinf(values).sum()):
        raise InputError(
            f"{source.name}: {target} is infinite in {n:,} cells; make these missing (NaN), which "
            "leaves them out, or correct them"
        )
    return values


def check_values(values: npt.NDArray[np.float64], target: str, where: str) -> None:
    """Refuse values that are all the same, or out of float32's reach."""
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(np.std(values))
    if deviation <= EVEN * float(np.abs(values).max()):
        raise InputError(
            f"{where}: {target} is {values[0]:g} in all {len(values):,} cells, so there is nothing "
            "to learn; name another column with --target"
        )
    if not SMALLEST < deviation < LARGEST:
        raise InputError(
            f"{where}: values of {target} differ by {deviation:.3g}, more or less than weights can "
            "carry; give them in another unit"
        )
