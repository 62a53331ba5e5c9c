"""Looking at ten thousand shards takes few requests, and no record that is out of date."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cellscribe.atlas.claims import Claims, Worker
from cellscribe.atlas.job import Job, source_identity
from cellscribe.atlas.stores import Folder
from cellscribe.cells.source_lists import Shard

N = 50


class Counted(Folder):
    """A folder that counts what is asked of it."""

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        super().__init__(path)
        object.__setattr__(self, "counts", counts)

    def __getattribute__(self, name: str) -> Any:
        if name in ("create", "write", "read", "keys", "delete"):
            object.__getattribute__(self, "counts")[name] += 1
        return super().__getattribute__(name)


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    (tmp_path / "in").mkdir()
    found = []
    for i in range(N):
        path = tmp_path / "in" / f"s{i:02}.h5ad"
        path.write_text("cells")
        found.append(Shard(name=path.stem, path=str(path)))
    return found


def opened(tmp_path: Path) -> tuple[Job, Counter[str]]:
    counts: Counter[str] = Counter()
    job = Job(tmp_path / "out", {"verb": "embed"}, ".parquet")
    job.store = Counted(Path(job.store.name), counts)
    job.state = Counted(Path(job.state.name), counts)
    return job, counts


def do_all(job: Job, shards: list[Shard], claims: Claims) -> Iterator[str]:
    by_name = {shard.name: shard for shard in shards}
    for claim in claims:
        (Path(job.store.name) / job.file(claim.shard)).write_text("vectors")
        assert claim.done({"cells": 7, "source": source_identity(by_name[claim.shard])})
        yield claim.shard


def test_a_rerun_and_those_that_end_together_read_one_manifest(
    tmp_path: Path, shards: list[Shard]
) -> None:
    job, counts = opened(tmp_path)
    claims = Claims(job.state, [shard.name for shard in shards], Worker())
    assert sorted(do_all(job, shards, claims)) == [shard.name for shard in shards]
    ends = []
    for _ in range(4):
        threads = [
            threading.Thread(target=lambda: ends.append(job.write_manifest(shards, claims)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(end == ends[0] for end in ends)
    assert [entry["cells"] for entry in ends[0]["shards"]] == [7] * N
    assert counts["write"] == 1
    counts.clear()
    assert job.reopen_changed(shards) == []
    assert job.write_manifest(shards, claims) == ends[0]
    assert counts == {"keys": 6, "read": 2}


def test_a_record_is_never_taken_from_a_manifest_that_is_out_of_date(
    tmp_path: Path, shards: list[Shard]
) -> None:
    job, _ = opened(tmp_path)
    names = [shard.name for shard in shards]
    list(do_all(job, shards, Claims(job.state, names, Worker())))
    first = job.write_manifest(shards, Claims(job.state, names, Worker()))
    Path(shards[3].path).write_text("other cells")
    (tmp_path / "out" / "s05.parquet").unlink()
    assert job.reopen_changed(shards) == ["s03"]
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / ".cellscribe" / "done" / "s08").write_text("{")
    assert job.reopen_changed(shards) == []
    claims = Claims(job.state, names, Worker())
    assert sorted(do_all(job, shards, claims)) == ["s03", "s05", "s08"]
    second = job.write_manifest(shards, claims)
    assert [e["name"] for e in second["shards"] if e["claim"] == 2] == ["s03", "s05", "s08"]
    assert second["shards"][3]["source"] == source_identity(shards[3])
    assert second["shards"][4] == first["shards"][4]
    # one that is damaged is made anew from the records
    (tmp_path / "out" / "manifest.json").write_text('{"shards": [1, {"name": 2}]}')
    assert job.write_manifest(shards, claims) == second
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == second


def test_records_that_workers_told_are_not_read_again(tmp_path: Path, shards: list[Shard]) -> None:
    job, counts = opened(tmp_path)
    claims = Claims(job.state, [shard.name for shard in shards], Worker())
    list(do_all(job, shards, claims))
    told = {s.name: {"cells": 8, "claim": 1} for s in shards[:-1]}
    counts.clear()
    made = job.write_manifest(shards, claims, told)
    assert [entry["cells"] for entry in made["shards"]] == [8] * (N - 1) + [7]
    assert counts["read"] < 6


def test_workers_keep_out_of_each_others_way(tmp_path: Path, shards: list[Shard]) -> None:
    counts: Counter[str] = Counter()
    store = Counted(tmp_path / "state", counts)
    names = [shard.name for shard in shards]
    workers = [Claims(store, names, Worker()) for _ in range(2)]
    for claims, begin in zip(workers, (0.0, 0.5), strict=True):
        claims.begin = begin
    counts.clear()
    went = [iter(claims) for claims in workers]
    order: list[list[str]] = [[], []]
    for _ in range(N // 2):
        for taken, own in zip(went, order, strict=True):
            claim = next(taken)
            own.append(claim.shard)
            assert claim.done({})
    assert order == [names[: N // 2], names[N // 2 :]]
    assert counts == {"create": 2 * N, "keys": 4}


def test_where_others_are_a_worker_looks_before_it_tries(
    tmp_path: Path, shards: list[Shard]
) -> None:
    counts: Counter[str] = Counter()
    store = Counted(tmp_path / "state", counts)
    names = [shard.name for shard in shards]
    other, late = (Claims(store, names, Worker()) for _ in range(2))
    assert all(other.take(name) for name in names[:-1])
    late.begin = 0.0
    counts.clear()
    assert next(iter(late)).shard == names[-1]
    # besides the lists: the first is tried, the others are looked at
    assert counts["create"] <= 4
    assert counts["read"] < 3 * N


def test_what_others_put_among_the_keys_is_left_alone(tmp_path: Path, shards: list[Shard]) -> None:
    state = tmp_path / "out" / ".cellscribe"
    for key in ("claims/s00/notes.txt", "claims/.DS_Store", "failed/README", "done/s", "claims/x"):
        (state / key).parent.mkdir(parents=True, exist_ok=True)
        (state / key).write_text("?")
    job, _ = opened(tmp_path)
    names = [shard.name for shard in shards]
    claims = Claims(job.state, names, Worker())
    assert sorted(do_all(job, shards, claims)) == names
    assert len(job.write_manifest(shards, claims)["shards"]) == N
    assert (state / "claims" / "s00" / "notes.txt").exists()
