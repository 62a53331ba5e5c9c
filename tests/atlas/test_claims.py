"""Workers share out shards: each is done once, whoever dies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from cellscribe.atlas.claims import Claims, Worker, alive
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.records import read_failures, standing
from cellscribe.atlas.stores import Folder
from cellscribe.atlas.worker import _do
from cellscribe.cells.source_lists import Shard

NAMES = [f"shard{i}" for i in range(40)]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_shard_is_done_once_by_many_workers(tmp_path: Path) -> None:
    done: list[tuple[str, str]] = []

    def work() -> None:
        worker = Worker()
        for claim in Claims(Folder(tmp_path), NAMES, worker, patience=5):
            time.sleep(0.002)
            assert claim.done({"worker": worker.token})
            done.append((claim.shard, worker.token))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(shard for shard, _ in done) == Counter(NAMES)
    assert len({token for _, token in done}) == 8


def test_the_shard_of_a_dead_worker_is_taken_over(tmp_path: Path) -> None:
    clock, store = Clock(), Folder(tmp_path)
    dead = Claims(store, ["a"], Worker(), patience=10).take("a")
    other = Claims(store, ["a"], Worker(), patience=10, clock=clock)
    assert dead is not None
    assert other.take("a") is None
    clock.now = 9.0
    assert other.take("a") is None
    dead.pulse()
    clock.now = 18.0
    assert other.take("a") is None  # the pulse is seen for the first time now
    clock.now = 29.0
    claim = other.take("a")
    assert claim is not None
    assert claim.number == 2
    assert claim.holds()
    assert not dead.holds()
    assert claim.done({})
    assert not dead.done({})  # woken, it finds the shard finished
    assert other.open() == []


def test_one_that_slept_too_long_drops_its_result(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("cells")
    job, shard = Job(tmp_path / "out", None, ".x"), Shard(name="a", path=str(tmp_path / "cells"))
    clock = Clock()
    claim = Claims(job.state, ["a"], Worker()).take("a")
    assert claim is not None

    def make(shard: Shard, path: Path, progress: object) -> dict[str, object]:
        path.write_text("vectors")
        other = Claims(job.state, ["a"], Worker(), patience=10, clock=clock)
        assert other.take("a") is None
        clock.now = 11.0  # while this one is stopped
        assert other.take("a") is not None
        return {}

    assert not _do(job, shard, shard, claim, make, tmp_path, Listener())
    assert not (tmp_path / "out" / "a.x").exists()
    assert list(job.state.keys("done")) == []


def test_a_claim_that_was_let_go_is_free_at_once(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    first = Claims(store, ["a"], Worker()).take("a")
    assert first is not None
    first.let_go()
    second = Claims(store, ["a"], Worker()).take("a")
    assert second is not None
    assert second.number == 2


def test_a_failure_is_tried_again_once_by_those_who_come_later(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    early = [Claims(store, ["a", "b"], Worker()) for _ in range(3)]
    claim = early[0].take("a")
    assert claim is not None
    claim.fail("no cells")
    assert [claims.take("a") for claims in early] == [None, None, None]
    assert early[1].open() == ["b"]
    late = [Claims(store, ["a", "b"], Worker()) for _ in range(3)]
    assert sorted(late[0].open()) == ["a", "b"]
    again = late[0].take("a")
    assert again is not None
    again.fail("still none")
    assert late[1].take("a") is None
    assert late[2].open() == ["b"]
    assert read_failures(store, ["a", "b"], standing(store)) == {"a": "still none"}


def test_of_many_who_take_over_at_once_one_wins(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    Claims(store, ["a"], Worker()).take("a")
    clocks = [Clock() for _ in range(6)]
    others = [Claims(store, ["a"], Worker(), patience=1, clock=clock) for clock in clocks]
    assert [claims.take("a") for claims in others] == [None] * 6
    for clock in clocks:
        clock.now = 2.0
    won: list[object] = []
    start = threading.Barrier(6)

    def race(claims: Claims) -> None:
        start.wait()
        won.append(claims.take("a"))

    threads = [threading.Thread(target=race, args=(claims,)) for claims in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in won) == 1


@pytest.mark.parametrize("beats", [True, False])
def test_a_pulse_keeps_a_claim(tmp_path: Path, beats: bool) -> None:
    patience = 0.3
    store = Folder(tmp_path)
    claim = Claims(store, ["a"], Worker(), patience=patience).take("a")
    assert claim is not None
    other = Claims(store, ["a"], Worker(), patience=patience)
    taken = []
    with alive(claim, patience if beats else 1e6):
        for _ in range(8):
            taken.append(other.take("a"))
            time.sleep(patience / 4)
    assert (max(t is not None for t in taken)) == (not beats)
