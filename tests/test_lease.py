"""One process on one output: the second one is told who is at work, and nothing is left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.typed_cells import typed_cells

import cellscribe
from cellscribe import lease as leases
from cellscribe.errors import InputError
from cellscribe.lease import claim, lease, sweep
from cellscribe.writing import writing

BUSY = "is being written by another process"
HOLD = """
import sys, time
from pathlib import Path
from cellscribe.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lease in another process."""
    words = [sys.executable, "-c", HOLD, str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["kernel", "file"])
def kind(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leases with the kernel's locks, and without."""
    if request.param == "file":

        def no_locks(handle: int, how: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", no_locks)
    return request.param


def ended() -> int:
    """Number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("made", ["nothing", "file", "folder"])
def test_a_second_one_is_refused_and_nothing_is_left(tmp_path: Path, kind: str, made: str) -> None:
    out = tmp_path / "out.zarr"
    {"nothing": lambda: None, "file": out.touch, "folder": out.mkdir}[made]()
    before = os.listdir(tmp_path)
    with lease(out):
        with pytest.raises(InputError, match=f"{BUSY} .*pid {os.getpid()}, since 20"), lease(out):
            raise AssertionError
        with lease(tmp_path / "other"):
            pass
    with lease(out):
        pass
    assert os.listdir(tmp_path) == before


def test_another_process_is_named_and_its_death_frees_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    with held_elsewhere(out) as process:
        who = f"host {socket.gethostname()}, pid {process.pid}, since "
        with pytest.raises(InputError, match=who), lease(out):
            raise AssertionError
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lease(out):
            pass
    assert os.listdir(tmp_path) == []


def test_other_names_of_the_folder_name_the_same_output(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with lease(tmp_path / "real" / "out"):
        for other in ("link/out", "real/../real/out", "real/./out"):
            with pytest.raises(InputError, match=BUSY), lease(tmp_path / other):
                raise AssertionError
    (tmp_path / "real" / "run").mkdir()
    (tmp_path / "run").symlink_to("real/run")
    real = lease(tmp_path / "real" / "run")
    with lease(tmp_path / "run"), pytest.raises(InputError, match=BUSY), real:
        raise AssertionError


def test_of_many_threads_one_works_at_a_time(tmp_path: Path, kind: str) -> None:
    at_work, most = 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal at_work, most
        own = 0
        while own < 10:
            try:
                with lease(tmp_path / "out"):
                    with counting:
                        at_work += 1
                        most = max(most, at_work)
                    time.sleep(0.0005)
                    with counting:
                        at_work -= 1
                    own += 1
            except InputError:
                time.sleep(0.0001)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 4000,
        '{"pid": "x\\u001b[31m", "host": {}}',
        '{"pid": null, "since": []}',
    ],
)
def test_a_lock_file_says_what_it_likes(tmp_path: Path, kind: str, text: str) -> None:
    lock = tmp_path / ".out.lock"
    lock.write_text(text)
    if kind == "kernel":
        with lease(tmp_path / "out"):
            pass
        assert not lock.exists()
    else:
        with pytest.raises(InputError, match=BUSY) as told, lease(tmp_path / "out"):
            raise AssertionError
        assert str(told.value).isprintable()
        assert lock.read_text() == text


def test_a_lock_without_the_kernel_is_taken_over_when_its_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "")))
    lock = tmp_path / ".out.lock"
    here = {"host": socket.gethostname(), "pid": ended()}
    lock.write_text(json.dumps(here))
    with lease(tmp_path / "out"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    # of another machine, nothing is known but the time
    lock.write_text(json.dumps(here | {"host": "elsewhere"}))
    with pytest.raises(InputError, match="host elsewhere"), lease(tmp_path / "out"):
        raise AssertionError
    past = time.time() - leases.STALE - 1
    os.utime(lock, (past, past))
    with lease(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_without_the_kernel_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "")))
    monkeypatch.setattr(leases, "RENEW", 0.01)
    with lease(tmp_path / "out"):
        os.utime(tmp_path / ".out.lock", (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / ".out.lock").stat().st_mtime < 1:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_what_ended_processes_left_is_swept(tmp_path: Path) -> None:
    out, gone, here = tmp_path / "out[1]", ended(), os.getpid()
    (tmp_path / f".out[1].partial-{gone}").mkdir()
    (tmp_path / f"..out[1].partial-{gone}.partial-{gone}").mkdir()
    (tmp_path / f".out[1].json.partial-{gone}").touch()
    (tmp_path / f".out[1].partial-{here}").touch()
    kept = {
        f".out[1].partial-{os.getppid()}",  # that one lives
        f".out1.partial-{gone}",
        f".out[1].partial-{gone}x",
        f"out[1].partial-{gone}",
        f".out[1].npy.partial-{gone}",
    }
    for name in kept:
        (tmp_path / name).touch()
    with lease(out):
        pass
    assert set(os.listdir(tmp_path)) == kept


@pytest.mark.parametrize("there", [False, True])
def test_an_old_output_that_had_stepped_aside_is_put_back(tmp_path: Path, there: bool) -> None:
    out, aside = tmp_path / "out.zarr", tmp_path / f".out.zarr.replaced-{ended()}"
    aside.mkdir()
    (aside / "old").touch()
    if there:
        out.mkdir()
    sweep(out)
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert os.listdir(out) == ([] if there else ["old"])


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("old")
    with pytest.raises(InputError, match=r"out\.lock cannot be written"), lease(tmp_path / "out"):
        raise AssertionError
    assert (tmp_path / "precious").read_text() == "old"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    nowhere = lease(tmp_path / "none" / "out")
    with pytest.raises(InputError, match="no such folder; make it first"), nowhere:
        raise AssertionError


def test_a_claim_looks_before_and_holds_until_the_end(tmp_path: Path) -> None:
    out, source = tmp_path / "out.csv", tmp_path / "in.csv"
    source.touch()
    same = claim(source, [source], overwrite=True)
    with pytest.raises(InputError, match="is the input itself"), same:
        raise AssertionError
    with claim(out, [source], overwrite=False):
        with pytest.raises(InputError, match=BUSY), claim(out, overwrite=True):
            raise AssertionError
        with writing(out) as partial:
            partial.write_text("whole")
    with pytest.raises(InputError, match="exists already"), claim(out, overwrite=False):
        raise AssertionError
    with claim(out, overwrite=True):
        pass
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "out.csv"]


def test_a_forked_process_gives_nothing_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holding = lease(out)
    holding.__enter__()
    child = os.fork()
    if not child:
        holding.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(InputError, match=BUSY), lease(out):
        raise AssertionError
    holding.__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


VERBS: dict[str, Any] = {
    "embed": lambda model, data, out: cellscribe.embed_file(data, out, model=model, overwrite=True),
    "embed again": lambda model, data, out: cellscribe.embed_file(
        data, out, model=model, resume=True
    ),
    "tokenize": lambda model, data, out: cellscribe.tokenize(data, out, model=model),
    "annotate": lambda model, data, out: cellscribe.annotate_file(data, out, model=model),
    "genes": lambda model, data, out: cellscribe.embed_genes_file(data, out, model=model),
    "perturb": lambda model, data, out: cellscribe.perturb_file(
        data, out, cellscribe.PerturbOptions(top=3), model=model
    ),
    "finetune": lambda model, data, out: cellscribe.finetune(
        model, data, out.with_suffix(""), label="cell_type"
    ),
    "export": lambda model, data, out: cellscribe.export_model(model, out.with_suffix("")),
    "import": lambda model, data, out: cellscribe.import_model(model, out.with_suffix("")),
    "evaluate": lambda model, data, out: cellscribe.evaluate(model, data, out.with_suffix("")),
    "build": lambda model, data, out: cellscribe.build_corpus(data, out.with_suffix("")),
    "train": lambda model, data, out: cellscribe.train(data, out.with_suffix("")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_writes_says_who_is_at_work(
    verb: str, tiny_model: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "in.h5ad", tmp_path / "out.parquet"
    typed_cells(40).write_h5ad(data)
    with lease(out, out.with_suffix("")):
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(InputError, match=rf"{BUSY} \(host \S+, pid {os.getpid()}, since"):
            VERBS[verb](tiny_model, data, out)
        assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path) == ["in.h5ad"]
