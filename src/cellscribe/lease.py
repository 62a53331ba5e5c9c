"""One process on one output: whoever comes second is told who is at work.

A lease on ``OUT`` is a locked file ``.OUT.lock`` next to it (inside it, where it is a folder in one
that may not be written to), which holds host, process and time. The kernel frees the lock when the
process ends, however it ends, so nothing is ever stale on one machine; on Linux that holds over NFS
too. Where a file system has no locks the file itself is the lock: made by whoever finds none, its
time renewed while the work goes on, and taken over when that stopped `STALE` seconds ago (clocks of
the machines may differ by less than that) or its process of this machine is gone. At the end the
file is removed.

Who holds the lease may remove what killed processes left on their way to ``OUT`` (`sweep`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError
from cellscribe.writing import (
    OutputError,
    check_name,
    check_place,
    check_taken,
    disk_errors,
    remove,
)

MANY = Path(".cellscribe", "claims")
"""Where a folder of many results holds a folder for each of them, see `atlas.job`."""
RENEW, STALE = 20.0, 120.0
"""Seconds after which a lock without the kernel's help is renewed, and counts as left behind."""


@contextmanager
def claim(
    out: Path,
    sources: Sequence[Path | None] = (),
    *,
    overwrite: bool,
    is_folder: bool = False,
    beside: Sequence[Path] = (),
) -> Iterator[None]:
    """Hold an output from its first check to its last byte.

    Parameters
    ----------
    out
        The output.
    sources
        The inputs.
    overwrite, is_folder
        As for `writing.check_target`.
    beside
        Further files that are written with the output.

    Raises
    ------
    InputError
        The output is refused by `check_target`, or another process is at work on it.
    """
    for source in sources or (None,):
        for path in (out, *beside):
            check_place(path, source)
    with lease(out):
        check_taken(out, overwrite=overwrite, is_folder=is_folder)
        for path in beside:
            check_taken(path, overwrite=overwrite)
        yield


@contextmanager
def lease(*outs: Path) -> Iterator[None]:
    """Keep other processes off outputs, and remove what killed ones left of them.

    Parameters
    ----------
    *outs
        Files or folders; they need not be there yet, the folders that they are in do.

    Raises
    ------
    InputError
        Another process (or thread) holds one of them; the message says which, and since when. Or
        one of them is a result of a run over many sources.
    OutputError
        A place cannot be written to.
    """
    with ExitStack() as stack:
        for out in outs:
            _refuse_result_of_many(Path(out))
        paths = {_lock_path(Path(out)): Path(out) for out in reversed(outs)}
        for out in reversed(paths.values()):
            stack.callback(_take(out))
            with disk_errors(out):
                sweep(out)
        yield


def _refuse_result_of_many(out: Path) -> None:
    """Refuse a file that the workers of a run over many sources write, each in its turn."""
    if (out.parent / MANY / out.stem).is_dir():
        raise InputError(
            f"{out} is a result of the run over many sources in {out.parent}; write elsewhere"
        )


def sweep(out: Path) -> None:
    """Remove what ended processes of this machine left on their way to `out`.

    An old output that had stepped aside when its process was killed is put back, if there is no
    new one in its place.
    """
    folder, name = _folder(out), out.name
    if not name:
        return
    left = re.compile(rf"\.+{re.escape(name)}(\.json)?((\.(?:partial|replaced)-\d+)+)")
    with os.scandir(folder) as entries:
        found = [(entry.name, match) for entry in entries if (match := left.fullmatch(entry.name))]
    for entry, match in sorted(found):
        if match[1] is None and ".replaced-" in match[2] and not os.path.lexists(out):
            os.rename(folder / entry, out)
        elif not _alive(int(match[2].rpartition("-")[2])) or match[2].endswith(f"-{os.getpid()}"):
            remove(folder / entry)


def sweep_inside(folder: Path) -> None:
    """Remove what ended processes left in a folder that this process holds."""
    if not folder.is_dir():
        return
    with disk_errors(folder), os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
        for name in names:
            left = re.fullmatch(r"\..+\.partial-(\d+)", name)
            if left and not _alive(int(left[1])):
                remove(folder / name)


def _folder(out: Path) -> Path:
    return out.parent.resolve()


def _lock_path(out: Path) -> Path:
    """Where the lock of an output lies; the same whatever the path by which it is named."""
    out = out.resolve() if out.is_dir() else _folder(out) / out.name
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first")
    check_name(out)
    if os.access(out.parent, os.W_OK | os.X_OK) and out.name:
        return out.parent / f".{out.name}.lock"
    if out.is_dir() and os.access(out, os.W_OK | os.X_OK):
        return out / ".lock"
    raise OutputError(f"{out.parent} is not writable; write somewhere else")


def _take(out: Path) -> Callable[[], None]:
    """Take a lease; what is returned gives it back."""
    path = _lock_path(out)
    while True:
        with disk_errors(path):
            opened = _open(path)
        if opened is None:
            continue
        handle, made = opened
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(handle, path):
                break
            os.close(handle)  # it was given back, and removed, between the two calls
        except BlockingIOError:
            holder = _read(path)
            os.close(handle)
            raise InputError(_busy(out, holder)) from None
        except OSError:  # no locks here
            os.close(handle)
            if made:
                path.unlink(missing_ok=True)
            return _take_by_file(out, path)
    _describe(handle)
    return partial(_give_back, path, handle, os.getpid())


def _open(path: Path) -> tuple[int, bool] | None:
    """Open a lock file, and tell whether it was made; None if it came or went meanwhile."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666), True
    except FileExistsError:
        pass
    try:
        return os.open(path, os.O_RDWR | flags), False
    except PermissionError:
        # left by a killed process of someone else; reading is enough to lock it
        return os.open(path, os.O_RDONLY | flags), False
    except FileNotFoundError:
        return None


def _same(handle: int, path: Path) -> bool:
    """Whether a path still names the open file."""
    try:
        here, there = os.fstat(handle), os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _describe(handle: int) -> None:
    """Write who holds a lock; it holds as well where the disk is too full for that."""
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "program": Path(sys.argv[0] or "python").name,
    }
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(about).encode(), 0)
    except OSError:
        return


def _give_back(path: Path, handle: int, owner: int) -> None:
    """Remove and close a lock file; a forked process only closes its own handle."""
    try:
        if os.getpid() == owner and _same(handle, path):
            path.unlink()
    except OSError:
        # a lock file that cannot be removed holds nobody up
        return
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, Any]:
    """What a lock file says of its holder; {} if it says nothing that can be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _busy(out: Path, holder: dict[str, Any]) -> str:
    parts = [f"{key} {str(holder[key])[:80]}" for key in ("host", "pid", "since") if key in holder]
    who = f" ({', '.join(parts)})" if parts else ""
    return f"{out} is being written by another process{who}; wait for it, or name another output"


# Without the kernel's help


def _take_by_file(out: Path, path: Path) -> Callable[[], None]:
    """Take a lease by making its file."""
    while True:
        try:
            with disk_errors(path):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
        try:
            seen, holder = os.stat(path, follow_symlinks=False), _read(path)
        except FileNotFoundError:
            continue  # it was given back meanwhile
        if not _is_stale(seen, holder):
            raise InputError(_busy(out, holder))
        _clear(out, path, seen)
    _describe(handle)
    owner, done = os.getpid(), threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, done), name="lease", daemon=True)
    renewing.start()

    def give_back() -> None:
        done.set()
        if os.getpid() == owner:
            renewing.join()
        _give_back(path, handle, owner)

    return give_back


def _is_stale(lock: os.stat_result, holder: dict[str, Any]) -> bool:
    here = holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int)
    return time.time() - lock.st_mtime > STALE or (here and not _alive(holder["pid"]))


def _clear(out: Path, path: Path, stale: os.stat_result) -> None:
    """Remove a lock left behind, unless someone else was quicker and the file is theirs by now."""
    aside = path.with_name(f"{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    moved = os.stat(aside, follow_symlinks=False)
    # a number may be used again for the next file, and a lock that is renewed is no longer stale
    if (moved.st_ino, moved.st_mtime_ns) != (stale.st_ino, stale.st_mtime_ns):
        os.rename(aside, path)
        raise InputError(_busy(out, _read(path)))
    remove(aside)


def _renew(path: Path, done: threading.Event) -> None:
    while not done.wait(RENEW):
        try:
            os.utime(path)
        except OSError:
            return


def _alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
