"""Where the workers of a job meet: a folder or a bucket, by the few operations that both have.

The contract of the workers rests on one of them, `Store.create`: of any number of processes that
create one key, one succeeds. A folder does it with a hard link, a bucket with a conditional put.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cellscribe.errors import InputError
from cellscribe.writing import disk_errors, replace


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

    def fetch(self, key: str, path: Path) -> None:
        """Copy what is under a key to a local file."""

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
        with self._written(key, data) as (made, target):
            try:
                os.link(made, target)
            except FileExistsError:
                return False
            return True

    def write(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all."""
        with self._written(key, data) as (made, target):
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

    def fetch(self, key: str, path: Path) -> None:
        """Copy what is under a key to a local file."""
        import shutil

        with disk_errors(path):
            shutil.copyfile(self.path / key, path)

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        (self.path / key).unlink(missing_ok=True)

    def _written(self, key: str, data: bytes) -> _Written:
        return _Written(self.path / key, data)


class _Written:
    """A new file next to its target, removed at the end if it still has its own name."""

    def __init__(self, target: Path, data: bytes) -> None:
        self.target, self.data = target, data
        self.made = target.with_name(f".{target.name[:64]}.{uuid.uuid4().hex}")

    def __enter__(self) -> tuple[Path, Path]:
        with disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            # not synced: a key that a crash of the machine takes away costs one shard's time
            self.made.write_bytes(self.data)
        return self.made, self.target

    def __exit__(self, *error: object) -> None:
        self.made.unlink(missing_ok=True)


class Bucket:
    """A prefix of a bucket, through obstore; credentials come from the environment."""

    def __init__(self, url: str) -> None:
        refuse_secrets(url)
        self._obstore = _import_obstore()
        from obstore.store import from_url

        self._url = url.split("?")[0].rstrip("/")
        options: dict[str, Any] = {}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}
        try:
            self._store = from_url(self._url, **options)
        # what a scheme, a name or the environment may lack comes in many classes
        except Exception as error:  # noqa: BLE001
            raise InputError(
                f"{self._url} cannot be opened ({_first_line(error)}); check the address and the "
                "credentials in the environment"
            ) from None

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    def create(self, key: str, data: bytes) -> bool:
        """Write a key that is not there yet; False, and nothing changed, if it is."""
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._said(key):
                self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # a put that was answered by a cut connection is tried again and meets itself
            return self.read(key) == data
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all."""
        with self._said(key):
            self._obstore.put(self._store, key, data, use_multipart=False)

    def read(self, key: str) -> bytes | None:
        """Read a key; None if it is not there."""
        try:
            with self._said(key):
                return bytes(self._obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def keys(self, folder: str) -> Iterator[str]:
        """List the keys under a folder, in any order."""
        with self._said(folder):
            for page in self._obstore.list(self._store, prefix=folder):
                yield from (entry["path"] for entry in page)

    def take_in(self, key: str, path: Path) -> None:
        """Upload a file, which has its key only when it is complete, or the files of a folder."""
        files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file()]
        for file in files:
            inside = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            with self._said(f"{key}{inside}"):
                self._obstore.put(self._store, f"{key}{inside}", file)

    def fetch(self, key: str, path: Path) -> None:
        """Download a key, a few MiB in memory at a time."""
        with self._said(key), disk_errors(path), path.open("wb") as file:
            for part in self._obstore.get(self._store, key).stream(min_chunk_size=4 << 20):
                file.write(part)

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        try:
            with self._said(key):
                self._obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def _said(self, key: str) -> _Said:
        return _Said(f"{self.name}/{key}")


def refuse_secrets(url: str) -> None:
    """Refuse keys in a URL, which would end up in messages and manifests.

    Raises
    ------
    InputError
        There are some: before an ``@``, or in the query of a signed address.
    """
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise InputError(f"{scheme}://...: keys in a URL; put them into the environment")
    if scheme.startswith("http") and "?" in rest:
        raise InputError(
            f"{url.partition('?')[0]}?...: a signed address; download it first, or give the bucket"
        )


class _Said:
    """Turn what a bucket refuses into one line."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from obstore.exceptions import AlreadyExistsError, BaseError

        if isinstance(error, BaseError) and not isinstance(
            error, AlreadyExistsError | FileNotFoundError
        ):
            raise InputError(f"{self.what}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _import_obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise InputError(
            "reading and writing buckets needs obstore: pip install 'cellscribe[remote]'"
        ) from None
    return obstore


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
