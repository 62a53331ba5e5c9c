"""A shard that kills its workers is given up; what others do to a shard is not held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellscribe.atlas.claims import Claim, Claims, Worker
from cellscribe.atlas.deaths import deaths_before, record_death, refuse_fatal
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.stores import Folder
from cellscribe.atlas.worker import Joined, work
from cellscribe.callbacks import Progress
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError


def take(store: Folder, **more: Any) -> Claim:
    claim = Claims(store, ["a"], Worker(), **more).take("a")
    assert claim is not None
    return claim


def die(store: Folder, how: str = "signal 9") -> None:
    claim = take(store)
    refuse_fatal(store, claim)
    record_death(store, "a", claim.number, how)


def test_a_shard_is_given_up_after_three_deaths(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for _ in range(3):
        die(store)
    claim = take(store)
    with pytest.raises(InputError, match=r"died 3 times \(signal 9\), perhaps for lack of memory"):
        refuse_fatal(store, claim)
    claim.fail("given up")
    # whoever comes later tries it as often again
    for _ in range(3):
        die(store, "ValueError: no")
    with pytest.raises(InputError, match=r"died 3 times \(ValueError: no\), run again"):
        refuse_fatal(store, take(store))


def test_a_worker_that_vanished_has_died_and_one_that_let_go_has_not(tmp_path: Path) -> None:
    store, now = Folder(tmp_path), [0.0]
    take(store).let_go()
    take(store)
    later = Claims(store, ["a"], Worker(), patience=1, clock=lambda: now[0])
    assert later.take("a") is None
    now[0] = 2.0
    claim = later.take("a")
    assert claim is not None
    assert claim.number == 3
    assert deaths_before(store, "a", 3) == ["no sign of life"]
    refuse_fatal(store, claim)


def test_a_worker_taken_for_dead_does_not_undo_the_record(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    claim = take(store)
    record_death(store, "a", claim.number, "its actor was lost")
    claim.let_go()
    assert deaths_before(store, "a", 2) == ["its actor was lost"]
    assert take(store).number == 2


def test_a_worker_lists_a_fatal_shard_and_does_the_others(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("cells")
    shards = [Shard(name=name, path=str(tmp_path / "source")) for name in "ab"]
    job = Job(tmp_path / "out", {"verb": "test"}, ".txt")
    for _ in range(3):
        claim = Claims(job.state, ["a"], Worker()).take("a")
        assert claim is not None
        record_death(job.state, "a", claim.number, "signal 11")
    ended: dict[str, str] = {}

    class Ear(Listener):
        def on_shard(self, shard: str, what: str) -> None:
            ended[shard] = what

    def make(shard: Shard, path: Path, progress: Progress) -> dict[str, Any]:
        assert shard.name == "b"
        path.write_text("vectors")
        return {}

    def start(joined: Joined | None) -> None:
        work(job, shards, make, patience=5, joined=joined, listener=Ear())

    start(None)
    assert ended == {
        "a": "its worker died 3 times (signal 11), run again to try it once more",
        "b": "done",
    }
    # a worker that joins the same run leaves the failure alone; without word of it, it would try
    ended.clear()
    start(Joined(failed_before={}))
    assert ended == {}
    with pytest.raises(AssertionError):
        start(None)
