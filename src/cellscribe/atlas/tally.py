"""How far a run over many shards is: shards, cells, cells/s, failures, time left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from datetime import timedelta

from cellscribe.atlas.listener import FINISHED, Listener
from cellscribe.callbacks import Progress, number_of

WINDOW = 60.0
"""Seconds over which cells/s are taken."""
SETTLED = 10.0
"""Seconds of work before which neither is told: in the first ones code is compiled, and a rate of a
few cells says nothing of the hours to come."""


class Tally(Listener):
    """Counts what it hears.

    Cells and cells/s are those of this run; shards that were finished before it or by workers of
    other runs count as done. The time left takes shards of which nothing is known for as large as
    the mean of the others, and counts on the others' workers to go on as they did.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.total = 0
        self.failed: dict[str, str] = {}
        self._done: set[str] = set()
        self._own: set[str] = set()
        self._cells: dict[str, tuple[int, int]] = {}
        self._earlier: set[str] | None = None
        """Shards that were done when we came."""
        self._samples: deque[tuple[float, int]] = deque()
        self._began: float | None = None
        self._n_cells = 0

    def on_start(self, shards: int) -> None:
        """Take the number of shards."""
        self.total = shards

    def on_claim(self, shard: str, number: int) -> None:
        """Take the first claim as the beginning of the work."""
        if self._began is None:
            self._began = self._clock()
            self._samples.append((self._began, 0))

    def on_cells(self, shard: str, done: int, total: int) -> None:
        """Take the cells of a shard at work."""
        now = self._clock()
        self._n_cells += done - self._cells.get(shard, (0, 0))[0]
        self._cells[shard] = (done, total)
        self._samples.append((now, self._n_cells))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW:
            self._samples.popleft()

    def on_shard(self, shard: str, what: str) -> None:
        """Take the end of a shard."""
        if what == FINISHED:
            self._done.add(shard)
            self._own.add(shard)
            self.failed.pop(shard, None)
        else:
            self.failed[shard] = what

    def on_seen(self, shards: Collection[str]) -> None:
        """Take shards that are done."""
        self._done.update(shards)
        for shard in shards:
            self.failed.pop(shard, None)
        if self._earlier is None:
            self._earlier = set(shards)

    @property
    def n_done(self) -> int:
        """Shards with a result."""
        return len(self._done)

    @property
    def n_ended(self) -> int:
        """Shards that are done or have failed."""
        return len(self._done | self.failed.keys())

    @property
    def n_cells(self) -> int:
        """Cells that this run has done."""
        return self._n_cells

    @property
    def cells_per_second(self) -> float | None:
        """Cells of this run in a second, lately; None if that cannot be told yet."""
        if not self._samples or self.seconds < SETTLED:
            return None
        (first, before), (_, cells) = self._samples[0], self._samples[-1]
        seconds = self._clock() - first
        return (cells - before) / seconds if cells > before and seconds > 0 else None

    @property
    def seconds(self) -> float:
        """Time since the first claim."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def fraction(self) -> float:
        """Share of the shards that is done or has failed, those at work by their cells."""
        parts = sum(done / max(total, 1) for done, total in self._at_work)
        return (self.n_ended + parts) / max(self.total, 1)

    @property
    def _at_work(self) -> list[tuple[int, int]]:
        return [
            cells
            for shard, cells in self._cells.items()
            if shard not in self._done and shard not in self.failed
        ]

    @property
    def seconds_left(self) -> float | None:
        """Time left; None if that cannot be told yet."""
        open_ = self.total - self.n_ended
        if open_ <= 0:
            return 0.0
        rate = self.cells_per_second
        if rate is None:
            return None
        known = self._cells.values()
        mean = sum(total for _, total in known) / len(known)
        at_work = self._at_work
        left = sum(total - done for done, total in at_work) + mean * max(0, open_ - len(at_work))
        others = len(self._done - self._own - (self._earlier or set()))
        rate += others * mean / max(self.seconds, 1e-9)
        return left / rate

    def line(self, width: int | None = None) -> str:
        """Say all of it, or the most important of it that has room in `width` columns."""
        rate, left = self.cells_per_second, self.seconds_left
        parts = {
            "shards": f"{self.n_done:,}/{number_of(self.total, 'shard')}",
            "cells": number_of(self.n_cells, "cell"),
            "rate": "" if rate is None else f"{rate:,.{int(rate < 10)}f} cells/s",
            "failed": f"{len(self.failed):,} failed" if self.failed else "",
            "left": "" if not left else f"{timedelta(seconds=round(left))} left",
        }
        for drop in ("", "cells", "rate", "left", "failed"):
            parts.pop(drop, None)
            text = " · ".join(part for part in parts.values() if part)
            if width is None or len(text) <= width:
                break
        return text


class Reports(Tally):
    """Calls a function with (shards that have ended, shards in all, the line) for all it hears."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._progress, self._over = progress, False

    def on_cells(self, shard: str, done: int, total: int) -> None:
        """Take the cells of a shard at work."""
        super().on_cells(shard, done, total)
        self._report()

    def on_shard(self, shard: str, what: str) -> None:
        """Take the end of a shard."""
        super().on_shard(shard, what)
        self._report()

    def on_seen(self, shards: Collection[str]) -> None:
        """Take shards that are done."""
        super().on_seen(shards)
        self._report()

    def _report(self) -> None:
        over = self.n_ended >= self.total
        if not (over and self._over):  # the end once, however many are heard to end
            self._progress(self.n_ended, self.total, self.line())
        self._over = over
