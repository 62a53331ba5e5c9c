"""A file on which the HDF5 library crashes or hangs ends a child process, and one line says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from cellscribe.cells.readers import hdf5_guard, hdf5_probe
from cellscribe.errors import InputError

LINES: list[str] = []


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """No child and no memory of files, before and after."""
    hdf5_guard._stop()
    hdf5_guard._passed.clear()
    LINES.clear()
    yield
    hdf5_guard._stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as made:
        made["a/b"] = np.arange(9)
        made["a/b"].attrs["c"] = ["some", "texts"]
        made["again"] = made["a"]
        made["names"] = np.array(["a", "b"], dtype=h5py.string_dtype())
    return path


def probe(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Put another program in the place of the walk."""
    text = "import os, signal, sys, time\nfor line in sys.stdin:\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    (folder / "other_probe.py").write_text(text)
    monkeypatch.setattr(hdf5_probe, "__file__", str(folder / "other_probe.py"))


DONE = "\nsys.stdout.write('done\\n'); sys.stdout.flush()\n"


def test_one_child_walks_through_many_files(file: Path, tmp_path: Path) -> None:
    hdf5_guard.check(file, LINES.append)
    child = hdf5_guard._children[os.getpid()]
    other = file.rename(tmp_path / "näme \udcff\nof two lines.h5")
    hdf5_guard.check(other, LINES.append)
    assert child.poll() is None
    assert hdf5_guard._children == {os.getpid(): child}
    assert LINES == []
    hdf5_guard._stop()
    assert child.poll() is not None


def test_a_file_that_passed_is_not_walked_through_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    hdf5_guard.check(file, LINES.append)
    hdf5_guard._stop()
    probe(monkeypatch, tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    hdf5_guard.check(file, LINES.append, meanwhile=lambda: calls.append(1))
    assert calls == [1]
    os.utime(file, ns=(0, 0))
    with pytest.raises(InputError, match=r"x\.h5: the HDF5 library crashes on it \(signal 11\)"):
        hdf5_guard.check(file, LINES.append)


def test_a_walk_that_does_not_end(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the real timers, and a step that never ends
    script = f"""
        sys.path.insert(0, {str(Path(hdf5_probe.__file__).parent)!r})
        import hdf5_probe
        hdf5_probe.step(0.2)
        while True:
            pass
    """
    probe(monkeypatch, tmp_path, script)
    with pytest.raises(InputError, match="does not come to an end on it"):
        hdf5_guard.check(file, LINES.append)


def test_a_child_that_fell_ill_before_is_not_the_fault_of_the_next_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the second request of each child ends it
    body = "if 'again' in globals():\n    os.kill(os.getpid(), signal.SIGSEGV)\nagain = True" + DONE
    probe(monkeypatch, tmp_path, body)
    for _ in range(3):
        hdf5_guard._passed.clear()
        hdf5_guard.check(file, LINES.append)
    assert LINES == []


@pytest.mark.parametrize("executable", ["", "/usr/bin/env", "/no/python3"])
def test_without_a_python_to_start_a_line_says_so(
    executable: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    calls = []
    hdf5_guard.check(file, LINES.append, meanwhile=lambda: calls.append(1))
    assert calls == [1]
    assert len(LINES) == 1
    assert "is opened unchecked" in LINES[0]


def test_what_stops_the_caller_stops_the_child(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(monkeypatch, tmp_path, "time.sleep(60)")
    children = []

    def interrupt() -> None:
        children.append(hdf5_guard._children[os.getpid()])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdf5_guard.check(file, LINES.append, meanwhile=interrupt)
    assert children[0].poll() is not None
    assert hdf5_guard._children == {}
    # not of this session, so that Ctrl-C in a terminal reaches the caller alone
    monkeypatch.undo()
    hdf5_guard.check(file, LINES.append)
    assert os.getsid(hdf5_guard._children[os.getpid()].pid) != os.getsid(0)


def test_threads_and_forked_processes(file: Path) -> None:
    errors = []

    def work() -> None:
        try:
            hdf5_guard._passed.clear()
            hdf5_guard.check(file, LINES.append)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    script = """
        import os, sys
        from pathlib import Path
        from cellscribe.cells.readers import hdf5_guard
        file = Path(sys.argv[1])
        hdf5_guard.check(file, print)
        first = hdf5_guard._children[os.getpid()].pid
        hdf5_guard._passed.clear()
        if (pid := os.fork()) == 0:
            hdf5_guard.check(file, print)
            own = hdf5_guard._children[os.getpid()].pid
            hdf5_guard._stop()
            os._exit(own == first)
        assert os.waitpid(pid, 0)[1] == 0
        hdf5_guard.check(file, print)
        assert hdf5_guard._children[os.getpid()].pid == first
        print(first)
    """
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stderr == ""
    # at the end nothing is left
    for _ in range(100):
        try:
            os.kill(int(ran.stdout), 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child outlives its parent")


def test_the_walk_reaches_everything_once(file: Path) -> None:
    with h5py.File(file) as opened:
        try:
            found = [each.name for each in hdf5_probe.walk(opened, 30.0)]
            for each in hdf5_probe.walk(opened, 30.0):
                hdf5_probe.look_at_attributes(each)
                if isinstance(each, h5py.Dataset):
                    hdf5_probe.look_at_values(each, 30.0)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    # "a" and "again" are one group
    assert len(found) == 4
    assert {name.rsplit("/")[-1] for name in found} >= {"", "b", "names"}


def test_a_text_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["names"] = np.array(["ab", "cd"] * 20, dtype=h5py.string_dtype())
        at = file["names"].id.get_offset()
    content = bytearray(path.read_bytes())
    # a text is stored as its length and where it lies
    assert content[at : at + 4] == b"\2\0\0\0"
    content[at : at + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(InputError, match="far more memory than the file has bytes"):
        hdf5_guard.check(path, LINES.append)
    # and the child is well
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["x"] = 1
    hdf5_guard.check(tmp_path / "y.h5", LINES.append)
    assert LINES == []


def test_links_to_what_is_no_file_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", str(tmp_path / "pipe"), "/dev/zero"):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["X"] = h5py.ExternalLink(name, "/X")
        with pytest.raises(InputError, match="leads to a pipe"):
            hdf5_guard.check(tmp_path / "x.h5", LINES.append)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["none"] = h5py.ExternalLink("none.h5", "/X")
        file["X"] = h5py.ExternalLink("z.h5", "/X")
        file.create_dataset("values", (4,), "i8", external=[(str(tmp_path / "pipe"), 0, 32)])
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["X"] = 1
    hdf5_guard.check(tmp_path / "y.h5", LINES.append)
    assert LINES == []
