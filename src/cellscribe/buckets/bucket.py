"""Objects in buckets (S3, GCS, Azure) and on the web: read, written and listed, through obstore.

Whatever a server refuses becomes one line; what servers and libraries say is not repeated in full,
as it may hold keys. obstore looks for credentials in the environment and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cellscribe.buckets.credentials import WEB, check_credentials, refuse_secrets
from cellscribe.buckets.refusals import Said, UnsupportedError, reason
from cellscribe.errors import InputError

STALL = 30.0
"""Seconds without a byte after which a request is tried again."""
RETRIES, RETRY_SECONDS = 10, 60.0
"""How often, and for how long, a request that fails is tried again."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object as a listing shows it."""

    key: str
    size: int | None
    """Bytes; None where a web server does not say."""
    etag: str
    """What changes with the content: the server's tag, or else the time."""

    @property
    def version(self) -> str:
        """Tells the object from what was under its key before."""
        return f"{self.size} bytes, {self.etag}"


class NotSharedError(InputError):
    """A bucket that does not keep a key from being written twice."""


class Bucket:
    """What lies under a URL; keys are relative to it.

    Parameters
    ----------
    url
        ``s3://``, ``gs://``, ``az://`` or ``https://``, a bucket (or host) and maybe a prefix. In
        a bucket it is taken letter by letter; on the web ``%20`` stands for a space.

    Raises
    ------
    InputError
        obstore is missing, the URL holds keys, or there are no credentials.
    """

    def __init__(self, url: str) -> None:
        refuse_secrets(url)
        self._obstore = _import_obstore()
        scheme, _, rest = url.partition("://")
        self.is_web = scheme in WEB
        """Whether it is a web server, which has no listings and may know no ranges."""
        host, _, prefix = rest.rstrip("/").partition("/")
        self._url = f"{scheme}://{host}/{prefix}".rstrip("/")
        self._prefix = (unquote(prefix) if self.is_web else prefix) + ("/" if prefix else "")
        self._host = f"{scheme}://{host}"
        check_credentials(scheme, self._host)
        self._store = self._opened()

    def _opened(self) -> Any:
        from obstore.store import from_url

        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        client: dict[str, Any] = {
            "read_timeout": timedelta(seconds=STALL),
            "timeout": timedelta(minutes=10),
        }
        retries: Any = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }
        plain = self._host.startswith("http://") or endpoint.startswith("http://")
        options: Any = {**client, **({"allow_http": True} if plain else {})}
        try:
            return from_url(self._host, client_options=options, retry_config=retries)
        # what a scheme, a name or the environment may lack comes in many classes
        except Exception as error:  # noqa: BLE001
            raise InputError(
                f"{self._host} cannot be opened ({reason(error)}); check the address and the "
                "credentials in the environment"
            ) from None

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    @property
    def store(self) -> Any:
        """The store of obstore, for libraries that take one; its keys begin with `at`."""
        return self._store

    def at(self, key: str) -> str:
        """Key in the whole bucket."""
        return f"{self._prefix}{key}"

    def create(self, key: str, data: bytes) -> bool:
        """Write a key that is not there yet; False, and nothing changed, if it is."""
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._said(key):
                self._put_new(key, data)
        except AlreadyExistsError:
            # a put that was answered by a cut connection is tried again and meets itself
            return self.read(key) == data
        except UnsupportedError:
            raise self._not_shared() from None
        return True

    def _put_new(self, key: str, data: bytes) -> None:
        self._obstore.put(self._store, self.at(key), data, mode="create", use_multipart=False)

    def _not_shared(self) -> NotSharedError:
        return NotSharedError(
            f"{self._host} does not keep a key from being written twice (conditional put), so "
            "workers cannot share it; name a folder or another bucket for the results"
        )

    def check_shared(self, key: str, data: bytes) -> None:
        """Check that a key which holds `data` is not created once more.

        Raises
        ------
        InputError
            The server ignores the condition: of many creators all would succeed.
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._said(key):
                self._put_new(key, data)
        except AlreadyExistsError:
            return
        raise self._not_shared()

    def write(self, key: str, data: bytes) -> None:
        """Write a key, whole or not at all."""
        with self._said(key):
            self._obstore.put(self._store, self.at(key), data, use_multipart=False)

    def read(self, key: str) -> bytes | None:
        """Read a key; None if it is not there."""
        try:
            with self._said(key):
                return bytes(self._obstore.get(self._store, self.at(key)).bytes())
        except FileNotFoundError:
            return None

    def keys(self, folder: str) -> Iterator[str]:
        """List the keys under a folder, at any depth, in any order."""
        for entry in self._listed(folder):
            yield entry["path"].removeprefix(self._prefix)

    def entries(self, folder: str) -> Iterator[Stored]:
        """List the objects under a folder, at any depth, in any order."""
        for entry in self._listed(folder):
            yield self._stored(entry)

    def _listed(self, folder: str) -> Iterator[Any]:
        with self._said(folder):
            for page in self._obstore.list(self._store, prefix=self.at(folder) or None):
                yield from page

    def level(self, folder: str) -> tuple[list[Stored], list[str]]:
        """List what lies directly in a folder: objects, and folders without what is in them."""
        with self._said(folder):
            found = self._obstore.list_with_delimiter(self._store, self.at(folder) or None)
        folders = [path.removeprefix(self._prefix) for path in found["common_prefixes"]]
        return [self._stored(entry) for entry in found["objects"]], folders

    def head(self, key: str) -> Stored | None:
        """Look at an object without reading it; None if it is not there."""
        try:
            with self._said(key):
                return self._stored(self._obstore.head(self._store, self.at(key)))
        except FileNotFoundError:
            if not self.is_web:
                return None
        except (InputError, UnsupportedError):
            if not self.is_web:
                raise
        # not every web server answers such a request, nor tells the length
        try:
            return self.read_range(key, 0, 1)[0]
        except FileNotFoundError:
            return None
        except UnsupportedError:
            return Stored(key=key, size=None, etag="")

    def _stored(self, meta: Any) -> Stored:
        tag = meta["e_tag"] or ""
        if not tag and meta["last_modified"].timestamp() > 0:
            tag = meta["last_modified"].isoformat()
        key = meta["path"].removeprefix(self._prefix)
        return Stored(key=key, size=meta["size"], etag=tag.removeprefix("W/").strip('"'))

    def take_in(self, key: str, path: Path) -> None:
        """Upload a file, which has its key only when it is complete, or the files of a folder."""
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        # what makes a folder a store comes last
        for file in sorted(files, key=lambda file: (file.parent == path, file)):
            inside = "" if file == path else f"/{file.relative_to(path).as_posix()}"
            with self._said(f"{key}{inside}"):
                self._obstore.put(self._store, self.at(f"{key}{inside}"), file)

    def read_range(self, key: str, first: int, end: int) -> tuple[Stored, memoryview]:
        """Read some bytes of an object, and what it is now.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        UnsupportedError
            The server knows no ranges.
        """
        with self._said(key):
            found = self._obstore.get(self._store, self.at(key), options={"range": (first, end)})
            return self._stored(found.meta), memoryview(found.bytes())

    def web_address(self, key: str) -> str:
        """Address for a web client."""
        return f"{self._host}/{quote(self.at(key))}"

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        try:
            with self._said(key):
                self._obstore.delete(self._store, self.at(key))
        except FileNotFoundError:
            return

    def _said(self, key: str) -> Said:
        return Said(f"{self.name}/{key}".rstrip("/"), self._host)


def split_object(url: str) -> tuple[str, str]:
    """Split the URL of an object into that of its bucket and its key.

    Raises
    ------
    InputError
        It names no object, or holds keys.
    """
    refuse_secrets(url)
    scheme, _, rest = url.partition("://")
    host, _, key = rest.rstrip("/").partition("/")
    if not key:
        raise InputError(f"{url}: a bucket and no object in it; name an object, or end it in /")
    return f"{scheme}://{host}", unquote(key) if scheme in WEB else key


def _import_obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise InputError(
            "reading and writing buckets needs obstore: pip install 'cellscribe[remote]'"
        ) from None
    return obstore
