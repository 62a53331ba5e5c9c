"""Workers on a real Ray cluster of several nodes: the same results, whatever dies."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import stub_worker
from support.command import write
from support.ray_cluster import RayCluster
from support.tiny import some_counts

import cellscribe
from cellscribe.atlas.job import Job
from cellscribe.atlas.launch import launch
from cellscribe.atlas.listener import Listener
from cellscribe.atlas.ray_driver import end_of_lost
from cellscribe.atlas.ray_worker import NodeWorker
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.errors import InputError

TESTS = Path(__file__).resolve().parents[1]
N_NODES = 3
N_SHARDS = 8


@pytest.fixture(scope="module")
def found_on_nodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield


@pytest.fixture(scope="module")
def cluster(found_on_nodes: None) -> Iterator[RayCluster]:
    with RayCluster(N_NODES) as cluster:
        yield cluster


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in ("kill", "orphan", "bad", "slow", "good"):
        (tmp_path / name).write_text("cells")
    return tmp_path


class Ear(Listener):
    """Keeps what became of the shards, and acts at each claim and at the first end of one."""

    def __init__(self, at_end: Any = None, at_claim: Any = None) -> None:
        self.ended: dict[str, str] = {}
        self._at_end, self._at_claim = at_end, at_claim

    def on_claim(self, shard: str, number: int) -> None:
        if self._at_claim:
            self._at_claim(shard)

    def on_shard(self, shard: str, what: str) -> None:
        self.ended[shard] = what
        act, self._at_end = self._at_end, None
        if act:
            act()


def run(sources: Path, what: dict[str, str], ear: Ear, said: list[str], **sharing: Any) -> None:
    out = sources / "out"
    task = stub_worker.task({name: str(sources / path) for name, path in what.items()}, out)
    options = ShardOptions(engine="ray", **sharing)
    launch(task, Job(out, None, ".txt"), options, listener=ear, log=said.append)


def test_a_lost_node_changes_nothing(
    cluster: RayCluster, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas, out = tmp_path / "atlas", tmp_path / "out"
    atlas.mkdir()
    for i in range(N_SHARDS):
        write(atlas / f"part{i}.h5ad", some_counts(60 + i, seed=i))
    said: list[str] = []
    monkeypatch.chdir(tmp_path)  # paths are relative to here, and nodes are elsewhere
    found = cellscribe.embed_files(
        "atlas",
        "out",
        EmbedOptions(model=str(tiny_model), device="cpu", precision="float32"),
        sharing=ShardOptions(engine="ray", address=cluster.address, workers=3, patience=600),
        listener=Ear(at_end=lambda: cluster.ask("kill")),
        log=said.append,
    )
    cluster.ask("add")
    assert found.failures == {}
    assert found.n_cells == sum(60 + i for i in range(N_SHARDS))
    # another takes its place, unless the others have done all before the loss is noticed
    assert any("died" in line for line in said), said
    alone = cellscribe.embed_files(
        atlas,
        tmp_path / "alone",
        EmbedOptions(model=str(tiny_model), device="cpu", precision="float32"),
        log=said.append,
    )
    assert alone.n_cells == found.n_cells
    for i in range(N_SHARDS):
        here, there = (pd.read_parquet(f / f"part{i}.parquet") for f in (tmp_path / "alone", out))
        np.testing.assert_array_equal(np.stack(here["embedding"]), np.stack(there["embedding"]))
    assert list((out / ".cellscribe" / "runs").iterdir()) == []


def test_a_shard_that_kills_its_workers_is_listed(cluster: RayCluster, sources: Path) -> None:
    def let_orphan_go(shard: str) -> None:
        # an actor that dies at once takes with it what nobody has heard yet
        if shard == "o":
            stub_worker.heard(sources / "orphan").touch()

    ear, said = Ear(at_claim=let_orphan_go), list[str]()
    good = {f"g{i}": "good" for i in range(4)}
    what = {"k": "kill", "o": "orphan", "b": "bad", **good}
    run(sources, what, ear, said, address=cluster.address)
    assert ear.ended.pop("o").startswith("its worker died 3 times (")
    assert ear.ended.pop("k").startswith("its worker died 3 times (signal 9), perhaps for lack")
    assert ear.ended == {"b": "no cells in it", **dict.fromkeys(good, "done")}
    # of three CPUs one is left free
    assert {line.partition(" died")[0] for line in said} <= {"worker 1", "worker 2"}


def test_what_waits_for_what_is_said(cluster: RayCluster, sources: Path) -> None:
    needs = {"workers": 4, "cpus_per_worker": 2, "gpus_per_worker": 0.5}
    line = (
        r"no worker has started in 5 s; waiting for 4 workers of 2 CPUs and 0\.5 GPU each: "
        r"the cluster has 3 CPUs, 0 in use, and 0 GPUs, 0 in use; "
    )
    with pytest.raises(InputError, match=line):
        run(sources, {"g": "good"}, Ear(), [], address=cluster.address, deadline=5, **needs)


def test_more_workers_than_room_use_what_there_is(cluster: RayCluster, sources: Path) -> None:
    ear = Ear()
    run(sources, {f"g{i}": "good" for i in range(4)}, ear, [], address=cluster.address, workers=9)
    assert set(ear.ended.values()) == {"done"}


@pytest.mark.slow  # a cluster of its own, with a server for clients
def test_a_client_of_the_cluster_will_do(found_on_nodes: None, sources: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    ear = Ear()
    with RayCluster(2, port) as cluster:
        what = {"k": "kill", "g0": "good", "g1": "good"}
        run(sources, what, ear, [], address=f"ray://127.0.0.1:{port}", workers=1)
        assert cluster.ask("free") == "2"
    assert ear.ended.pop("k").startswith("its worker died 3 times (signal 9)")
    assert ear.ended == {"g0": "done", "g1": "done"}


def test_ctrl_c_leaves_cluster_and_claims_free(cluster: RayCluster, sources: Path) -> None:
    def interrupt(shard: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sources, {"s": "slow"}, Ear(at_claim=interrupt), [], address=cluster.address, workers=1)
    state = Job(sources / "out", None, ".txt").state
    assert state.read("claims/s/00001") == b"{}"
    assert list(state.keys("runs")) == []
    assert list((sources / "out" / ".cellscribe" / "work").iterdir()) == []
    end = time.monotonic() + 20
    while (free := cluster.ask("free")) != "3" and time.monotonic() < end:
        time.sleep(0.1)
    assert free == "3"


def test_an_address_where_no_cluster_is_ends_with_a_line(
    found_on_nodes: None, sources: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"no Ray cluster at {address}: .*check --address"):
            run(sources, {"g": "good"}, Ear(), [], address=address)
        taken.listen()
        with pytest.raises(InputError, match=rf"no answer from Ray at {address} in 3 s"):
            run(sources, {"g": "good"}, Ear(), [], address=address, deadline=3)
    with pytest.raises(InputError, match=r"no Ray cluster at head: .*check --address"):
        run(sources, {"g": "good"}, Ear(), [], address="head")


@pytest.mark.parametrize(
    ("ray", "line"),
    [
        ("raise ImportError", r"--engine ray needs Ray: pip install 'cellscribe\[ray\]'"),
        (
            "def init(**options):\n"
            "    raise RuntimeError('Version mismatch: the cluster has\\n    Python 3.9')",
            "Ray at auto: Version mismatch: the cluster has Python 3.9",
        ),
        (
            "def init(**options):\n    raise ConnectionError",
            "no Ray cluster runs on this machine; start one with ray start --head",
        ),
        (
            "import os\ndef init(**options):\n    os.write(2, b'GCS is gone'); os._exit(1)",
            r"the connection to Ray was lost \(GCS is gone\)",
        ),
    ],
)
def test_what_ray_refuses_is_one_line(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: str, line: str
) -> None:
    package = tmp_path / "stub" / "ray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ray)
    (package / "exceptions.py").touch()
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with pytest.raises(InputError, match=line):
        run(sources, {"g": "good"}, Ear(), [])


def test_a_node_without_the_folder_or_of_another_version_refuses(tmp_path: Path) -> None:
    here = cellscribe.__version__
    for state, version, line in (
        (tmp_path / "out" / ".cellscribe", here, f"does not see {tmp_path}/out of the run"),
        (tmp_path, "0.0", f"has cellscribe {here}, the run 0.0"),
    ):
        worker = NodeWorker("{}", str(state), "token", version, gpus=False)
        [end] = worker.hear(0)
        assert isinstance(end, dict)
        assert end["kind"] == "refused"
        assert end["how"].startswith(f"{socket.gethostname()}: {line}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "kind", "how"),
    [
        (
            "ray::init\n ModuleNotFoundError: No module named 'cellscribe'",
            "refused",
            "install cell",
        ),
        ("The actor died because its node has died. Node Id: 1", "killed", "its node was lost"),
        ("The node was running low on memory: 15 of 16 GB", "killed", "ran out of memory"),
        (
            "Worker exit detail: end of file. Some common causes: (1) memory",
            "killed",
            "end of file.",
        ),
    ],
)
def test_how_an_actor_was_lost(text: str, kind: str, how: str) -> None:
    end = end_of_lost(RuntimeError(text))
    assert end["kind"] == kind
    assert how in end["how"]
    assert "common causes" not in end["how"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"address": "auto"}, "--address is for --engine ray"),
        ({"gpus_per_worker": 1}, "--gpus-per-worker is for --engine ray"),
        ({"engine": "ray", "gpus_per_worker": 1.5}, "must be a part of one GPU or a whole number"),
        ({"engine": "ray", "gpus_per_worker": -1.0}, "must be a part of one GPU"),
        ({"engine": "ray", "deadline": 0}, "deadline must be positive"),
        ({"engine": "dask"}, "engine"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        ShardOptions(**options)
