"""Files that appear whole or not at all, and disk errors as one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.errors import InputError


class OutputError(InputError):
    """The result cannot be written: disk full, no permission."""


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_target(out: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse a target that could lose something or cannot be written.

    Raises
    ------
    InputError
        `out` is the input itself, exists without `overwrite`, or its folder is not there or not
        writable.
    """
    if source is not None:
        here, there = out.resolve(), Path(source).resolve()
        if here == there or (out.exists() and os.path.samefile(out, there)):
            raise InputError(f"{out} is the input itself; name another output")
        if there in here.parents:
            raise InputError(f"{out} lies inside the input {source}; name another output")
        if here in there.parents:
            raise InputError(f"{out} contains the input {source}; name another output")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; give --overwrite to replace it, or another name")
    folder = out.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; write somewhere else")


@contextmanager
def disk_errors(
    what: Path | str, fix: str = "free some space or write elsewhere"
) -> Iterator[None]:
    """Turn the errors of a disk into one line."""
    try:
        yield
    except OSError as error:
        # HDF5 packs the system's number into its own text.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "errno = 28" in str(error)
        reason = "the disk is full" if full else (error.strerror or str(error))
        raise OutputError(f"{what} cannot be written: {reason}; {fix}") from error


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Give a path next to `out` to write to; at the end it takes `out`'s place, or is removed."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        with disk_errors(out):
            yield partial
            replace(partial, out)
    finally:
        remove(partial)


@contextmanager
def alone(folder: Path, refusal: str, log: Log = lambda line: None) -> Iterator[None]:
    """Hold a folder, so that no second process works in it.

    Parameters
    ----------
    folder
        Exists.
    refusal
        Of the second process, one line.
    log
        Called with a line where the file system has no locks.

    Raises
    ------
    InputError
        Another process holds it.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(refusal) from None
        except OSError as error:
            log(f"{folder} cannot be locked ({error.strerror}): let one process work in it.")
        yield
    finally:
        os.close(handle)


def replace(partial: Path, out: Path) -> None:
    """Put `partial` in `out`'s place; an old folder cannot be replaced at once: it steps aside."""
    if out.is_dir() and not out.is_symlink():
        aside = out.with_name(f".{out.name}.replaced-{os.getpid()}")
        os.rename(out, aside)
        try:
            os.rename(partial, out)
        except BaseException:
            os.rename(aside, out)
            raise
        remove(aside)
    else:
        os.replace(partial, out)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names; OSError if there is neither."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(path.rglob("*")):
        if part.is_file():
            digest.update(f"{part.relative_to(path).as_posix()}\0{hash_of(part)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file or of a folder's files."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that it has its name only when complete."""
    with writing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
