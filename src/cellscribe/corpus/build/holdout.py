"""Search the datasets to hold out: close to a number of cells, and every label stays in train.

This is a small knapsack problem with cover. If few datasets can be chosen, every subset is tried;
else a local search starts from several seeded choices. Datasets are drawn at random and not
smallest first, which would hold out many experiments for one percent of the cells. Letters: `D`
datasets in order of their ids, `C` labels that need cover.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

TOLERANCE = 0.01
"""Choices within this share of the wanted number are equally good; the seed decides."""
EXHAUSTIVE = 16
"""Number of eligible datasets up to which every subset is tried."""
STARTS = 32
"""Number of starts of the local search if there are more."""

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """The input of the search."""

    ids: tuple[str, ...]
    cells: Numbers  # D, whole numbers, whose sums float64 holds exactly
    labels: tuple[tuple[str, str], ...]  # C of (column, label)
    holders: Flags  # C x D: the dataset has cells of the label
    fixed: Flags  # D: held out by name
    kept: Flags  # D: in train by name, or without cells
    unseen: str | None
    wish: float  # cells to hold out
    seed: int

    def order(self, start: int = 0) -> list[int]:
        """Return the datasets' places in an order that depends on seed, start and ids only."""

        def key(place: int) -> bytes:
            text = f"{self.seed}/{start}/{self.ids[place]}"
            return hashlib.blake2b(text.encode(), digest_size=8).digest()

        return sorted(range(len(self.ids)), key=key)


def check_cover(search: Search) -> None:
    """Check that the datasets named by the user leave every label in train."""
    lost = np.flatnonzero(~(search.holders & ~search.fixed).any(axis=1))
    if len(lost):
        (column, label), there = search.labels[lost[0]], search.holders[lost[0]]
        names = some([search.ids[place] for place in np.flatnonzero(there)])
        if not column:
            raise InputError("every dataset is to be held out; leave one of them for train")
        raise InputError(
            f"{column} {label!r} occurs only in {names}, to be held out, and would be lost from "
            f"train; take one of them off held_out and unseen, or {column} off covered"
        )


def choose(search: Search) -> Flags:
    """Return flags `D` of the datasets to hold out; `splits.split_datasets` states the rules.

    Raises
    ------
    InputError
        No dataset can be held out.
    """
    free = _spare(search, search.fixed) & ~search.kept
    if not (free.any() or search.fixed.any()):
        raise InputError(_nothing_to_hold_out(search))
    if free.sum() <= EXHAUSTIVE:
        return _best_subset(search, free)
    best, least = search.fixed, np.inf
    for start in range(STARTS):
        held = _improve(search, free, _fill(search, free, start))
        cost = _cost(search, search.cells[held].sum(), held.sum())
        if cost < least:
            best, least = held, float(cost)
        if least <= TOLERANCE * search.wish:
            return best
    # a dataset that alone exceeds the number by more than the best choice misses it cannot help
    miss = abs(search.cells[best].sum() - search.wish)
    over = search.cells + search.cells[search.fixed].sum() - search.wish
    small = free & ((over < miss) | (over <= search.wish / 2))
    if small.sum() <= EXHAUSTIVE:
        held = _best_subset(search, small)
        if _cost(search, search.cells[held].sum(), held.sum()) < least:
            return held
    return best


def _cost(search: Search, cells: Numbers, count: npt.NDArray[np.integer]) -> Numbers:
    """Return by how many cells choices miss the number, plus a large penalty for broken rules."""
    miss = np.abs(cells - search.wish)
    if search.unseen is not None:
        broken = np.where(count >= 2, 0, 2)
    else:
        several = (count >= 2) & (miss <= search.wish / 2)
        broken = np.where(several, 0, np.where(count >= 1, 1, 2))
    return miss + broken * 2 * search.cells.sum()


def _spare(search: Search, held: Flags) -> Flags:
    """Mark the datasets that can be held out in addition to `held` without losing a label."""
    left = search.holders[:, ~held].sum(axis=1)
    return ~held & ~search.holders[left == 1].any(axis=0)


def _best_subset(search: Search, free: Flags) -> Flags:
    """Try every subset of the free datasets; bit k of its number is the k-th in seeded order."""
    places = [place for place in search.order() if free[place]]
    cells, count = search.cells[search.fixed].sum(keepdims=True), search.fixed.sum(keepdims=True)
    for place in places:
        cells = np.concatenate([cells, cells + search.cells[place]])
        count = np.concatenate([count, count + 1])
    cost = _cost(search, cells, count)
    subsets = np.arange(len(cost))
    bits = 1 << np.arange(len(places))
    train = ~free & ~search.fixed
    for holders in np.unique(search.holders[~search.holders[:, train].any(axis=1)], axis=0):
        all_of_them = bits[holders[places]].sum()
        cost[(subsets & all_of_them) == all_of_them] = np.inf
    first = int(np.argmax(cost <= max(cost.min(), TOLERANCE * search.wish)))
    held = search.fixed.copy()
    held[[place for k, place in enumerate(places) if first >> k & 1]] = True
    return held


def _fill(search: Search, free: Flags, start: int) -> Flags:
    """Hold out free datasets in seeded order as long as they fit the wanted number."""
    held = search.fixed.copy()
    cells = search.cells[held].sum()
    left = search.holders[:, ~held].sum(axis=1)
    for place in search.order(start):
        labels = search.holders[:, place]
        fits = cells + search.cells[place] <= search.wish
        if free[place] and fits and (left[labels] > 1).all():
            held[place] = True
            cells += search.cells[place]
            left -= labels
    return held


def _improve(search: Search, free: Flags, held: Flags) -> Flags:
    """Add, return or exchange the best dataset, until no such move comes closer."""
    cost = _cost(search, search.cells[held].sum(), held.sum())
    while cost > TOLERANCE * search.wish:
        best = held
        for back in (None, *np.flatnonzero(held & free)):
            rest = held.copy()
            if back is not None:
                rest[back] = False
            into = np.flatnonzero(_spare(search, rest) & free)
            costs = _cost(
                search,
                search.cells[rest].sum() + np.append(0, search.cells[into]),
                rest.sum() + np.append(0, np.ones(len(into), np.intp)),
            )
            move = int(costs.argmin())
            if costs[move] < cost:
                cost, best = costs[move], rest
                if move:
                    best[into[move - 1]] = True
        if best is held:
            break
        held = best
    return held


def _nothing_to_hold_out(search: Search) -> str:
    """Explain, with the smallest dataset, why none can be held out."""
    open_ones = np.flatnonzero(~search.kept)
    if not len(open_ones):
        return "all datasets are to stay in train; take some off train, or set holdout to 0"
    if (search.cells > 0).sum() == 1:
        return f"{search.ids[open_ones[0]]!r} is the only dataset; add others, or set holdout to 0"
    place = open_ones[search.cells[open_ones].argmin()]
    alone = search.holders[:, place] & (search.holders.sum(axis=1) == 1)
    column, label = search.labels[int(np.flatnonzero(alone)[0])]
    return (
        f"no dataset can be held out: only {search.ids[place]!r} has {column} {label!r}, and any "
        f"other is alone with a label too or kept in train; add datasets, take {column} off "
        "covered, or set holdout to 0"
    )


def some(names: list[str]) -> str:
    """List up to five names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(str(name)) for name in names[:5]) + more
