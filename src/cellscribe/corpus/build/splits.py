"""Split datasets into training and held-out ones, and held-out cells into val and test.

As in the sc-FM model card: whole datasets go to training (about 99 % of cells) or are held out,
every label of `assay` and `tissue_general` stays in training, the held-out cells are divided at
random into validation and test, and one held-out dataset is kept whole as a test on an experiment
that nothing was tuned on. The choice (`holdout.choose`) needs a table of label counts only, not the
cells. Randomness comes from hashes of seed and dataset id and from the cells' keys, so a split does
not depend on the order of files, rows or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.config import SplitOptions
from cellscribe.corpus.build.holdout import Flags, Search, check_cover, choose, some
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test", "test_unseen")
"""Splits of cells; `split_cells` returns their places here."""
SIDES = ("train", "holdout", "test_unseen")
"""Sides of datasets; the cells of "holdout" are divided between val and test."""


@dataclass(frozen=True)
class DatasetSplit:
    """The split of the datasets of a corpus.

    Attributes
    ----------
    side
        dataset_id -> "train", "holdout" or "test_unseen", in order of the ids.
    cells
        Each of `SIDES` -> number of cells.
    wish
        Wanted share of held-out cells.
    note
        Note for the user: a share far from the wanted one, an empty split. Empty if there is
        nothing to say.
    """

    side: dict[str, str]
    cells: dict[str, int]
    wish: float
    note: str = ""

    @property
    def share(self) -> float:
        """Share of held-out cells, with those of the unseen dataset."""
        return (self.cells["holdout"] + self.cells["test_unseen"]) / sum(self.cells.values())

    def datasets(self, side: str) -> list[str]:
        """Return the ids of the datasets on one side, in order."""
        return [name for name, there in self.side.items() if there == side]


def split_datasets(cells: pd.DataFrame, options: SplitOptions | None = None) -> DatasetSplit:
    """Choose the datasets to train on and those to hold out.

    Every label of the covered columns keeps a dataset with cells of it in train; an empty string or
    NaN is no label, "unknown" is one like any other. Among the choices that fulfil this:

    1. At least one dataset is held out, and divided between val and test.
    2. Two or more are preferred, one of them for `test_unseen`, where some such choice misses the
       wished share by at most half of it. If `options.unseen` is given, another always joins it.
    3. The share of cells held out is the nearest to the wish. Misses of up to `TOLERANCE` (0.01)
       of the wish count alike, and the seed picks. This is exact, |cells - wish| <= max(nearest
       possible, 0.01 wish), where at most `EXHAUSTIVE` (16) datasets can be held out or are
       small enough to matter. Beyond, it is a local optimum, the best of `STARTS` seeded ones: if
       it misses the wish by more than 0.01 of it, then adding, returning or exchanging any one
       dataset comes no nearer.
    4. The unseen dataset is the largest held-out one of at most a third of the held-out cells,
       or, of two, the smaller: it is never larger than the divided part.

    Parameters
    ----------
    cells
        Label counts: a row for each combination of `dataset_id` and the covered columns, with
        its number of `cells`. Rows of one combination add up; their order means nothing. A
        dataset without cells stays in train.
    options
        The wanted split; that of the model card if not given.

    Raises
    ------
    InputError
        A column is missing, a named dataset is not there, or a label would be lost from train.
    """
    options = options or SplitOptions()
    search = _search(cells, options)
    check_cover(search)
    held = choose(search) if options.holdout else search.fixed
    unseen = _pick_unseen(search, held)
    sides = np.where(held, "holdout", "train").astype(object)
    if unseen is not None:
        sides[unseen] = "test_unseen"
    return DatasetSplit(
        side=dict(zip(search.ids, sides.tolist(), strict=True)),
        cells={side: int(search.cells[sides == side].sum()) for side in SIDES},
        wish=options.holdout,
        note=_note(search, held, unseen),
    )


def split_cells(
    keys: npt.NDArray[np.uint64],
    sides: str | Sequence[str] | npt.NDArray[np.str_],
    validation: float,
) -> npt.NDArray[np.uint8]:
    """Return the split of each cell.

    A held-out cell goes to val if its key is below ``validation * 2**64``, else to test: it
    depends on the cell's key only.

    Parameters
    ----------
    keys
        ``B`` random numbers, uniform over uint64, that stay with their cells.
    sides
        The side (of `SIDES`) of the dataset of all these cells, or of each of the ``B``.
    validation
        Share of the divided cells that go to val.

    Returns
    -------
    ``B`` uint8: places in `SPLITS`.
    """
    keys = np.asarray(keys)
    if keys.dtype != np.uint64:
        raise TypeError(f"keys are {keys.dtype}, not uint64")
    sides = np.broadcast_to(np.asarray(sides), keys.shape)
    codes = np.full(keys.shape, 255, np.uint8)
    codes[sides == "train"] = SPLITS.index("train")
    codes[sides == "test_unseen"] = SPLITS.index("test_unseen")
    divided = np.where(keys < int(validation * 2**64), SPLITS.index("val"), SPLITS.index("test"))
    codes = np.where(sides == "holdout", divided, codes).astype(np.uint8)
    if (codes == 255).any():
        raise ValueError(f"{str(sides[codes == 255][0])!r} is none of {', '.join(SIDES)}")
    return codes


def _search(table: pd.DataFrame, options: SplitOptions) -> Search:
    """Check the table against the options and turn both into arrays."""
    import pandas as pd

    for column in ("dataset_id", *options.covered, "cells"):
        if column not in table:
            fix = "leave it out of covered" if column in options.covered else "add it"
            raise InputError(f"the table of label counts has no column {column!r}; {fix}")
    if (table["dataset_id"].isna() | (table["dataset_id"].astype(str) == "")).any():
        raise InputError("some cells have no dataset_id; give every source one")
    counts = pd.to_numeric(table["cells"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if not ((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)).all():
        raise InputError("the table of label counts: cells must be whole numbers of 0 or more")
    ids, places = np.unique(table["dataset_id"].astype(str).to_numpy(object), return_inverse=True)
    cells = np.bincount(places, weights=counts, minlength=len(ids)).astype(np.float64)
    if not cells.any():
        raise InputError("there are no cells to split; check the filters and the sources")
    to_hold_out = [*options.held_out, *([options.unseen] if options.unseen is not None else [])]
    for name in sorted({*to_hold_out, *options.train}):
        if name not in ids:
            raise InputError(f"there is no dataset {name!r}; there are {some(list(ids))}")
    fixed = np.isin(ids, to_hold_out)
    if (fixed & (cells == 0)).any():
        name = ids[fixed & (cells == 0)][0]
        raise InputError(f"dataset {name!r} has no cells to hold out; name another")
    labels, holders = _holders(table[counts > 0], places[counts > 0], len(ids), options.covered)
    return Search(
        ids=tuple(ids.tolist()),
        cells=cells,
        labels=labels,
        holders=holders,
        fixed=fixed,
        kept=np.isin(ids, list(options.train)) | (cells == 0),
        unseen=options.unseen,
        wish=options.holdout * cells.sum(),
        seed=options.seed,
    )


def _holders(
    table: pd.DataFrame, places: npt.NDArray[np.intp], n_datasets: int, covered: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], Flags]:
    """Find the labels of each dataset; the last row makes sure that train is not empty."""
    labels: list[tuple[str, str]] = []
    rows: list[Flags] = []
    for column in covered:
        words = table[column].astype(object).where(table[column].notna(), "").astype(str)
        for label in sorted(set(words)):
            if label.strip():
                labels.append((column, label))
                rows.append(np.isin(np.arange(n_datasets), places[words == label]))
    rows.append(np.isin(np.arange(n_datasets), places))
    return (*labels, ("", "")), np.array(rows)


def _pick_unseen(search: Search, held: Flags) -> int | None:
    """Choose the dataset that becomes test_unseen."""
    if search.unseen is not None:
        return search.ids.index(search.unseen)
    members = [place for place in search.order() if held[place]]
    if len(members) < 2:
        return None
    third = search.cells[held].sum() / 3
    small = [place for place in members if search.cells[place] <= third]
    if small:
        return max(small, key=lambda place: search.cells[place])
    return min(members, key=lambda place: search.cells[place])


def _note(search: Search, held: Flags, unseen: int | None) -> str:
    """Describe what differs from the wanted split."""
    if not search.wish:
        return ""
    notes = []
    total, cells = search.cells.sum(), search.cells[held].sum()
    if abs(cells - search.wish) > search.wish / 10:
        notes.append(
            f"hold-out is {100 * cells / total:.3g} % of cells, asked "
            f"{100 * search.wish / total:.3g} %: datasets that train can spare come no nearer"
        )
    if unseen is None:
        only = search.ids[int(np.flatnonzero(held)[0])]
        notes.append(f"only dataset {only!r} is held out, so test_unseen is empty")
    elif held.sum() == 1:
        notes.append("only the unseen dataset can be held out, so val and test are empty")
    return "; ".join(notes)
