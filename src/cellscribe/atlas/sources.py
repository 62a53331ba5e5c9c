"""Sources in a bucket, listed next to those that are files: see `cells.source_lists`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath

from cellscribe.buckets.bucket import Bucket, split_object
from cellscribe.buckets.download import download
from cellscribe.buckets.listing import list_remote
from cellscribe.cells.readers.endings import CONTAINERS, stem
from cellscribe.cells.source_lists import (
    LIST_SUFFIXES,
    MAGIC,
    Shard,
    is_list,
    list_sources,
    read_list,
    refuse_same_names,
)

LIST_BYTES = 64 << 20
"""A text in a bucket above this is a table of counts and no list."""


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


def _in_bucket(url: str) -> list[Shard]:
    if url.endswith(LIST_SUFFIXES) and not any(mark in url for mark in MAGIC):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"list{PurePath(url).suffix}"
            if _copy_list(url, copy) and is_list(copy):
                return read_list(copy, in_bucket=_in_bucket, url=url)
    return [
        Shard(name=stem(found.url), path=found.url, size=found.size, etag=found.etag)
        for found in list_remote(url, CONTAINERS)
    ]


def _copy_list(url: str, copy: Path) -> bool:
    """Copy what may be a list; False if it is too large for one, or not there."""
    root, key = split_object(url)
    bucket = Bucket(root)
    listed = bucket.head(key)
    if listed is None or (listed.size or 0) > LIST_BYTES:
        return False
    download(bucket, key, copy, listed, limit=LIST_BYTES)
    return True
