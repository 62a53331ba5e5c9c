"""What a URL stands for: one object, those that match a pattern, or those of a folder.

A pattern is matched a level at a time, each by one listing that does not look into folders, so that
the hundred thousand chunks of a zarr store next to the files are not listed; only ``**`` goes
through everything. A zarr store is not one object but the folder of many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cellscribe.buckets.bucket import Bucket, Stored, split_object
from cellscribe.buckets.credentials import WEB, refuse_secrets
from cellscribe.buckets.download import STREAMS
from cellscribe.errors import InputError

MAGIC = "*?["
ZARR = ".zarr"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A remote source."""

    url: str
    size: int | None = None
    """Bytes; None of a zarr store, or if it is not known."""
    etag: str | None = None
    """What changes with its content; None if it was not looked at, or is not there."""


def list_remote(url: str, endings: Sequence[str] = ()) -> list[Remote]:
    """List what a URL stands for, by name; one object or zarr store is not looked at.

    Parameters
    ----------
    url
        Of an object, a zarr store, a pattern, or with a ``/`` at its end a folder.
    endings
        Which objects of a folder are sources.

    Raises
    ------
    InputError
        Nothing matches, the bucket refuses, or the URL holds keys.
    """
    refuse_secrets(url)
    if url.rstrip("/").endswith(ZARR):
        url = url.rstrip("/")
    scheme, _, rest = url.partition("://")
    has_pattern = any(mark in rest for mark in MAGIC)
    if not has_pattern and not url.endswith("/"):
        return [Remote(url=url)]
    if scheme in WEB:
        raise InputError(f"{url}: the web lists no folders; name each file, maybe in a CSV")
    host, _, path = rest.partition("/")
    *folders, last = path.split("/")
    bucket = Bucket(f"{scheme}://{host}")
    if last and (named := bucket.head(path)) is not None:  # a name that looks like a pattern
        return [_remote(bucket, named)]
    parts = [*filter(None, folders), last or "*"]
    wanted = tuple(endings) if last in ("", "**") else ("",)
    found = {key: stored for key, stored in _match(bucket, "", parts) if key.endswith(wanted)}
    if not found:
        raise InputError(f"{url}: nothing there has such a name; check the bucket and the pattern")
    return [
        Remote(url=f"{bucket.name}/{key}") if stored is None else _remote(bucket, stored)
        for key, stored in sorted(found.items(), key=lambda item: item[0])
    ]


def look_at(url: str) -> Remote:
    """Look at one object or zarr store, which need not be there.

    Raises
    ------
    InputError
        The bucket refuses, or the URL holds keys.
    """
    root, key = split_object(url)
    bucket = Bucket(root)
    if not key.endswith(ZARR):
        stored = bucket.head(key)
        return Remote(url=url) if stored is None else _remote(bucket, stored)
    # whoever writes a store anew writes the metadata at its root; to look at every chunk takes a
    # request for each thousand
    root_files = [f"{key}/{name}" for name in ("zarr.json", ".zmetadata", ".zgroup")]
    looked = [bucket.head(file) for file in root_files] if bucket.is_web else bucket.level(key)[0]
    tags = sorted(f"{entry.key} {entry.version}" for entry in looked if entry is not None)
    digest = hashlib.sha256("\n".join(tags).encode()).hexdigest()
    return Remote(url=url, etag=digest if tags else None)


def _remote(bucket: Bucket, stored: Stored) -> Remote:
    return Remote(url=f"{bucket.name}/{stored.key}", size=stored.size, etag=stored.etag)


Found = tuple[str, Stored | None]
"""A key, and what the listing says of it; None of a zarr store."""


def _match(bucket: Bucket, folder: str, parts: Sequence[str]) -> Iterator[Found]:
    """List what matches the levels of a pattern below a folder."""
    first, *rest = parts
    if first == "**":
        yield from _match_any_level(bucket, folder, [*parts] if rest else ["**", "*"])
        return
    if rest and not any(mark in first for mark in MAGIC):
        yield from _match(bucket, f"{folder}/{first}".lstrip("/"), rest)
        return
    objects, folders = bucket.level(folder)
    fits = {key for key in folders if fnmatchcase(key.rpartition("/")[2], first)}
    if not rest:
        yield from ((key, None) for key in fits if key.endswith(ZARR))
        for entry in objects:
            if fnmatchcase(entry.key.rpartition("/")[2], first):
                yield entry.key, entry
        return
    inner = sorted(key for key in fits if not key.endswith(ZARR))
    with ThreadPoolExecutor(STREAMS) as pool:
        for found in pool.map(lambda key: list(_match(bucket, key, rest)), inner):
            yield from found


def _match_any_level(bucket: Bucket, folder: str, parts: Sequence[str]) -> Iterator[Found]:
    for entry in bucket.entries(folder):
        store, ending, _ = f"{entry.key}/".partition(f"{ZARR}/")
        key = f"{store}{ZARR}" if ending else entry.key
        if _fits(key.removeprefix(f"{folder}/").split("/"), parts):
            yield key, None if ending else entry


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Tell whether the parts of a path match those of a pattern; ``**`` is any number of them."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names)))
    return fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])
