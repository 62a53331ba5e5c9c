"""What the labels of near cells are worth, learnt from groups that are held out.

Each labelled neighbour votes with the inverse of its distance; a label's probability is its share.
A sample of the index's own cells is searched for without the cells of its own group (without
groups: without the cell itself), and from how it fares comes the threshold of what is called
(`annotation.calibration`), the distance (and `spread`) beyond which a cell is unknown whatever its
neighbours say, and how often neighbours contradict each other.

Letters: ``B`` queries, ``R`` cells of the index, ``K`` neighbours, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import Calibration, calibrate
from cellscribe.annotation.domain import fit_types
from cellscribe.annotation.labels import choose_folds
from cellscribe.annotation.neighbors import CLOSEST
from cellscribe.cells.columns import has_label
from cellscribe.config.index import IndexOptions
from cellscribe.errors import InputError
from cellscribe.index.nearest import Exact, Floats, Places, nearest_in, unit
from cellscribe.index.store import Column, Index, Space

INSIDE = 0.975
"""Share of the held-out cells that lie within the limit of distance, and of those within that of
spread: what lies beyond is often of a type that was never taught, and both cost a known cell in
twenty."""
HELD_OUT = 5_000
"""Cells that are held out, drawn at random, in a larger index."""
COMPARED, ASKED = 50_000, 2_000
"""Cells, drawn at random, that types are learnt from and the way to compare vectors is chosen by,
and queries among them."""
MOST_LABELS = 5_000
"""Values above which a column holds names of cells, and not of types."""
PAIRS = 5
"""Pairs of labels that are named where neighbours contradict each other."""
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


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Cells of an index, and their nearest in other groups."""

    rows: Places
    """``[B]`` rows of the index."""
    distance: Floats
    places: Places
    """``[B, K]``."""
    own_distance: Floats
    own_places: Places
    """``[B, K]``; cells of the own group, but not the cell itself, among them."""


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


def hold_out(search: Exact, groups: npt.NDArray[Any], n_neighbors: int, seed: int) -> HeldOut:
    """Search for cells of an index among those of other groups."""
    index = search.index
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(index.n_cells, min(index.n_cells, HELD_OUT), replace=False))
    vectors = index.rows(rows)
    own = np.arange(index.n_cells)
    near = search.nearest(vectors, n_neighbors, groups=(own[rows], own))
    away = near
    if not np.array_equal(groups, own):
        away = search.nearest(vectors, n_neighbors, groups=(groups[rows], groups))
    if not np.isfinite(away[0][:, -1]).all():
        raise InputError(
            f"{index.folder}: fewer than {n_neighbors} cells are of other groups than some cell; "
            "lower --n-neighbors or give more cells"
        )
    return HeldOut(
        rows=rows, distance=away[0], places=away[1], own_distance=near[0], own_places=near[1]
    )


def learn_column(
    index: Index,
    held: HeldOut,
    labels: Labels,
    groups: npt.NDArray[Any],
    options: IndexOptions,
) -> tuple[Column, Calibration]:
    """Learn from held-out cells what the labels of a column are worth.

    Raises
    ------
    InputError
        No label occurs in two groups.
    """
    n_labels = len(labels.kept)
    known = np.flatnonzero(labels.codes >= 0)
    # a label of one group alone can be held out nowhere
    pairs = np.unique(np.stack([labels.codes[known], groups[known]], 1), axis=0)
    testable = np.bincount(pairs[:, 0], minlength=n_labels) > 1
    truth = labels.codes[held.rows]
    tested = np.flatnonzero((truth >= 0) & testable[np.maximum(truth, 0)])
    if len(tested) < 2:
        raise InputError(
            f"no value of {labels.name} occurs in two groups, so nothing can be held out; name "
            "another column with --group, or leave it out"
        )
    shares = vote(held.distance[tested], labels.codes[held.places[tested]], n_labels)
    own = groups[held.rows[tested]]
    given = None if len(np.unique(own)) == len(own) else own.astype(object)
    folds = choose_folds(truth[tested], given, options.folds, options.seed)
    with np.errstate(divide="ignore"):
        scores = np.log(shares)
    calibration = calibrate(scores, truth[tested], folds, options.accuracy, scale=False)
    disagreement, confused = _contradictions(held, labels)
    spread = _held_out_spread(index, labels, groups, held.rows[tested], folds)
    column: Column = {
        "labels": labels.counts(),
        "threshold": calibration.threshold,
        "limit": float(np.quantile(held.distance[tested].mean(axis=1), INSIDE)),
        "spread_limit": float(np.quantile(spread, INSIDE)),
        "disagreement": disagreement,
        "confused": confused,
        "calibration": calibration.as_json(),
        "ontology": {},
    }
    return column, calibration


def _held_out_spread(
    index: Index,
    labels: Labels,
    groups: npt.NDArray[Any],
    rows: Places,
    folds: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Spread of held-out cells ``[B]`` around labels learnt without the groups of their folds."""
    drawn = draw_labelled(labels.codes)
    vectors, codes = index.rows(drawn).astype(np.float64), labels.codes[drawn]
    asked, spread = index.rows(rows).astype(np.float64), np.empty(len(rows))
    for fold in np.unique(folds):
        away = folds == fold
        learnt = ~np.isin(groups[drawn], groups[rows[away]])
        types = fit_types(vectors[learnt], codes[learnt], len(labels.kept))
        spread[away] = types.distances(asked[away]).min(axis=1)
    return spread


def draw_labelled(codes: Codes) -> Places:
    """Draw the labelled cells that types are learnt from, the same each time."""
    rows = np.flatnonzero(codes >= 0)
    if len(rows) <= COMPARED:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, COMPARED, replace=False))


def _contradictions(held: HeldOut, labels: Labels) -> tuple[float, list[list[Any]]]:
    """Share of neighbours of another label, and the pairs of labels that this happens to most."""
    truth = labels.codes[held.rows]
    near = labels.codes[held.own_places]
    seen = (truth >= 0)[:, None] & (near >= 0) & np.isfinite(held.own_distance)
    other = seen & (near != truth[:, None])
    if not seen.any():
        return 0.0, []
    first = np.broadcast_to(truth[:, None], near.shape)[other]
    pairs = Counter(zip(*np.sort([first, near[other]], axis=0).tolist(), strict=True))
    total = int(seen.sum())
    worst = [
        [labels.kept[a], labels.kept[b], round(n / total, 4)]
        for (a, b), n in pairs.most_common(PAIRS)
    ]
    return float(other.sum() / total), worst


def contradictions(columns: Mapping[str, Column]) -> list[str]:
    """Say how often neighbours contradict each other, a line for each column."""
    lines = []
    for name, column in columns.items():
        line = f"{name}: {column['disagreement']:.1%} of a cell's neighbours have another label"
        pairs = [f"{a} and {b} ({share:.1%})" for a, b, share in column["confused"][:3]]
        lines.append(f"{line}{', most often ' if pairs else ''}{', '.join(pairs)}.")
    return lines
