"""What the labels of an index are worth, learnt from groups and from types that are held out.

A sample of the index's own cells is searched for without the cells of its own group (without
groups: without the cell itself), each group first aligned to the others as a new file would be.
From how it fares come the threshold of what is called (`annotation.calibration`) and how far cells
of known types come to lie. Each type in turn is taken away, with all below it, to learn how far
cells of a type that nobody taught come to lie; from these two comes the probability that a cell is
of any known type (`annotation.domain.fit_known`).

Letters: ``B`` held-out cells, ``R`` cells of the index, ``K`` neighbours, ``C`` labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.align import NEAR
from cellscribe.annotation.calibration import Calibration, calibrate
from cellscribe.annotation.domain import INSIDE, TINY, fit_known, fit_types, known_probability
from cellscribe.annotation.labels import choose_folds
from cellscribe.annotation.shift import FEWEST
from cellscribe.config.index import IndexOptions
from cellscribe.errors import InputError
from cellscribe.index.frame import Frame, align_file, fit_frame
from cellscribe.index.nearest import Exact, Floats, Places, nearest_in, unit
from cellscribe.index.ontology import ancestors, match_labels
from cellscribe.index.store import Column
from cellscribe.index.votes import Codes, Labels, vote

HELD_OUT, GROUPS = 5_000, 50
"""Cells that are held out, drawn at random, in a larger index, and groups that they are of."""
WITHHELD, TYPES = 300, 200
"""Cells of a type that is taken away, and types that are."""
PAIRS = 5
"""Pairs of labels that are named where neighbours contradict each other."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Cells of an index, and their nearest in other groups."""

    rows: Places
    """``[B]`` rows of the index."""
    vectors: Floats
    """``[B, D]``, those of each group aligned to the others."""
    distance: Floats
    places: Places
    """``[B, K]``."""
    own_distance: Floats
    own_places: Places
    """``[B, K]``; cells of the own group, but not the cell itself, among them."""


def hold_out(
    search: Exact, groups: npt.NDArray[Any], labels: Labels, n_neighbors: int, seed: int
) -> HeldOut:
    """Search for cells of an index among those of other groups.

    Parameters
    ----------
    search
        Of the index.
    groups
        ``[R]`` from `group_numbers`.
    labels
        The first column, by which groups are aligned.
    n_neighbors, seed
        Of the index.

    Raises
    ------
    InputError
        Fewer cells than neighbours are of other groups.
    """
    index, own = search.index, np.arange(search.index.n_cells)
    rng = np.random.default_rng(seed)
    grouped, rows = not np.array_equal(groups, own), own
    names = np.unique(groups)
    if grouped and len(names) > GROUPS:
        rows = np.flatnonzero(np.isin(groups, rng.choice(names, GROUPS, replace=False)))
    rows = np.sort(rng.choice(rows, min(len(rows), HELD_OUT), replace=False))
    vectors: Floats = index.rows(rows)
    near = search.nearest(vectors, n_neighbors, groups=(own[rows], own))
    away = near
    if grouped:
        vectors = _align_groups(search, groups, labels, rows, vectors, n_neighbors)
        away = search.nearest(vectors, n_neighbors, groups=(groups[rows], groups))
    if not np.isfinite(away[0][:, -1]).all():
        raise InputError(
            f"{index.folder}: fewer than {n_neighbors} cells are of other groups than some cell; "
            "lower --n-neighbors or give more cells"
        )
    return HeldOut(
        rows=rows, vectors=vectors, distance=away[0], places=away[1],
        own_distance=near[0], own_places=near[1],
    )  # fmt: skip


def _align_groups(
    search: Exact,
    groups: npt.NDArray[Any],
    labels: Labels,
    rows: Places,
    vectors: Floats,
    n_neighbors: int,
) -> npt.NDArray[np.float64]:
    """Align each group to the cells of the others, as `annotate` aligns a file."""
    frame, moved = fit_frame(search.index, labels), np.array(vectors, np.float64)
    for group in np.unique(groups[rows]):
        here = groups[rows] == group

        def best(asked: Floats, number: Any = group) -> npt.NDArray[np.int64]:
            of = np.full(len(asked), number), groups
            distance, places = search.nearest(asked, n_neighbors, groups=of)
            near = np.where(np.isfinite(distance), labels.codes[places], -1)
            return vote(distance, near, len(labels.kept)).argmax(axis=1)

        found = align_file(frame, vectors[here], best, others=groups[frame.drawn] != group)
        moved[here] = frame.restore(found.alignment.apply(frame.standardise(vectors[here])))
    return moved


def learn_column(
    search: Exact,
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
    own, truth = groups[held.rows[tested]], truth[tested]
    given = None if len(np.unique(own)) == len(own) else own.astype(object)
    folds = choose_folds(truth, given, options.folds, options.seed)
    shares = vote(held.distance[tested], labels.codes[held.places[tested]], n_labels)
    best = shares.argmax(axis=1)
    ontology = match_labels(labels.kept)
    frame = fit_frame(search.index, labels)
    each = _held_out_distances(frame, held, labels, groups, tested, folds)
    spreads = _spreads(frame, labels, each, truth)
    distance = _at(each, best) / spreads[best]
    withheld = _withheld_distances(search, frame, labels, ontology, spreads, options)
    fitted = fit_known(distance[np.isfinite(distance)], withheld)
    # a kind of the cell's own label, as naive CD4 T cells are of CD4 T cells, is not wrong
    judged = np.where(_below(best, truth, labels.kept, ontology), best, truth)
    with np.errstate(divide="ignore"):
        scores = np.log(shares)
    calibration = calibrate(
        scores, judged, folds, options.accuracy, scale=False,
        known=known_probability(fitted, distance),
    )  # fmt: skip
    disagreement, confused = _contradictions(held, labels)
    column: Column = {
        "labels": labels.counts(),
        "threshold": calibration.threshold,
        "known": fitted.tolist(),
        "spreads": dict(zip(labels.kept, spreads.tolist(), strict=True)),
        **_held_out_figures(distance, own, grouped=given is not None),  # type: ignore[typeddict-item]
        "disagreement": disagreement,
        "confused": confused,
        "calibration": calibration.as_json(),
        "ontology": ontology,
    }
    return column, calibration


def _at(each: Floats, code: Codes) -> npt.NDArray[np.float64]:
    """The value of each row at its code."""
    return np.asarray(each[np.arange(len(each)), code])


def _below(
    best: Codes, truth: Codes, kept: list[str], ontology: Mapping[str, str]
) -> npt.NDArray[np.bool_]:
    """Whether the best label is a kind of the true one, ``[B]``."""
    above = np.zeros((len(kept), len(kept)), bool)
    for row, label in enumerate(kept):
        if label in ontology:
            over = ancestors(ontology[label])
            above[row] = [ontology.get(other, "") in over for other in kept]
    return np.asarray(above[best, truth])


def _held_out_distances(
    frame: Frame,
    held: HeldOut,
    labels: Labels,
    groups: npt.NDArray[Any],
    tested: Places,
    folds: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Distance of held-out cells to each label, learnt without the groups of their folds."""
    rows, codes = held.rows[tested], labels.codes[frame.drawn]
    asked, each = frame.standardise(held.vectors[tested]), np.empty((len(rows), len(labels.kept)))
    for fold in np.unique(folds):
        away = folds == fold
        learnt = ~np.isin(groups[frame.drawn], groups[rows[away]])
        types = fit_types(frame.standard[learnt], codes[learnt], len(labels.kept))
        each[away] = types.distances(asked[away])
    return each


def _spreads(frame: Frame, labels: Labels, each: Floats, truth: Codes) -> npt.NDArray[np.float64]:
    """How far held-out cells of each label lie from it, ``[C]``.

    That of a label that few held-out cells have is that of the cells that it was learnt from, times
    the ratio of the two among the other labels.
    """
    codes = labels.codes[frame.drawn]
    learnt, found = np.ones(len(labels.kept)), np.full(len(labels.kept), np.nan)
    inside, own = _at(frame.types.distances(frame.standard), codes), _at(each, truth)
    for code in range(len(labels.kept)):
        if (codes == code).any():
            learnt[code] = np.median(inside[codes == code])
        mine = own[(truth == code) & np.isfinite(own)]
        if len(mine) >= FEWEST:
            found[code] = np.median(mine)
    ratios = found[np.isfinite(found)] / learnt[np.isfinite(found)]
    ratio = float(np.median(ratios)) if len(ratios) else 1.0
    return np.maximum(np.where(np.isnan(found), ratio * learnt, found), TINY)


def _withheld_distances(
    search: Exact,
    frame: Frame,
    labels: Labels,
    ontology: Mapping[str, str],
    spreads: npt.NDArray[np.float64],
    options: IndexOptions,
) -> list[Floats]:
    """Distances of cells of each type to the others, the type and all below it taken away."""
    codes, table = labels.codes[frame.drawn], unit(search.index.rows(frame.drawn), search.space)
    rng, found = np.random.default_rng(options.seed), []
    n_labels, every = len(labels.kept), np.arange(len(labels.kept))
    for code in rng.permutation(n_labels)[:TYPES]:
        gone = _below(every, np.full(n_labels, code), labels.kept, ontology) | (every == code)
        rest, mine = np.flatnonzero(~gone[codes]), np.flatnonzero(codes == code)
        if len(rest) < options.n_neighbors or not len(mine):
            continue
        mine = rng.choice(mine, min(len(mine), WITHHELD), replace=False)
        distance, places = nearest_in(table[mine], [(0, table[rest])], options.n_neighbors)
        best = vote(distance, codes[rest][places], n_labels).argmax(axis=1)
        found.append(_at(frame.types.distances(frame.standard[mine]), best) / spreads[best])
    return found


def _held_out_figures(
    distance: npt.NDArray[np.float64], own: npt.NDArray[Any], *, grouped: bool
) -> dict[str, float]:
    """What new cells are compared with: quantiles of held-out cells, and the farthest group."""
    there = np.isfinite(distance)
    distance, own = distance[there], own[there]
    limit = float(np.quantile(distance, INSIDE))
    parts = [own == group for group in np.unique(own)] if grouped else []
    parts = [part for part in parts if part.sum() >= FEWEST]
    return {
        "limit": max(limit, TINY),
        "near": max(float(np.quantile(distance, NEAR)), TINY),
        "most_far": max([float((distance[part] > limit).mean()) for part in parts], default=0.0),
        "most_ratio": max([float(np.median(distance[part])) for part in parts], default=1.0),
    }


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
