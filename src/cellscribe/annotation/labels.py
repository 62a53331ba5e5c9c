"""Labelled cells: which rows of which files are learnt from, and which are held out together.

Cells whose label is missing or says that it is unknown are left out, and counted, as are labels
of too few cells. Folds never split a group, so that what is measured on a held-out fold holds for
a new donor; a label that occurs in one group alone is learnt but can be held out nowhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.cells.columns import has_label, text_column
from cellscribe.cells.counts import Counts
from cellscribe.errors import InputError
from cellscribe.writing import hash_of

MOST_LABELS = 1_000
"""Of a column; the largest atlases have some hundred types."""
MOST_NAMED = 20
"""Labels of too few cells that are told one by one."""

EMPTY = "no count on a gene that the model knows"
"""Why a cell with a label is not learnt from."""
NO_GROUP = (
    "Warning: no --group: cells of one donor stand on both sides of the folds, so that the "
    "held-out figures are too good for cells of a new donor."
)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Cells to learn from, those of all sources one after the other."""

    rows: list[Integers]
    """Of each source, the rows that are learnt from, ascending."""
    labels: list[str]
    """Distinct labels, sorted: class ``c`` is ``labels[c]``."""
    truth: Integers
    """``[B]`` class of each cell."""
    groups: npt.NDArray[np.object_] | None
    """``[B]`` group of each cell."""
    sources: list[dict[str, Any]]
    """Name, hash and number of cells of each source."""
    left_out: dict[str, int]
    """Cells that are not learnt from, by reason."""

    def keep(self, filled: Any) -> Labelled:
        """Leave out the other cells, which have no count on a known gene."""
        if filled.all():
            return self
        return Labelled(
            rows=rows_of(self.rows, filled),
            labels=self.labels,
            truth=self.truth[filled],
            groups=None if self.groups is None else self.groups[filled],
            sources=self.sources,
            left_out=self.left_out | {EMPTY: int((~filled).sum())},
        )

    def counts(self) -> dict[str, int]:
        """Cells by label."""
        numbers = np.bincount(self.truth, minlength=len(self.labels))
        return {label: int(n) for label, n in zip(self.labels, numbers, strict=True)}


def read_labels(
    sources: Sequence[Counts],
    label: str,
    group: str | None,
    min_cells: int,
    *,
    log: Log,
    about: list[dict[str, Any]] | None = None,
) -> Labelled:
    """Read who is labelled what; no count is read.

    Parameters
    ----------
    sources
        Opened files.
    label, group
        Columns of obs; every source has them. Groups of one name are one group, in all sources.
    min_cells
        A label with fewer cells is left out.
    log
        Called with a line on each kind of cells that is left out.
    about
        What `describe` says of each source, where that is known already: it reads whole files.

    Raises
    ------
    InputError
        A column is missing, or fewer than two labels, or fewer than two groups, remain.
    """
    names = [text_column(source.obs, label, "--label", source.name) for source in sources]
    found = np.concatenate(names)
    known = has_label(found)
    left_out = {"no label": int((~known).sum())}
    groups = None
    if group is not None:
        groups = np.concatenate(
            [text_column(source.obs, group, "--group", source.name) for source in sources]
        )
        grouped = groups != ""
        left_out["no group"] = int((known & ~grouped).sum())
        known &= grouped
    labels, numbers = np.unique(found[known], return_counts=True)
    where = sources[0].name if len(sources) == 1 else f"{len(sources)} files"
    if len(labels) > MOST_LABELS:
        raise InputError(
            f"{where}: {label} has {len(labels):,} different values in {int(known.sum()):,} cells, "
            f"which looks like an id; at most {MOST_LABELS:,} labels are learnt, so name another "
            "column with --label"
        )
    few = numbers < min_cells
    rare = labels[few]
    if len(rare) > MOST_NAMED:
        left_out[f"{len(rare):,} labels of fewer than {min_cells} cells"] = int(numbers[few].sum())
    else:
        for name, n in zip(rare, numbers[few], strict=True):
            left_out[f"{name}: fewer than {min_cells} cells"] = int(n)
    known &= ~np.isin(found, rare)
    kept = sorted(set(labels) - set(rare))
    if len(kept) < 2:
        has = f"only {kept[0]!r}" if kept else "none"
        raise InputError(
            f"{where}: at least two labels of {min_cells} cells are needed, {label} has {has}; "
            "name another column with --label, or lower --min-cells"
        )
    if groups is not None and len(np.unique(groups[known])) < 2:
        raise InputError(
            f"{where}: all labelled cells are of one {group} ({groups[known][0]!r}), so none can "
            "be held out; name another column with --group, or leave it out"
        )
    for why, n in left_out.items():
        if n:
            log(f"{n:,} cells are left out ({why}).")
    ends = np.cumsum([len(part) for part in names])[:-1]
    return Labelled(
        rows=[np.flatnonzero(part) for part in np.split(known, ends)],
        labels=kept,
        truth=np.searchsorted(kept, found[known]).astype(np.int64),
        groups=None if groups is None else groups[known],
        sources=about or [describe(source) for source in sources],
        left_out={why: n for why, n in left_out.items() if n},
    )


def rows_of(rows: Sequence[Integers], some: Any) -> list[Integers]:
    """Rows of each source that a mask, ``[B]`` over all of them, leaves."""
    parts = np.split(some, np.cumsum([len(each) for each in rows])[:-1])
    return [each[part] for each, part in zip(rows, parts, strict=True)]


def describe(source: Counts) -> dict[str, Any]:
    """Name, hash and number of cells of a source."""
    path = source.path
    digest = None if path is None else hash_of(Path(path))[:16]
    name = source.name if path is None else Path(path).name
    return {"name": name, "hash": digest, "cells": source.n_cells}


def choose_folds(
    truth: Integers, groups: npt.NDArray[np.object_] | None, folds: int, seed: int
) -> Integers:
    """Fold of each cell, by label as even as may be; no group is in two.

    Parameters
    ----------
    truth
        ``[B]`` classes.
    groups
        ``[B]``; without, cells are drawn at random.
    folds
        Most parts; fewer where there are fewer groups, or fewer cells in the rarest class.
    seed
        Of the draw.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    sizes = np.bincount(truth)
    splitter: Any
    if groups is None:
        n = max(2, min(folds, int(sizes[sizes > 0].min())))
        splitter = StratifiedKFold(n, shuffle=True, random_state=seed)
    else:
        n = max(2, min(folds, len(np.unique(groups)), int(sizes.max())))
        splitter = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    fold = np.empty(len(truth), np.int64)
    with warnings.catch_warnings():
        # A class with fewer groups than folds is no fault here; `log_folds` says so.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, held_out) in enumerate(splitter.split(truth[:, None], truth, groups)):
            fold[held_out] = number
    # A greedy draw may leave a part empty.
    return np.unique(fold, return_inverse=True)[1]


def learnable(truth: Integers, learnt: Any, held_out: Any) -> Any:
    """Which held-out cells are of a class that is among the learnt ones, ``[B]`` bool."""
    return held_out & np.isin(truth, np.unique(truth[learnt]))


def log_folds(labelled: Labelled, group: str | None, log: Log) -> None:
    """Say what a user should know of the held-out cells before trusting figures."""
    if labelled.groups is None:
        log(NO_GROUP)
        return
    for number, label in enumerate(labelled.labels):
        where = np.unique(labelled.groups[labelled.truth == number])
        if len(where) == 1:
            log(
                f"{label!r} occurs in one {group} alone ({where[0]!r}): it is learnt, but no "
                "held-out cell tells how well."
            )


def check_labels(labelled: Labelled, sources: Sequence[Counts]) -> None:
    """Refuse cells of which nothing is left to learn, once empty ones are out."""
    if len(np.unique(labelled.truth)) < len(labelled.labels):
        gone = set(range(len(labelled.labels))) - set(labelled.truth.tolist())
        names = ", ".join(repr(labelled.labels[number]) for number in sorted(gone)[:5])
        raise InputError(
            f"{sources[0].name}: no cell of {names} has a count on a gene that the model knows; "
            "check the gene identifiers (--gene-key)"
        )
