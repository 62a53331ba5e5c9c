"""A guard against HDF5 files on which the HDF5 library itself crashes or hangs.

Damaged bytes can send the library out of its memory or into a circle that no error ends; plain
h5py does the same on such a file. No check can see that before, as it would have to parse the file
as the library does. So a child process (`hdf5_probe`) walks through a file first, and only a file
that it survives is opened here. What is merely wrong in the file (types, sizes) is checked in this
process, by `storage`, where it can be said which field it is.

The cost: 0.13 s of computing to start the child, then 10 to 60 ms a file (60 ms where var has
230,000 texts); this process opens and reads a sound file in the time that it took before. The
child starts while anndata is imported, which most files need anyway, is kept for the next file,
and ends after a minute without one. A file that passed is not walked through again by this process
while its size, times and inode stay. Of 3,000 files with a few damaged bytes, 14 hang the library,
one crashes it and 46 make it ask for gigabytes. Where no Python can be started (an embedded or
frozen interpreter), a line says that the file is opened unchecked.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cellscribe.callbacks import Log
from cellscribe.cells.readers import hdf5_probe
from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.errors import InputError

STEP_SECONDS = 1.0
"""Computing that one step of the walk may take; in sound files it is some milliseconds."""
STEP_SECONDS_A_GB = 0.5
"""More of it for each GB of the file, as counting chunks is one step."""
ENDED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that come from outside: not the file's fault."""

MEMORY, PIPE = -1_000, -1_001
ANSWERS = {b"done\n": 0, b"memory\n": MEMORY, b"pipe\n": PIPE}
"""Answer of the child -> status of the file, next to those with which a child ends."""

_passed: set[tuple[int, ...]] = set()
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Process -> its child; a forked process finds its parent's there and starts its own."""
_lock = threading.Lock()


def check(path: Path, log: Log, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Have a child process walk through an HDF5 file.

    Parameters
    ----------
    path
        The file.
    log
        Called with a line where no child process can be started.
    meanwhile
        Called once, while the child is at work.

    Raises
    ------
    InputError
        The HDF5 library crashes or hangs on the file.
    """
    found = os.stat(path)
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if identity in _passed:
        meanwhile()
        return
    seconds = STEP_SECONDS + STEP_SECONDS_A_GB * found.st_size / 1e9
    request = json.dumps([str(path.absolute()), seconds]).encode() + b"\n"
    with _lock:
        kept = _running() is not None
        status = _walk(request, meanwhile)
        if status not in (0, -signal.SIGPROF, MEMORY, PIPE) and kept:
            # it was ending for want of work, or suffered from a file before
            status = _walk(request)
    if status < 0 and -status not in ENDED:
        raise InputError(f"{path}: {_end(-status)}; {DAMAGED}")
    if status:
        log(f"{path} is opened unchecked for damage that crashes HDF5: no Python can be started.")
    _passed.add(identity)


def _walk(request: bytes, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Send a request and wait: 0 if the file passed, an answer, or how the child ended."""
    try:
        child = _running() or _start()
    except OSError:
        meanwhile()
        return 1
    assert child.stdin is not None and child.stdout is not None
    try:
        with suppress(BrokenPipeError):
            child.stdin.write(request)
            child.stdin.flush()
        meanwhile()
        answer = child.stdout.readline()
        if answer in ANSWERS:
            return ANSWERS[answer]
    except BaseException:
        # its answer would be taken for that to the next file
        _stop()
        raise
    return _close()


def _running() -> subprocess.Popen[bytes] | None:
    child = _children.get(os.getpid())
    if child is not None and child.poll() is not None:
        _close()
        return None
    return child


def _start() -> subprocess.Popen[bytes]:
    """Start a child; OSError where there is no Python to start."""
    # an application that holds Python would be started itself
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
        raise OSError(f"{sys.executable!r} is no Python")
    folders = os.pathsep.join(folder for folder in sys.path if folder)
    # one thread is enough, and more take time to start
    more = {"PYTHONPATH": folders, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    child = subprocess.Popen(
        # -P: this folder has files that are named like those of the standard library
        [sys.executable, "-P", hdf5_probe.__file__],
        env={**os.environ, **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # its own session: Ctrl-C reaches this process alone, which then ends the child
        start_new_session=True,
    )
    _children[os.getpid()] = child
    return child


def _close() -> int:
    """Forget a child that has ended; its status."""
    child = _children.pop(os.getpid(), None)
    if child is None:
        return 0
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    return child.wait()


def _end(number: int) -> str:
    """Say what the status of a walk means."""
    if number == -MEMORY:
        return "the HDF5 library asks for far more memory than the file has bytes"
    if number == -PIPE:
        return "a link in it leads to a pipe, a device or a folder in place of an HDF5 file"
    if number in (signal.SIGPROF, signal.SIGALRM):
        return "the HDF5 library does not come to an end on it"
    return f"the HDF5 library crashes on it (signal {number})"


def _forked() -> None:
    """Have a forked process begin anew: its parent's other threads do not go on in it."""
    global _lock
    _lock = threading.Lock()


def _stop() -> None:
    """End the child with this process, also where a forked process holds its input open."""
    child = _children.get(os.getpid())
    if child is not None:
        child.kill()
    _close()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forked)
