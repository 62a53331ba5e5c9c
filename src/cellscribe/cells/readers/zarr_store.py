"""Stores of zarr, read with care: only regular files, and none that was there may go missing.

A zarr store is a folder of files, and zarr opens whatever stands under the name that it looks for:
a pipe would hold the program for ever, and a device has no end. A chunk whose file is missing
reads as zeros; for the arrays of a sparse matrix that is an error, also when it goes missing while
the store is read.

A store in a bucket is read in place, as its chunks are what one would ask for anyway: of some rows
only the chunks that hold them are read (and those of the cells by which a whole matrix is judged),
several at once. They are not listed before, which takes longer than a part of a large store: a
chunk that is missing is an error when it is read. As in a folder, a dense array may lack chunks
that hold only zeros.

A chunk of texts begins with their number, and numcodecs makes room for as many as it says, 16 GB
for four wrong bytes; it has no option for that, so its two decoders of texts are replaced, when
this module is imported, by ones that first compare the number with the bytes that follow.

This module imports zarr, so others import it inside functions.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numcodecs import VLenBytes, VLenUTF8
from zarr.storage import LocalStore, ObjectStore

from cellscribe.buckets.bucket import Bucket, split_object
from cellscribe.buckets.refusals import Said
from cellscribe.cells.readers.storage import DAMAGED, reading, shortened
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
METADATA_BYTES = 64 << 20
"""Real metadata, that of a whole store in one file included, is far smaller."""
LARGE_BYTES = 64 << 20
"""A file above this that takes far less room on the disk is mostly a hole."""
HOLE = 64
"""How much larger than its room on the disk such a file may say it is."""


class CheckedStore(LocalStore):
    """A folder of zarr for reading.

    Parameters
    ----------
    root
        The folder.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.whole: set[str] = set()
        """Paths of arrays of which every chunk was there when they were opened."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file; OSError if it is no regular file, or is missing though it was there."""
        if _is_readable(self.root / key, key):
            found = await super().get(key, prototype, byte_range)
            if found is not None:
                return found
        if _is_chunk(key, self.whole):
            raise FileNotFoundError(f"{key} went missing while the store was read")
        return None


class RemoteStore(ObjectStore[Any]):
    """A bucket with a zarr store in it, for reading.

    Parameters
    ----------
    bucket
        The whole bucket; the path of the store in it is given to zarr.
    """

    def __init__(self, bucket: Bucket, *, read_only: bool = True) -> None:
        super().__init__(bucket.store, read_only=read_only)
        self.bucket = bucket
        self.whole: set[str] = set()
        """Paths of arrays of which every chunk must be there."""
        self.spare: set[str] = set()
        """Their chunks that may be missing all the same."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object; OSError if it is a chunk that must be there and is not."""
        with Said(f"{self.bucket.name}/{key}", self.bucket.name):
            found = await super().get(key, prototype, byte_range)
        if found is None and key not in self.spare and _is_chunk(key, self.whole):
            raise FileNotFoundError(f"{key} is missing")
        return found


def open_remote(url: str) -> Any:
    """Open the root group of a zarr store in a bucket.

    Raises
    ------
    InputError
        The bucket refuses.
    Exception
        Of many kinds, where there is no readable store.
    """
    import zarr

    root, key = split_object(url)
    return zarr.open_group(RemoteStore(Bucket(root)), path=key, mode="r")


def _is_chunk(key: str, arrays: Iterable[str]) -> bool:
    """Whether a key is of a chunk of one of some arrays."""
    # what zarr looks for by several names is metadata
    return not key.endswith(METADATA) and any(key.startswith(f"{path}/") for path in arrays)


def _is_readable(path: Path, key: str) -> bool:
    """Whether there is a file; OSError if it must not be opened."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(found.st_mode):
        return False
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{shortened(key)} is not a file but a pipe, socket or device")
    metadata = path.name in METADATA and found.st_size > METADATA_BYTES
    if metadata or found.st_size > max(LARGE_BYTES, HOLE * 512 * found.st_blocks):
        raise OSError(f"{shortened(key)} claims {found.st_size:,} bytes")
    return True


def refuse_holes(array: Any, where: str, spare: int = 0) -> None:
    """Refuse an array of one axis that lacks files: zarr would read zeros without a word.

    Parameters
    ----------
    array
        The array; all but those of zarr pass.
    where
        Name in messages.
    spare
        A last chunk of at most so many zeros is rightly not written.

    Raises
    ------
    InputError
        Files are missing.
    """
    if not hasattr(array, "store_path"):
        return
    with reading(where):
        size, unit = int(array.shape[0]), int((array.shards or array.chunks)[0])
        last = slice((size - 1) // unit * unit, size)
        if isinstance(array.store, RemoteStore):
            array.store.whole.add(array.path)
            if last.stop - last.start <= spare:
                chunk = array.metadata.encode_chunk_key((max(0, -(-size // unit) - 1),))
                array.store.spare.add(f"{array.path}/{chunk}")
            return
        missing = _missing(array, -(-size // unit), unit)
        if not missing:
            if isinstance(array.store, CheckedStore):
                array.store.whole.add(array.path)
            return
        if missing == 1 and last.stop - last.start <= spare and not array[last].any():
            return
    raise InputError(f"{missing:,} chunks of {where} are missing; copy the whole store again")


def _missing(array: Any, n_units: int, unit: int) -> int:
    """Count the files that an array lacks."""
    if not isinstance(array.store, LocalStore):
        # zarr goes through the keys of all chunks that the size claims
        if n_units > 1 << 24:
            raise InputError(f"{array.path} claims {n_units:,} chunks; {DAMAGED}")
        return n_units - int(array.nchunks_initialized) * int(array.chunks[0]) // unit
    folder = array.store.root / array.path
    there = {
        (Path(at) / name).relative_to(folder).as_posix()
        for at, _, names in os.walk(folder)
        for name in names
        if (Path(at) / name).stat().st_size
    }
    # far more chunks than files, some of which are metadata: no need to look for each
    if n_units > len(there) + 1:
        return n_units - len(there)
    return sum(array.metadata.encode_chunk_key((at,)) not in there for at in range(n_units))


def _bounded(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse chunks of texts that are too short for the number that they begin with."""

    @functools.wraps(decode)
    def checked(self: Any, buf: Any, out: Any = None) -> Any:
        view = memoryview(buf).cast("B")
        # each text takes the four bytes of its length
        if 4 * int.from_bytes(view[:4], "little") > len(view) - 4:
            raise ValueError(f"{len(view):,} bytes hold fewer texts than they claim")
        return decode(self, buf, out)

    return checked


for _codec in (VLenUTF8, VLenBytes):
    _codec.decode = _bounded(_codec.decode)
