"""The order of cells in an epoch: a function of (seed, epoch) only, the same for all readers.

A split's row groups are shuffled and laid end to end. This sequence of ``N`` cells is cut into
`lanes` stretches of equal length (the first ones a cell longer), and a lane yields its stretch one
window after the other, each shuffled; a window is the part of a row group that lies in the lane, so
a row group is decoded once and then dropped. Odd lanes run backwards: two neighbouring lanes reach
the row group that they share at the same time. Position ``p`` of the epoch is lane ``p % lanes``,
place ``p // lanes`` in it: consecutive cells come from as many row groups as there are lanes.

Rank ``r`` of ``W`` takes the positions that are ``r`` modulo ``W``. If ``W`` divides `lanes` these
are whole lanes, so no two ranks read the same stretch, and the batches are the same for every
``W``. Shuffles sort the raw output of Philox, which NumPy guarantees to keep (its `Generator`
methods may change).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def shuffled(n: int, key: tuple[int, ...]) -> Ints:
    """Return ``0 .. n - 1`` in an order that depends on `key` only, not on the NumPy version."""
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(bits, kind="stable")


@dataclass(frozen=True)
class _Window:
    """Places ``first`` to ``last`` of a lane: the ``rows`` of a row group."""

    first: int
    last: int
    group: int
    rows: Ints


class EpochOrder:
    """The order of one epoch.

    Parameters
    ----------
    rows
        ``[R]`` number of cells of each row group of the split; at least one in total.
    seed, epoch
        Numbers that decide the order; not negative.
    lanes
        Number of stretches that are read in parallel.
    """

    def __init__(self, rows: Ints, seed: int, epoch: int, lanes: int) -> None:
        self._key = (seed, epoch)
        self._groups = shuffled(len(rows), self._key)
        self._ends = np.cumsum(rows[self._groups])
        self.lanes = lanes
        self._windows: dict[int, _Window] = {}

    @property
    def cells(self) -> int:
        """Number of cells of the epoch, ``N``."""
        return int(self._ends[-1])

    def share(self, start: int, stop: int, rank: int, world_size: int) -> tuple[Ints, Ints]:
        """Return row group and row of a rank's cells at positions `start` to `stop`, in order.

        It is cheap to continue where the last call ended; any other place costs a shuffle per lane.
        """
        positions = np.arange(start + (rank - start) % world_size, stop, world_size)
        if not len(positions):
            return positions, positions
        first, last = start // self.lanes, -(-stop // self.lanes)
        own = range(rank, self.lanes, world_size)
        groups, rows = np.empty((2, last - first, len(own)), dtype=np.int64)
        for column, lane in enumerate(own):
            self._fill(lane, first, groups[:, column], rows[:, column])
        where = positions // self.lanes - first, positions % self.lanes // world_size
        return groups[where], rows[where]

    def _fill(self, lane: int, place: int, groups: Ints, rows: Ints) -> None:
        """Write a lane's cells from `place` on, until the arrays are full or the lane ends."""
        short, longer = divmod(self.cells, self.lanes)
        begin = lane * short + min(lane, longer)
        end = begin + short + (lane < longer)
        stop = min(place + len(rows), end - begin)
        filled = 0
        while place < stop:
            window = self._windows.get(lane)
            if window is None or not window.first <= place < window.last:
                window = self._windows[lane] = self._window(lane, place, begin, end)
            n = min(stop, window.last) - place
            groups[filled : filled + n] = window.group
            rows[filled : filled + n] = window.rows[place - window.first :][:n]
            place, filled = place + n, filled + n

    def _window(self, lane: int, place: int, begin: int, end: int) -> _Window:
        """Find the window with `place` in a lane that is cells `begin` to `end` of the sequence."""
        at = end - 1 - place if lane % 2 else begin + place
        number = int(np.searchsorted(self._ends, at, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        first, last = max(start, begin), min(int(self._ends[number]), end)
        # lane + 1, because trailing zeros would give the key of the row groups again
        rows = first - start + shuffled(last - first, (*self._key, lane + 1, number))
        places = (end - last, end - first) if lane % 2 else (first - begin, last - begin)
        return _Window(*places, int(self._groups[number]), rows)
