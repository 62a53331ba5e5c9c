"""The sources of shards, brought to the machine that works on them.

An object in a bucket is copied to the spool of this machine, where all its workers read it. HDF5
would read it in place by thousands of small requests, one after the other; a copy takes a few
large ones at once, and is there while the model works on the source before. A zarr store is read in
place (`cells.readers.zarr_store`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType

from cellscribe.buckets.bucket import Stored, split_object
from cellscribe.buckets.download import StoppedError
from cellscribe.buckets.listing import look_at
from cellscribe.buckets.spool import NoRoomError, Spool
from cellscribe.cells.readers.foreign_files import is_remote_store
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError
from cellscribe.writing import OutputError

LOOKS = 16
"""Sources that are looked at at once."""


class Sources:
    """Sources of shards; a context manager, at whose end no copy is left.

    Parameters
    ----------
    shards
        All shards of the job; without a remote one there is no spool.
    spool_gb
        Most room of the copies on the disk; see `Spool`.

    Raises
    ------
    InputError
        See `Spool`.
    """

    def __init__(self, shards: Sequence[Shard], spool_gb: float | None = None) -> None:
        self._spool = Spool(spool_gb) if any(map(is_copied, shards)) else None
        self._pool = ThreadPoolExecutor(1)
        self._coming: Future[None] | None = None

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._spool is not None:
            self._spool.stop()
            self._pool.shutdown(cancel_futures=True)
            self._spool.close()

    @contextmanager
    def local(self, shard: Shard, upcoming: Shard | None = None) -> Iterator[Shard]:
        """Give a shard whose source can be read on this machine, until the block ends.

        Parameters
        ----------
        shard
            Whose source may be remote.
        upcoming
            The shard that likely comes next: its source is fetched meanwhile.

        Raises
        ------
        InputError
            The source is not there, cannot be read, or is larger than the spool.
        """
        refuse_absent(shard)
        if self._spool is None or not is_copied(shard):
            yield shard
            return
        with self._spool.copy(shard.path, _listed(shard)) as path:
            self._prefetch(upcoming)
            try:
                yield dataclasses.replace(shard, path=str(path))
            except OutputError:
                raise
            except InputError as error:
                # what is wrong is so at the source
                raise InputError(str(error).replace(str(path), shard.path)) from error

    def _prefetch(self, shard: Shard | None) -> None:
        if shard is None or self._spool is None or not is_copied(shard):
            return
        if self._coming is not None:
            if not self._coming.done():
                return
            self._coming.result()
        self._coming = self._pool.submit(_prefetch, self._spool, shard)


def _prefetch(spool: Spool, shard: Shard) -> None:
    # whoever works on the shard meets the same error, and reports it
    with (
        suppress(InputError, NoRoomError, StoppedError),
        spool.copy(shard.path, _listed(shard), wait=False),
    ):
        return


def look_at_remote(shards: Sequence[Shard]) -> list[Shard]:
    """Complete remote shards with the size and tag of their sources, where no listing gave them.

    One that is not there stays as it is, to be listed among the failures.

    Raises
    ------
    InputError
        A bucket refuses, or there are no credentials.
    """
    open_ = {shard.path for shard in shards if "://" in shard.path and shard.etag is None}
    with ThreadPoolExecutor(LOOKS) as pool:
        found = dict(zip(open_, pool.map(look_at, open_), strict=True))
    return [
        dataclasses.replace(shard, size=found[shard.path].size, etag=found[shard.path].etag)
        if shard.path in found
        else shard
        for shard in shards
    ]


def refuse_absent(shard: Shard) -> None:
    """Refuse a remote source that was looked for and is not there.

    Raises
    ------
    InputError
        There is nothing.
    """
    if "://" in shard.path and shard.etag is None:
        raise InputError(f"{shard.path}: nothing is there; check the address")


def is_copied(shard: Shard) -> bool:
    """Whether a source is remote and not read in place."""
    return "://" in shard.path and not is_remote_store(shard.path)


def _listed(shard: Shard) -> Stored | None:
    if shard.etag is None:
        return None
    return Stored(key=split_object(shard.path)[1], size=shard.size, etag=shard.etag)
