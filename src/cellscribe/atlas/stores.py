"""Where the workers of a job meet: a folder or a bucket, by the few operations that both have.

The contract of the workers rests on one of them, `Store.create`: of any number of processes that
create one key, one succeeds. A folder does it with a hard link, or where there are none with a file
that is opened as a new one; a bucket does it with a conditional put.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cellscribe.buckets.bucket import Bucket
from cellscribe.writing import disk_errors, replace

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of file systems without hard links: exFAT, some that are mounted by programs."""


class Store(Protocol):
    """Keys with bytes. A key is a relative path with ``/`` between its parts."""

    @property
    def name(self) -> str:
        """Where it is, for messages; holds no credentials."""

    def create(self, key: str, data: bytes) -> bool:
        """Write a key that is not there yet; False, and nothing changed, if it is."""

    def write(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all."""

    def read(self, key: str) -> bytes | None:
        """Read a key; None if it is not there."""

    def keys(self, folder: str) -> Iterator[str]:
        """List the keys under a folder, in any order."""

    def take_in(self, key: str, path: Path) -> None:
        """Put a finished local file under a key, whole or not at all; the file may be gone."""

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""


@dataclass(frozen=True)
class Folder:
    """A folder, local or shared by many machines."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def create(self, key: str, data: bytes) -> bool:
        """Write a key that is not there yet; False, and nothing changed, if it is."""
        with self._written(key, data) as (made, target), disk_errors(target):
            try:
                os.link(made, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _create_by_opening(target, data)
            return True

    def write(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all."""
        with self._written(key, data) as (made, target), disk_errors(target):
            os.replace(made, target)

    def read(self, key: str) -> bytes | None:
        """Read a key; None if it is not there."""
        try:
            return (self.path / key).read_bytes()
        except FileNotFoundError:
            return None

    def keys(self, folder: str) -> Iterator[str]:
        """List the keys under a folder, in any order."""
        for at, _, files in os.walk(self.path / folder):
            inside = Path(at).relative_to(self.path).as_posix()
            yield from (f"{inside}/{file}" for file in files if not file.startswith("."))

    def take_in(self, key: str, path: Path) -> None:
        """Move a finished file to a key; it must lie on the same file system."""
        target = self.path / key
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace(path, target)

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        (self.path / key).unlink(missing_ok=True)

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """Write a new file next to the key's, removed at the end if it still has its own name."""
        target = self.path / key
        made = target.with_name(f".{target.name[:64]}.{uuid.uuid4().hex}")
        try:
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                # not synced: a key that a crash of the machine takes away costs one shard's time
                made.write_bytes(data)
            yield made, target
        finally:
            made.unlink(missing_ok=True)


def _create_by_opening(target: Path, data: bytes) -> bool:
    """Create a key where the file system has no hard links: for a moment it is there and empty."""
    try:
        with target.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:
                target.unlink()
                raise
    except FileExistsError:
        return False
    return True


def numbers(store: Store, folder: str) -> dict[str, int]:
    """Highest number of each shard under a folder; other keys are left out."""
    found: dict[str, int] = {}
    for key in store.keys(folder):
        shard, _, number = key.rpartition("/")
        if number.isdecimal():
            shard = shard.rpartition("/")[2]
            found[shard] = max(int(number), found.get(shard, 0))
    return found


def open_store(place: str | Path) -> Store:
    """Open a folder, which is made if it is not there, or a bucket by its URL.

    Raises
    ------
    InputError
        The folder cannot be made, or the bucket cannot be opened.
    """
    if "://" in str(place):
        return Bucket(str(place))
    path = Path(place)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return Folder(path)
