"""Sources in a bucket, listed next to those that are files: see `cells.source_lists`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from cellscribe.cells.readers.endings import CONTAINERS
from cellscribe.cells.source_lists import MAGIC, Shard, list_sources, refuse_same_names
from cellscribe.errors import InputError


def find_shards(words: Sequence[str | Path]) -> list[Shard]:
    """List the shards that are named, in the order of the words; those of one word by name.

    Raises
    ------
    InputError
        A word names nothing; a list lacks its column or a file; two shards have one name.
    """
    shards = list_sources(words, in_bucket=_in_bucket)
    refuse_same_names(shards)
    return shards


def _in_bucket(url: str) -> list[str]:
    """List the objects that a URL with a pattern, or one that ends in ``/``, stands for."""
    from cellscribe.atlas.stores import Bucket, refuse_secrets

    refuse_secrets(url)
    if not any(mark in url for mark in MAGIC) and not url.endswith("/"):
        return [url]
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    depth = next((i for i, part in enumerate(parts) if any(m in part for m in MAGIC)), len(parts))
    root = f"{scheme}://{'/'.join(parts[:depth]).rstrip('/')}"
    pattern = "/".join(parts[depth:]) or "*"
    keys = list(Bucket(root).keys(""))
    level = pattern.count("/") + 1
    # a zarr store is not one object but the folder of many
    folders = {"/".join(key.split("/")[:level]) for key in keys if key.count("/") >= level}
    sources = {key for key in keys if key.count("/") == level - 1}
    sources |= {folder for folder in folders if folder.endswith(".zarr")}
    found = [
        f"{root}/{key}"
        for key in sorted(sources)
        if fnmatchcase(key, pattern) and (pattern != "*" or key.endswith(CONTAINERS))
    ]
    if not found:
        raise InputError(f"{url}: nothing there has such a name; check the bucket and the pattern")
    return found
