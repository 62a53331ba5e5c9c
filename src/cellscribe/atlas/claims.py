"""The contract of the workers: who works on which shard.

It needs no server and no clock that machines share, only a store in which one of many creators of a
key wins (`stores`):

- a worker claims a shard by creating ``claims/SHARD/00001``, and rewrites that key all the while
  with the next number (its pulse);
- a claim whose pulse another worker has seen stand still for `Claims.patience` seconds of its own
  clock is dead; it takes over by creating the next key, ``claims/SHARD/00002``, which again only
  one can. The highest number is the claim that counts;
- what cannot be done is recorded under ``failed/SHARD/00001``; a worker that comes later tries it
  once more with the next number, those that were there do not;
- a result is taken in only by the claim that counts, and recorded by creating ``done/SHARD``, once.

So a worker that is killed costs its own shard's time and `patience`. One that was merely asleep
(stopped, cut off) sees a higher number when it wakes and drops its result. Should it publish in the
very moment in which it is replaced, the two results are the same bytes under one name.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from cellscribe.atlas.stores import Store, numbers
from cellscribe.atlas.walk import LOOKS, Walk, most_refusals

CLAIMS, DONE, FAILED = "claims", "done", "failed"
CLAIM = "claim"
"""Field of a record with the number of the claim under which it was made."""
PATIENCE = 60.0
"""Seconds without a pulse after which a worker is taken for dead."""
PULSES = 6
"""Pulses within that time."""
FREE = b"{}"
"""Content of a claim that its worker let go."""
SHORTEST_WAIT = 0.05
"""Seconds until a worker with nothing to claim looks again; doubled each time."""


@dataclass(frozen=True)
class Worker:
    """Who claims."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: float = field(default_factory=time.time)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells workers of one process apart, and those of containers with one host name."""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Claim:
    """A shard that is ours until it is finished, or another worker takes it for dead."""

    def __init__(self, store: Store, shard: str, number: int, worker: Worker) -> None:
        self.shard, self.number, self.key = shard, number, claim_key(shard, number)
        self._store, self.worker, self._beat = store, worker, 0
        self._writing = threading.Lock()

    def pulse(self) -> None:
        """Show that the worker lives."""
        with self._writing:
            self._beat += 1
            self._store.write(self.key, claim_bytes(self.worker, self._beat))

    def holds(self) -> bool:
        """Tell whether no other worker has taken the shard over."""
        return self._store.read(claim_key(self.shard, self.number + 1)) is None

    def done(self, record: dict[str, Any]) -> bool:
        """Record the result; False if the shard was finished by another worker."""
        return self._store.create(f"{DONE}/{self.shard}", _to_bytes({**record, CLAIM: self.number}))

    def fail(self, reason: str) -> None:
        """Record that the shard cannot be done, and why."""
        self._store.create(f"{FAILED}/{self.shard}/{self.number:05}", reason.encode())
        self.let_go()

    def let_go(self) -> None:
        """Leave the shard to others at once; what others recorded of our death stays."""
        with self._writing:
            if b'"beat"' in (self._store.read(self.key) or b""):
                self._store.write(self.key, FREE)


def claim_key(shard: str, number: int) -> str:
    """Key of a shard's n-th claim."""
    return f"{CLAIMS}/{shard}/{number:05}"


def claim_bytes(worker: Worker, beat: int) -> bytes:
    """Content of a claim at work."""
    return _to_bytes({**asdict(worker), "beat": beat})


def highest(store: Store, shard: str) -> int:
    """Number of the claim that counts; 0 if there is none."""
    return numbers(store, f"{CLAIMS}/{shard}").get(shard, 0)


def _to_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


class Claims:
    """The shards of a job as one worker sees them.

    Parameters
    ----------
    store
        Where the workers meet.
    shards
        Names of all shards, without ``/``.
    worker
        Who claims.
    patience
        Seconds without a pulse after which another worker is taken for dead.
    clock
        Seconds that go on while we sleep.
    on_done
        Called with the names of all finished shards each time that they are listed.
    """

    def __init__(
        self,
        store: Store,
        shards: Iterable[str],
        worker: Worker,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        on_done: Callable[[set[str]], None] = lambda shards: None,
    ) -> None:
        self.store, self.worker, self.patience, self._clock = store, worker, patience, clock
        self.shards, self._on_done = list(shards), on_done
        self._seen: dict[str, tuple[int, bytes, float]] = {}
        """Claim of another worker, its pulse, and when on our clock it was first seen so."""
        self.failed_before = numbers(store, FAILED)
        self._chance = random.Random(worker.token)
        self._done, self._left, self._wary = set[str](), list[str](), False
        self.begin: float = self._chance.random()
        """Where in the list to begin, as a part of it."""
        self.upcoming: str | None = None
        """The shard that is tried next, while one is worked on."""

    def open(self) -> list[str]:
        """Shards without a result that have not failed since we came."""
        if len(self._left) * LOOKS < len(self._done):
            self._done |= {n for n in self._left if self.store.read(f"{DONE}/{n}") is not None}
        else:
            self._done = {key.rpartition("/")[2] for key in self.store.keys(DONE)}
        failed = numbers(self.store, FAILED)
        self._on_done(self._done)
        self._left = [
            name
            for name in self.shards
            if name not in self._done and failed.get(name) == self.failed_before.get(name)
        ]
        return list(self._left)

    def __iter__(self) -> Iterator[Claim]:
        """Claim shards, one after the other, until every one is finished or has failed."""
        wait, longest = SHORTEST_WAIT, self.patience / PULSES
        while left := self.open():
            most = len(left) if wait >= longest else most_refusals(len(self._done))
            walk, claimed = Walk(left, self.begin, most, self._chance), False
            for shard in walk:
                self.upcoming = walk.upcoming
                claim = self.take(shard)
                self._wary = claim is None
                if claim is None:
                    walk.refused()
                else:
                    claimed = True
                    yield claim
            wait = SHORTEST_WAIT if claimed else min(2 * wait, longest)
            self.begin = self._chance.random()
            if not claimed:
                time.sleep(wait)

    def take(self, shard: str) -> Claim | None:
        """Claim a shard; None if another worker has it, has finished it, or failed at it."""
        number, known = 1, shard in self._seen
        if self._wary and not known:  # where others are, one look is cheaper than to try
            there = self.store.read(claim_key(shard, number)) or b""
            if b'"beat"' in there:
                self._seen[shard] = (number, there, self._clock())
                return None
        if known or not self._create(shard, number):
            if self.store.read(f"{DONE}/{shard}") is not None:
                return None
            number = highest(self.store, shard)
            if not self._may_follow(shard, number) or not self._create(shard, number + 1):
                return None
            number += 1
            # the worker before us may have finished it since we read the list
            if self.store.read(f"{DONE}/{shard}") is not None:
                return None
        return Claim(self.store, shard, number, self.worker)

    def _create(self, shard: str, number: int) -> bool:
        return self.store.create(claim_key(shard, number), claim_bytes(self.worker, 0))

    def _may_follow(self, shard: str, number: int) -> bool:
        content = self.store.read(claim_key(shard, number))
        # let go, or its worker is known to have died; one that is empty is being written
        if content is None or (content and b'"beat"' not in content):
            tried = self.store.read(f"{FAILED}/{shard}/{number:05}") is not None
            return not tried or self.failed_before.get(shard) == number
        now = self._clock()
        seen = self._seen.get(shard)
        if seen is None or seen[:2] != (number, content):
            self._seen[shard] = (number, content, now)
            return False
        return now - seen[2] > self.patience


@contextmanager
def alive(claim: Claim, patience: float = PATIENCE) -> Iterator[None]:
    """Give a claim its pulse, in a thread, for as long as the work takes."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(patience / PULSES):
            # a store that is away for a moment: the next pulse may reach it
            try:
                claim.pulse()
            except (OSError, ValueError):
                continue

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
