"""Workers that die are replaced, and what cannot work ends with a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import stub_worker

from cellscribe.atlas.claims import Claims, Worker
from cellscribe.atlas.job import Job
from cellscribe.atlas.launch import launch
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.processes import visible_gpus
from cellscribe.atlas.records import read_failures, standing
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError

TESTS = Path(__file__).resolve().parents[1]


class Ear(Listener):
    """Keeps what became of the shards."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def on_shard(self, shard: str, what: str) -> None:
        self.ended[shard] = what


@pytest.fixture(autouse=True)
def stubs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Path]:
    """A folder with a source of each behaviour."""
    for name in ("kill", "crash", "bad", "slow", "good"):
        (tmp_path / name).write_text("cells")
    return tmp_path


def run(
    sources: Path, what: dict[str, str], *, out: str = "out", **sharing: Any
) -> tuple[Ear, list[str]]:
    folder, ear, said = sources / out, Ear(), list[str]()
    job = Job(folder, None, ".txt")
    task = stub_worker.task({name: str(sources / path) for name, path in what.items()}, folder)
    launch(task, job, ShardOptions(**{"workers": 2, **sharing}), listener=ear, log=said.append)
    return ear, said


def test_a_shard_that_kills_its_workers_is_listed_and_the_others_are_done(sources: Path) -> None:
    good = {f"g{i}": "good" for i in range(6)}
    ear, said = run(sources, {"k": "kill", "c": "crash", "b": "bad", **good})
    assert ear.ended == dict.fromkeys(good, "done") | {
        "b": "no cells in it",
        "k": "its worker died 3 times (signal 9), perhaps for lack of memory; give fewer "
        "--workers, or cut it with --rows-per-shard",
        "c": "its worker died 3 times (RuntimeError: no such luck), run again to try it once more",
    }
    state = Job(sources / "out", None, ".txt").state
    failures = read_failures(state, ear.ended, standing(state))
    assert failures == {name: ear.ended[name] for name in "bck"}
    assert list((sources / "out" / ".cellscribe" / "work").iterdir()) == []
    died = sorted(line.partition(" ")[2].partition(" ")[2] for line in said)
    assert died == (
        ["died at c (RuntimeError: no such luck); another takes its place"] * 3
        + ["died at k (signal 9); another takes its place"] * 3
    )


def test_what_cannot_start_ends_with_its_line(sources: Path) -> None:
    out = sources / "out"
    job = Job(out, None, ".txt")
    sharing = ShardOptions(workers=2)
    for change, line in (
        ({"program": "support.no_such_worker"}, "No module named support.no_such_worker"),
        ({"verb": "unknown"}, "KeyError: 'unknown'"),
    ):
        task = stub_worker.task({"g": str(sources / "good")}, out, **change)
        said: list[str] = []
        with pytest.raises(InputError, match=line):
            launch(task, job, sharing, listener=Ear(), log=said.append)
        assert len(said) == 2
        assert not any("another" in line for line in said)
    Job(sources / "others", {"verb": "another"}, ".txt")
    with pytest.raises(InputError, match="holds results made with another verb"):
        run(sources, {"g": "good"}, out="others")


def test_strict_stops_the_others_and_frees_their_shards(sources: Path) -> None:
    with pytest.raises(InputError, match="no cells in it"):
        run(sources, {"s": "slow", "b": "bad"}, strict=True)
    store = Job(sources / "out", None, ".txt").state
    taken = Claims(store, ["s"], Worker()).take("s")
    assert taken is not None


def test_workers_end_with_the_process_that_started_them(sources: Path, tmp_path: Path) -> None:
    task = stub_worker.task({"s": str(sources / "slow")}, sources / "out", threads=1)
    code = (
        "import json, sys, time\n"
        "from cellscribe.atlas.processes import WorkerProcess\n"
        "import os\n"
        "WorkerProcess(json.loads(sys.argv[1]), os.environ, lambda heard: "
        "print(heard, end='', flush=True))\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(task)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert json.loads(parent.stdout.readline()) == {"claims": "s", "number": 1}
        store = Job(sources / "out", None, ".txt").state
        pid = json.loads(store.read("claims/s/00001") or b"")["pid"]
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert store.read("claims/s/00001") == b"{}"


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("2,3", 2, ["2", "3"]),
        ("2,3,9", 2, ["2", "3"]),
        ("GPU-8f2a, GPU-77b1", 2, ["GPU-8f2a", "GPU-77b1"]),
        ("MIG-1,MIG-2", 1, ["MIG-1", "MIG-2"]),
    ],
)
def test_gpus_are_those_that_this_process_was_given(
    monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, names: list[str]
) -> None:
    import torch

    from cellscribe.atlas import processes

    monkeypatch.setattr(processes, "has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == names


def test_workers_get_their_gpu_and_are_told_where_they_share(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellscribe.atlas import processes

    given: list[str] = []

    class Recorder:
        ended = type("Ended", (), {"wait": staticmethod(lambda seconds: True)})

        def __init__(self, task: Any, environment: Any, put: Any) -> None:
            given.append(environment["CUDA_VISIBLE_DEVICES"])

        def stop(self) -> None:
            pass

    monkeypatch.setattr(processes, "WorkerProcess", Recorder)
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["2", "3"])
    said: list[str] = []
    task = stub_worker.task({}, sources / "out", options={"device": "auto"})
    engine = processes.LocalEngine(task, 3, said.append)
    for place in (0, 1, 2, 1):
        engine.start(place)
    engine.stop()
    assert given == ["2", "3", "2", "3"]
    assert said == ["3 workers share 2 GPUs"]
    processes.LocalEngine(task, 2, said.append)
    processes.LocalEngine(
        {**task, "options": {"device": "cuda:1"}}, 2, lambda line: said.append(line)
    )
    assert said[1:] == ["2 workers share 1 GPU"]
