"""Copies of remote objects on this machine, shared by all its processes and bounded in size.

A folder of the user's own in ``TMPDIR`` has a folder for each object, named by its address, version
and size, so that workers that read rows of one large file download it once. What holds it together
are locks of the kernel, which end with their process however it ends:

- ``users``, shared by every process that has the spool open. Who gets it alone is the only one:
  at the start what is there was left by killed processes, at the end nobody needs it. Both remove
  all;
- ``room``, held for the moment in which room is made: the least recently used copies that nobody
  reads are removed. A copy takes its whole size at once, so that what is on its way counts;
- one for each copy: alone while it is made or removed, shared while it is read.

Whoever waits for room holds no copy, so somebody always goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cellscribe.buckets.bucket import Bucket, Stored, split_object
from cellscribe.buckets.download import download
from cellscribe.errors import InputError
from cellscribe.writing import disk_errors, remove

SHARE = 0.5
"""Of the free space of TMPDIR, where no bound is given."""
WAIT = 0.2
"""Seconds until a process that found no room looks again."""
USERS, ROOM, LOCK = "users", "room", ".lock"
PARTIAL = "partial"
NAME_BYTES = 150
"""Of an object's name, kept for the copy's; its ending counts."""


class NoRoomError(Exception):
    """Every copy is being read."""


@dataclass(frozen=True)
class _Entry:
    """A copy: its folder, and the lock next to it."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}{LOCK}")

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("*/*"))

    def remove(self) -> None:
        remove(self.folder)
        self.lock.unlink(missing_ok=True)


class Spool:
    """The copies of this user on this machine; a context manager.

    Parameters
    ----------
    limit_gb
        Most room on the disk, in 10^9 bytes; half of what is free if not given.
    parent
        In place of ``TMPDIR``.

    Raises
    ------
    InputError
        The folder belongs to someone else, or cannot be made or locked.
    """

    def __init__(self, limit_gb: float | None = None, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        self.folder = parent / f"cellscribe-spool-{os.geteuid()}"
        self._buckets: dict[str, Bucket] = {}
        self._closing = threading.Event()
        self._users = self._enter()
        free = shutil.disk_usage(self.folder).free + self._taken()
        self.limit = int(free * SHARE if limit_gb is None else limit_gb * 1e9)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _enter(self) -> int:
        """Join the users of the folder; who finds nobody there removes what it holds."""
        while True:
            with disk_errors(self.folder, "free some space or set TMPDIR"):
                with suppress(FileExistsError):
                    self.folder.mkdir(mode=0o700)
                handle = _open(self.folder / USERS) if self._is_private() else None
                if handle is None:
                    continue
                if _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._clear()
                fcntl.flock(handle, fcntl.LOCK_SH)
            if _names(self.folder / USERS, handle):
                return handle
            os.close(handle)  # the last one left, and removed it, between the two calls

    def _is_private(self) -> bool:
        """Check whose the folder is; False if it went meanwhile."""
        try:
            found = self.folder.lstat()
        except FileNotFoundError:
            return False
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not own or stat.S_IMODE(found.st_mode) & 0o077:
            raise InputError(
                f"{self.folder} is not a folder of yours alone; remove it, or set TMPDIR to "
                "another folder"
            )
        return True

    def stop(self) -> None:
        """End the downloads of other threads."""
        self._closing.set()

    def close(self) -> None:
        """Leave; the last one removes all copies."""
        try:
            if _lock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._clear()
                (self.folder / USERS).unlink(missing_ok=True)
                with suppress(OSError):  # somebody comes
                    self.folder.rmdir()
        finally:
            os.close(self._users)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != USERS:
                remove(path)

    def _entries(self) -> list[_Entry]:
        return [
            _Entry(Path(entry.path))
            for entry in os.scandir(self.folder)
            if entry.is_dir(follow_symlinks=False)
        ]

    def _taken(self) -> int:
        taken = 0
        for entry in self._entries():
            with suppress(FileNotFoundError):
                taken += entry.size
        return taken

    @contextmanager
    def copy(self, url: str, listed: Stored | None = None, *, wait: bool = True) -> Iterator[Path]:
        """Give a local copy of an object, which stays until the block ends.

        Parameters
        ----------
        url
            Address of the object.
        listed
            What it must be; looked up if not given.
        wait
            Until another copy is no longer read, if there is no room.

        Raises
        ------
        InputError
            There is no such object, it is larger than the bound or changes while it is read, the
            bucket refuses, the disk is full.
        NoRoomError
            Without `wait`, there is none.
        StoppedError
            Another thread called `stop`.
        """
        root, key = split_object(url)
        bucket = self._buckets.get(root) or Bucket(root)
        self._buckets[root] = bucket
        about = listed or bucket.head(key)
        if about is None:
            raise InputError(f"{url}: no such object; check the address")
        if (about.size or 0) > self.limit:
            raise InputError(
                f"{url} has {about.size:,} bytes, more than the spool may take ({self.limit:,}); "
                "give more --spool-gb, or set TMPDIR to a larger disk"
            )
        name = hashlib.sha256(f"{url}\0{about.version}".encode()).hexdigest()[:32]
        entry = _Entry(self.folder / name)
        path = entry.folder / "whole" / _file_name(key)
        while True:
            handle = _open(entry.lock)
            if handle is None:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)
                if not _names(entry.lock, handle):
                    continue
                if path.exists():
                    os.utime(handle)
                    yield path
                    return
                fcntl.flock(handle, fcntl.LOCK_EX)
                # letting go of one lock and taking the other are two steps
                if _names(entry.lock, handle) and not path.exists():
                    self._fetch(bucket, about, entry, path, wait)
            finally:
                os.close(handle)

    def _fetch(self, bucket: Bucket, about: Stored, entry: _Entry, path: Path, wait: bool) -> None:
        partial = entry.folder / PARTIAL
        remove(entry.folder)
        try:
            with disk_errors(path, "free some space or set TMPDIR"):
                self._make_room(about.size or 0, partial / path.name, wait)
                try:
                    download(
                        bucket,
                        about.key,
                        partial / path.name,
                        about,
                        limit=self.limit,
                        stop=self._closing,
                    )
                except FileNotFoundError:
                    raise InputError(
                        f"{bucket.name}/{about.key}: no such object; check the address"
                    ) from None
                partial.rename(path.parent)
        except BaseException:
            entry.remove()
            raise

    def _make_room(self, size: int, path: Path, wait: bool) -> None:
        """Take the room for a file, which others see from then on."""
        while True:
            room = _open(self.folder / ROOM)
            assert room is not None
            try:
                fcntl.flock(room, fcntl.LOCK_EX)
                over = self._taken() + size - self.limit
                if over <= 0 or self._evict(over):
                    path.parent.mkdir(parents=True, mode=0o700)
                    with path.open("wb") as file:
                        file.truncate(size)
                    return
            finally:
                os.close(room)
            if not wait:
                raise NoRoomError
            time.sleep(WAIT)

    def _evict(self, over: int) -> bool:
        """Remove copies that nobody reads, the least recently used first, if that is enough."""
        held: list[tuple[_Entry, int]] = []
        try:
            for entry in sorted(self._entries(), key=lambda entry: _time(entry.lock)):
                if over <= 0:
                    break
                handle = _open(entry.lock)
                if handle is None:
                    continue
                held.append((entry, handle))
                if _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    over -= entry.size
                else:
                    held.pop()
                    os.close(handle)
            for entry, _ in held if over <= 0 else ():
                entry.remove()
            return over <= 0
        finally:
            for _, handle in held:
                os.close(handle)


def _file_name(key: str) -> str:
    """Name of a copy: that of the object, short enough for any disk."""
    return os.fsdecode(os.fsencode(key.rpartition("/")[2])[-NAME_BYTES:])


def _open(path: Path) -> int | None:
    """Open a lock file, which is made if it is not there; None if its folder went meanwhile."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None


def _lock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    return True


def _names(path: Path, handle: int) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
