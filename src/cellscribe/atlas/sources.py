"""Sources in a bucket, listed next to those that are files: see `cells.source_lists`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellscribe.buckets.listing import list_remote
from cellscribe.cells.readers.endings import CONTAINERS, stem
from cellscribe.cells.source_lists import Shard, list_sources, refuse_same_names


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
    return [
        Shard(name=stem(found.url), path=found.url, size=found.size, etag=found.etag)
        for found in list_remote(url, CONTAINERS)
    ]
