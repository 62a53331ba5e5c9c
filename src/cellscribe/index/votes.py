"""The labels of an index, and the votes of near cells on them.

Each labelled neighbour votes with the inverse of its distance; a label's probability is its share,
if the cell is of any type that the index knows (`learn`).

Letters: ``B`` queries, ``R`` cells of the index, ``K`` neighbours, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.neighbors import CLOSEST
from cellscribe.cells.columns import has_label
from cellscribe.errors import InputError
from cellscribe.index.nearest import Floats, nearest_in, unit
from cellscribe.index.store import Index, Space

COMPARED, ASKED = 50_000, 2_000
"""Cells, drawn at random, that the way to compare vectors is chosen by, and queries among them."""
MOST_LABELS = 5_000
"""Values above which a column holds names of cells, and not of types."""
KINDS: tuple[Literal["cosine", "centred", "standardised"], ...] = (
    "cosine",
    "centred",
    "standardised",
)

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A column of labels over the cells of an index."""

    name: str
    kept: list[str]
    """Labels of enough cells, sorted."""
    codes: Codes
    """``[R]`` class of each cell, -1 for one that does not vote."""

    def counts(self) -> dict[str, int]:
        """Cells by label."""
        numbers = np.bincount(self.codes[self.codes >= 0], minlength=len(self.kept))
        return {label: int(n) for label, n in zip(self.kept, numbers, strict=True)}


def keep_labels(
    values: list[str], n_cells: npt.NDArray[Any], name: str, min_cells: int, folder: Path
) -> list[str]:
    """Tell which values of a column are labels that vote.

    Parameters
    ----------
    values, n_cells
        Distinct values, and the cells of each.
    name
        Of the column.
    min_cells
        Labels of fewer cells do not vote.
    folder
        The index, in messages.

    Raises
    ------
    InputError
        Fewer than two labels remain, or far too many.
    """
    known = has_label(np.array(values, object))
    if known.sum() > MOST_LABELS:
        raise InputError(
            f"{folder}: {name} has {known.sum():,} values, as names of cells have and types do "
            "not; name another column with --label"
        )
    votes = known & (n_cells >= min_cells)
    kept = [value for value, one in zip(values, votes, strict=True) if one]
    if len(kept) < 2:
        has = f"has only {kept[0]!r}" if kept else "has none"
        raise InputError(
            f"{folder}: at least two labels of {min_cells} cells are needed, {name} {has}; name "
            "another column with --label, or lower --min-cells"
        )
    return kept


def read_codes(index: Index, name: str, min_cells: int) -> Labels:
    """Number the labels of a column; see `keep_labels`."""
    values, numbers = index.coded(name)
    n_cells = np.bincount(numbers, minlength=len(values))
    kept = keep_labels(values, n_cells, name, min_cells, index.folder)
    place = {label: number for number, label in enumerate(kept)}
    codes = np.array([place.get(value, -1) for value in values], np.int64)
    return Labels(name=name, kept=kept, codes=codes[numbers])


def vote(distance: Floats, codes: Codes, n_labels: int) -> npt.NDArray[np.float64]:
    """Share the votes of neighbours.

    Parameters
    ----------
    distance, codes
        ``[B, K]`` of the neighbours; a code of -1 does not vote.
    n_labels
        ``C``.

    Returns
    -------
    numpy.ndarray
        ``[B, C]``; zeros where no neighbour has a label.
    """
    weight = np.where(codes >= 0, 1.0 / np.maximum(distance, CLOSEST), 0.0)
    shares = np.zeros((len(distance), n_labels))
    np.add.at(shares, (np.arange(len(distance))[:, None], np.maximum(codes, 0)), weight)
    total = shares.sum(axis=1, keepdims=True)
    return shares / np.where(total > 0, total, 1.0)


def choose_space(index: Index, labels: Labels, groups: npt.NDArray[Any], seed: int) -> Space:
    """Choose how vectors are compared: by which held-out cells get their label back most often.

    Parameters
    ----------
    index
        Its parts; its space is not looked at.
    labels
        The column that counts.
    groups
        ``[R]`` numbers of the groups; see `hold_out`.
    seed
        Of the draw.
    """
    rng = np.random.default_rng(seed)
    n_cells = index.n_cells
    drawn = np.sort(rng.choice(n_cells, min(n_cells, COMPARED), replace=False))
    vectors, codes, group = index.rows(drawn), labels.codes[drawn], groups[drawn]
    asked = np.flatnonzero(codes >= 0)
    asked = rng.choice(asked, min(len(asked), ASKED), replace=False)
    mean = vectors.mean(axis=0, dtype=np.float64)
    scale = vectors.std(axis=0, dtype=np.float64)
    best: tuple[float, Space] | None = None
    for kind in KINDS:
        space: Space = {
            "kind": kind,
            "mean": mean.tolist(),
            "scale": np.where((kind == "standardised") & (scale > 0), scale, 1.0).tolist(),
        }
        table = unit(vectors, space)
        found = [
            nearest_in(table[part], [(0, table)], 15, (group[part], group))
            for part in np.array_split(asked, max(1, len(asked) // 500))
        ]
        distance = np.concatenate([d for d, _ in found])
        place = np.concatenate([p for _, p in found])
        near = np.where(np.isfinite(distance), codes[place], -1)
        right = vote(distance, near, len(labels.kept)).argmax(axis=1) == codes[asked]
        # every label counts the same, whatever its cells
        by_label = [right[codes[asked] == code].mean() for code in np.unique(codes[asked])]
        score = float(np.mean(by_label))
        if best is None or score > best[0] + 0.005:
            best = score, space
    assert best is not None
    return best[1]


def group_numbers(index: Index) -> npt.NDArray[np.int64]:
    """Number the groups of an index, ``[R]``: each cell its own where there is no such column."""
    name = index.header["group"]
    if name is None:
        return np.arange(index.n_cells)
    found, numbers = index.coded(name)
    check_groups(found, name, index.folder)
    return numbers


def check_groups(values: list[str], name: str, folder: Path) -> None:
    """Refuse a single group: none could be held out."""
    if len(values) < 2:
        raise InputError(
            f"{folder}: all cells are of one {name} ({values[0]!r}), so none can be held out; name "
            "another column with --group, or leave it out"
        )
