"""Bring the source of a shard to the machine that works on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cellscribe.atlas.stores import Bucket
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError


def fetch_source(shard: Shard, folder: Path) -> Shard:
    """Bring the source of a shard to this machine, if it is in a bucket.

    Parameters
    ----------
    shard
        Whose `path` may be a URL.
    folder
        Takes the copy: the source of one shard at a time.

    Raises
    ------
    InputError
        It is not there, or cannot be read.
    """
    if "://" not in shard.path:
        return shard
    root, _, name = shard.path.rstrip("/").rpartition("/")
    bucket, target = Bucket(root), folder / "source" / name
    target.parent.mkdir()
    keys = list(bucket.keys(name)) if name.endswith(".zarr") else [name]
    for key in keys:
        path = target.parent / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            bucket.fetch(key, path)
        except FileNotFoundError:
            raise InputError(f"{shard.path}: no such object; check the address") from None
    return dataclasses.replace(shard, path=str(target))
