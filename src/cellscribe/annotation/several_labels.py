"""Several columns of labels of the same cells, each with what it says of its own cells.

A cell with a label in one column and none in another is learnt from for the first alone. One that
has none in any column is left out, and counted. The folds are the same for all columns: a group
that is held out is held out of every head.

Letters: ``B`` cells with a label in at least one column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.labels import (
    Integers,
    Labelled,
    check_labels,
    choose_folds,
    log_folds,
    read_labels,
    rows_of,
)
from cellscribe.annotation.neighbors import CONTRADICTORY, held_out_contradictions
from cellscribe.callbacks import Log
from cellscribe.cells.counts import Counts
from cellscribe.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """Cells with a label in at least one of several columns."""

    rows: list[Integers]
    """Of each source, the rows that are learnt from, ascending."""
    groups: npt.NDArray[np.object_] | None
    """``[B]`` group of each cell."""
    columns: dict[str, Labelled]
    """The cells of each column that have a label in it, by its name."""
    places: dict[str, Integers]
    """Where these stand among the ``B`` cells, ascending."""

    @property
    def n_cells(self) -> int:
        """``B``."""
        return sum(len(rows) for rows in self.rows)

    def keep(self, filled: Any) -> LabelColumns:
        """Leave out the other cells, which have no count on a known gene."""
        if filled.all():
            return self
        place = np.cumsum(filled) - 1
        return LabelColumns(
            rows=rows_of(self.rows, filled),
            groups=None if self.groups is None else self.groups[filled],
            columns={
                name: each.keep(filled[self.places[name]]) for name, each in self.columns.items()
            },
            places={name: place[at[filled[at]]] for name, at in self.places.items()},
        )

    def truth(self, name: str) -> Integers:
        """``[B]`` class of each cell in a column, -1 where it has none."""
        found = np.full(self.n_cells, -1, np.int64)
        found[self.places[name]] = self.columns[name].truth
        return found

    def strata(self, fewest: int) -> Integers:
        """``[B]`` number of the combination of labels of each cell, by which folds are drawn.

        Combinations of fewer than `fewest` cells are one, or a part of the largest where they are
        fewer together.
        """
        if len(self.columns) == 1:
            return next(iter(self.columns.values())).truth
        together = np.stack([self.truth(name) for name in self.columns], axis=1)
        _, number, sizes = np.unique(together, axis=0, return_inverse=True, return_counts=True)
        number = number.ravel()
        rare = np.flatnonzero(sizes < fewest)
        enough = sizes[rare].sum() >= fewest
        number[np.isin(number, rare)] = len(sizes) if enough else int(sizes.argmax())
        return np.unique(number, return_inverse=True)[1].astype(np.int64)

    def folds(self, most: int, seed: int) -> Integers:
        """``[B]`` fold of each cell, see `choose_folds`."""
        return choose_folds(self.strata(most), self.groups, most, seed)

    def for_each(self, act: Callable[[str, Labelled], T]) -> dict[str, T]:
        """Call a function with each column; of several, a refusal names the column."""
        found = {}
        for name, labelled in self.columns.items():
            try:
                found[name] = act(name, labelled)
            except InputError as error:
                if len(self.columns) == 1:
                    raise
                raise InputError(f"label {name}: {error}") from None
        return found

    def check(self, sources: Sequence[Counts], group: str | None, log: Log) -> None:
        """Refuse columns of which nothing is left, and say what held-out cells cannot tell."""
        self.for_each(lambda _, labelled: check_labels(labelled, sources))
        for number, (name, labelled) in enumerate(self.columns.items()):
            if number == 0 or labelled.groups is not None:  # without groups all say the same
                log_folds(labelled, group, self.log_of(name, log))

    def warn_of_contradictions(
        self, vectors: npt.NDArray[np.floating], folds: Integers, seed: int, log: Log
    ) -> None:
        """Say how often the cells nearest to a cell, ``[B, D]``, have another label, if often."""
        for name, each in self.columns.items():
            at = self.places[name]
            found = held_out_contradictions(vectors[at], each.truth, each.labels, folds[at], seed)
            if found.share >= CONTRADICTORY:
                self.log_of(name, log)(f"Warning: {found.sentence()}")

    def log_of(self, name: str, log: Log) -> Log:
        """`log`, with the name of the column before each line where there are several."""
        if len(self.columns) == 1:
            return log
        return naming(name, log)


def one_column(name: str, labelled: Labelled) -> LabelColumns:
    """The cells of a single column."""
    return LabelColumns(
        rows=labelled.rows,
        groups=labelled.groups,
        columns={name: labelled},
        places={name: np.arange(len(labelled.truth))},
    )


def read_columns(
    sources: Sequence[Counts],
    labels: Sequence[str],
    group: str | None,
    min_cells: int,
    *,
    log: Log,
) -> LabelColumns:
    """Read who is labelled what in each of several columns; no count is read.

    Parameters
    ----------
    sources, group, min_cells, log
        As for `read_labels`.
    labels
        Columns of obs; every source has them.

    Raises
    ------
    InputError
        As `read_labels`, with the name of the column.
    """
    if len(labels) == 1:
        labelled = read_labels(sources, labels[0], group, min_cells, log=log)
        return one_column(labels[0], labelled)
    said: list[str] = []  # a refusal of a later column stands alone
    columns: dict[str, Labelled] = {}
    about = None
    for name in labels:
        told = naming(name, said.append)
        try:
            columns[name] = read_labels(sources, name, group, min_cells, log=told, about=about)
        except InputError as error:
            raise InputError(f"label {name}: {error}") from None
        about = columns[name].sources
    for line in said:
        log(line)
    return _together(columns, [source.n_cells for source in sources], log)


def _together(columns: dict[str, Labelled], n_cells: list[int], log: Log) -> LabelColumns:
    """Bring columns together; a cell with a label in none is left out, and said."""
    bounds = np.concatenate([[0], np.cumsum(n_cells)])
    found = {
        name: np.concatenate(
            [rows + start for rows, start in zip(each.rows, bounds[:-1], strict=True)]
        )
        for name, each in columns.items()
    }
    union = np.unique(np.concatenate(list(found.values())))
    places = {name: np.searchsorted(union, rows) for name, rows in found.items()}
    grouped = next(iter(columns.values())).groups is not None
    groups = np.empty(len(union), object) if grouped else None
    if groups is not None:
        for name, each in columns.items():
            groups[places[name]] = each.groups
    if missing := int(bounds[-1]) - len(union):
        log(f"{missing:,} cells are left out (no label in any of {', '.join(columns)}).")
    cuts = np.searchsorted(union, bounds)
    return LabelColumns(
        rows=[
            union[start:end] - bounds[number] for number, (start, end) in enumerate(pairwise(cuts))
        ],
        groups=groups,
        columns=columns,
        places=places,
    )


def naming(name: str, log: Log) -> Log:
    """`log`, with a name before each line; a warning stays one."""

    def told(line: str) -> None:
        warning = "Warning: "
        if line.startswith(warning):
            log(f"{warning}{name}: {line.removeprefix(warning)}")
        else:
            log(f"{name}: {line}")

    return told
