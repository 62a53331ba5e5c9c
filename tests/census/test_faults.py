"""Census downloads that are stopped, killed or meet faults: the same files in the end."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
import pytest
from support.soma_store import HUMAN, SCFM, expect, silent

from cellscribe.cells.counts import Counts
from cellscribe.census import dataset_file, soma, soma_cells
from cellscribe.census.download import download_census
from cellscribe.census.state import CensusState
from cellscribe.errors import InputError

soma_package = pytest.importorskip("tiledbsoma", reason="needs the extra census")


pytestmark = pytest.mark.usefixtures("small_blocks")


def stop_in_second(total_before: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done > total_before:
            raise KeyboardInterrupt

    return progress


def test_resumes_by_dataset(ask: Any, out: Path, tmp_path: Path, reads: list[np.ndarray]) -> None:
    first = HUMAN.obs["soma_joinid"][SCFM & (HUMAN.obs["dataset_id"] == "alpha-1")]
    with pytest.raises(KeyboardInterrupt):
        download_census(out, ask(), progress=stop_in_second(len(first)), log=silent)
    assert {p.name for p in out.iterdir()} == {"alpha-1.h5ad", "census.json"}
    reads.clear()
    told: list[int] = []
    download_census(out, ask(), progress=lambda done, total: told.append(done), log=silent)
    assert not set(np.concatenate(reads)) & set(first)
    assert told[:2] == [0, len(first)]
    expect(out, SCFM)
    download_census(tmp_path / "whole", ask(), log=silent)
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    reads.clear()
    download_census(out, ask(), log=silent)
    assert reads == []


def test_stopped_between_file_and_list(
    ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CensusState, "add", stop)
        download_census(out, ask(), log=silent)
    assert (out / "alpha-1.h5ad").exists()
    download_census(out, ask(), log=silent)
    expect(out, SCFM)


def test_ctrl_c_is_heard_in_the_midst_of_hdf5(
    ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops what is raised in a callback of a weak reference, of which h5py has many."""

    def interrupt() -> None:
        class Dying:
            pass

        dying = Dying()
        end = weakref.finalize(dying, lambda: (os.kill(os.getpid(), SIGINT), time.sleep(0.05)))
        del dying
        assert not end.alive

    def append(*given: Any, work: Any = dataset_file._append) -> None:
        interrupt()
        work(*given)

    def blocks(*given: Any, work: Any = Counts.blocks) -> Any:
        interrupt()
        yield from work(*given)

    for owner, name, work in ((dataset_file, "_append", append), (Counts, "blocks", blocks)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, work)
            download_census(out, ask(), log=silent)
        assert [p.name for p in out.iterdir()] == ["census.json"]
    download_census(out, ask(), log=silent)
    expect(out, SCFM)


def test_what_a_killed_run_left_is_removed(ask: Any, out: Path) -> None:
    out.mkdir()
    (out / ".alpha-1.h5ad.partial-4711").write_bytes(b"half")
    (out / ".census.json.partial-4711").write_bytes(b"{")
    (out / ".hidden").write_bytes(b"mine")
    download_census(out, ask(), log=silent)
    assert (out / ".hidden").read_bytes() == b"mine"
    (out / ".hidden").unlink()
    expect(out, SCFM)


def test_a_file_that_changed_is_read_anew(ask: Any, out: Path) -> None:
    download_census(out, ask(), log=silent)
    (out / "alpha-1.h5ad").write_bytes(b"short")
    (out / "gamma-3.h5ad").unlink()
    said: list[str] = []
    download_census(out, ask(), log=said.append)
    assert [line.split()[0] for line in said] == [
        str(out / f"{name}.h5ad") for name in ("alpha-1", "gamma-3")
    ]
    expect(out, SCFM)


@pytest.mark.parametrize("fault", [soma_package.SOMAError, RuntimeError, TimeoutError])
def test_faults_that_pass_are_retried(
    ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    read, calls = soma_cells.read_block, iter(range(10**6))

    def faulty(matrix: soma.Matrix, ids: np.ndarray) -> Any:
        if next(calls) in (3, 4, 5):
            raise fault("the line is down\n\nAt:\n  somewhere.py")
        return read(matrix, ids)

    monkeypatch.setattr(soma_cells, "read_block", faulty)
    said: list[str] = []
    download_census(out, ask(), log=said.append)
    assert len(said) == 3
    assert all("(the line is down); trying again in 0 s" in line for line in said)
    expect(out, SCFM)


def test_faults_in_obs_are_retried(ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for name in ("scan_obs", "read_obs"):
        work, failed = getattr(soma_cells, name), []

        def faulty(*given: Any, work: Any = work, failed: Any = failed) -> Any:
            if not failed:
                failed.append(1)
                raise soma_package.SOMAError("a fault")
            return work(*given)

        monkeypatch.setattr(soma_cells, name, faulty)
    download_census(out, ask(), log=said.append)
    assert len(said) == 2
    expect(out, SCFM)


def test_gives_up_after_so_many_tries(ask: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ConnectionError("no route to host")

    said: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(InputError) as refusal:
        patch.setattr(soma_cells, "read_block", broken)
        download_census(out, ask(retries=2), log=said.append)
    assert len(said) == 2
    assert "dataset alpha-1 cannot be read (no route to host), tried 3 times" in str(refusal.value)
    assert [p.name for p in out.iterdir()] == ["census.json"]
    download_census(out, ask(), log=silent)
    expect(out, SCFM)


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(soma, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(soma.time, "sleep", waits.append)

    def broken() -> None:
        raise OSError("gone")

    with pytest.raises(InputError, match="tried 9 times"):
        soma.retry(broken, "it", 8, lambda line: None)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
