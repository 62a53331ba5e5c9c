"""What a file says of itself, checked before it is believed.

HDF5 and zarr take any attribute of any type, groups in the place of arrays, and sizes of which no
byte is stored. So the type of everything that is read is checked first, and the size of an array
is compared with the chunks that are there before anything is allocated. What the
libraries raise on damaged bytes is turned into one line in one place, `reading`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

Array = npt.NDArray[Any]
DAMAGED = "the file is damaged or was cut short; copy or download it again"
STORAGE_ERRORS = (OSError, EOFError, RuntimeError, ValueError, KeyError, zlib.error)
"""What h5py, zarr and their codecs raise when bytes are missing or wrong."""
REASON_LETTERS = 200
"""Letters of a library's error that a message repeats."""
NAME_LETTERS = 60
"""Letters of a name found in a file that a message repeats."""
ATTRIBUTE_BYTES = 16 << 20
"""No attribute that is read here is longer; column names of a wide table are the longest."""
CHUNK_BYTES = 256 << 20
"""A chunk above this must not be far larger than its array."""
MANY_NAMES = 1 << 20
"""From so many cells or genes on, their names must take up some room in the file."""
NAMES_IN_A_BYTE = 8
"""Names of cells never compress to less than a bit each."""


@contextmanager
def reading(where: str, fix: str = DAMAGED) -> Iterator[None]:
    """Turn whatever a storage library raises in the block into one line.

    Parameters
    ----------
    where
        What is read, for the message.
    fix
        What to do about it.

    Raises
    ------
    InputError
        The block raised.
    """
    try:
        yield
    except InputError:
        raise
    # damaged bytes reach every line of h5py, zarr, their codecs and anndata
    except Exception as error:
        raise InputError(f"{where} cannot be read ({reason(error)}); {fix}") from error


def reason(error: BaseException) -> str:
    """Give the text of an error as one short line."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    return shortened(" ".join(str(error).split()), REASON_LETTERS) or type(error).__name__


def shortened(text: str, letters: int = NAME_LETTERS) -> str:
    """Cut a text from a file to a length that fits a message."""
    return text if len(text) <= letters else f"{text[:letters]}..."


def names_of(found: Any) -> str:
    """List the first few names of a group for a message."""
    return ", ".join(shortened(str(name)) for name in sorted(found, key=str)[:8]) or "nothing"


def is_group(element: Any) -> bool:
    """Tell a group from an array, in h5py and zarr alike."""
    return hasattr(element, "keys")


def member(group: Any, key: str, where: str) -> Any:
    """Get a member of a group.

    Raises
    ------
    InputError
        It is missing or damaged.
    """
    try:
        return group[key]
    # zarr raises what its parser of metadata meets
    except Exception as error:
        raise InputError(f"{where} holds no readable {shortened(str(key))!r}; {DAMAGED}") from error


def subgroup(group: Any, key: str, where: str) -> Any:
    """Get a member that must be a group.

    Raises
    ------
    InputError
        It is missing, damaged or an array.
    """
    found = member(group, key, where)
    if not is_group(found):
        raise InputError(f"{where}: {shortened(key)!r} is an array and not a group; {DAMAGED}")
    return found


def keys_of(group: Any, where: str) -> list[str]:
    """List the members of a group; InputError if its table is damaged."""
    with reading(where):
        return [str(key) for key in group.keys()]  # noqa: SIM118  (a zarr group iterates otherwise)


def attribute(element: Any, key: str, where: str) -> Any:
    """Read an attribute; None if there is none.

    Raises
    ------
    InputError
        It is damaged, or far longer than any attribute that is read.
    """
    with reading(f"{where}: attribute {key!r}"):
        attributes = element.attrs
        if key not in attributes:
            return None
        if hasattr(attributes, "get_id"):
            found = attributes.get_id(key)
            n_bytes = math.prod(found.shape or ()) * found.dtype.itemsize
            if n_bytes > ATTRIBUTE_BYTES:
                raise InputError(f"{where}: attribute {key!r} takes {n_bytes:,} bytes; {DAMAGED}")
        return attributes[key]


def attribute_text(element: Any, key: str, where: str) -> str | None:
    """Read an attribute that must be one text; None if there is none.

    Raises
    ------
    InputError
        It is something else.
    """
    value = attribute(element, key, where)
    if isinstance(value, np.ndarray) and value.size == 1:
        # R writes single texts as arrays of one
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or isinstance(value, str):
        return value
    raise InputError(
        f"{where}: attribute {key!r} is {shortened(repr(value))} and not a text; {DAMAGED}"
    )


def attribute_texts(element: Any, key: str, where: str) -> list[str] | None:
    """Read an attribute that must be a list of texts; None if there is none.

    Raises
    ------
    InputError
        It is something else.
    """
    value = attribute(element, key, where)
    if value is None:
        return None
    items = value.tolist() if isinstance(value, np.ndarray) else value
    # h5py gives an empty list of names as an array of floats
    if not isinstance(items, list | tuple) or not all(isinstance(i, str | bytes) for i in items):
        raise InputError(
            f"{where}: attribute {key!r} is {shortened(repr(value))} and not a list of names; "
            f"{DAMAGED}"
        )
    return [i.decode("utf-8", "replace") if isinstance(i, bytes) else i for i in items]


def matrix_shape(value: Any, where: str) -> tuple[int, int]:
    """Give a stored shape as two whole numbers.

    Raises
    ------
    InputError
        It is something else, negative, or beyond 2**31 - 1 in its second number.
    """
    items = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(items, list | tuple) and len(items) == 2 and all(map(_is_size, items)):
        return int(items[0]), int(items[1])
    raise InputError(f"{where}: shape is {shortened(repr(value))} and not two sizes; {DAMAGED}")


def _is_size(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # comparisons with NaN are false
    return 0 <= value < 2**62 and value == int(value)


def one_axis(array: Any, where: str, size: int | None = None) -> Any:
    """Give back an element that must be an array of one axis.

    Parameters
    ----------
    array
        The element.
    where
        Name in messages.
    size
        Length that it must have, if any.

    Raises
    ------
    InputError
        It is a group, has another number of axes, or another length.
    """
    shape = array_shape(array, where)
    if len(shape) != 1:
        raise InputError(f"{where} has {len(shape)} axes in place of one; {DAMAGED}")
    if size is not None and shape[0] != size:
        raise InputError(f"{where} has {shape[0]:,} values in place of {size:,}; {DAMAGED}")
    return array


def array_shape(array: Any, where: str) -> tuple[int, ...]:
    """Give the shape of an element that must be an array.

    Raises
    ------
    InputError
        It is a group or a named type, has no values at all, or keeps them in other files.
    """
    with reading(where):
        if is_group(array) or not hasattr(array, "shape"):
            raise InputError(f"{where} is a group and not an array; {DAMAGED}")
        shape = array.shape
        if shape is None:
            raise InputError(f"{where} is empty and not an array; {DAMAGED}")
        if getattr(array, "is_virtual", False) or getattr(array, "external", None):
            raise InputError(
                f"{where} keeps its values in other files; write all into one file with anndata"
            )
        return tuple(int(size) for size in shape)


def check_stored(array: Any, where: str) -> None:
    """Check that the bytes are there that the size of an HDF5 array claims.

    HDF5 gives zeros for chunks that were never written, and zarr for those whose file is missing;
    for zarr see `refuse_holes`, as it rightly leaves out chunks of zeros.

    Parameters
    ----------
    array
        An array of h5py or zarr; any other is in memory and passes.
    where
        Name in messages.

    Raises
    ------
    InputError
        Chunks are missing, or are far larger than the array.
    """
    with reading(where):
        chunks = getattr(array, "chunks", None)
        if not hasattr(array, "dtype") or (chunks is None and not hasattr(array, "id")):
            return
        n_bytes = math.prod(array.shape) * array.dtype.itemsize
        if chunks is not None:
            _check_chunks(tuple(getattr(array, "shards", None) or chunks), array, where)
        if not hasattr(array, "id") or not n_bytes:
            return
        if chunks is not None:
            n_chunks = math.prod(-(-s // c) for s, c in zip(array.shape, chunks, strict=True))
            there = array.id.get_num_chunks()
            if there < n_chunks:
                raise InputError(
                    f"{where}: {n_chunks - there:,} of {n_chunks:,} chunks were never written; "
                    f"{DAMAGED}"
                )
        elif array.id.get_storage_size() < n_bytes:
            raise InputError(
                f"{where}: {array.id.get_storage_size():,} of {n_bytes:,} bytes were written; "
                f"{DAMAGED}"
            )


def _check_chunks(chunks: tuple[int, ...], array: Any, where: str) -> None:
    if any(size < 1 for size in chunks):
        raise InputError(f"{where} has chunks of {chunks}; {DAMAGED}")
    size = array.dtype.itemsize
    n_bytes, whole = math.prod(chunks) * size, math.prod(array.shape) * size
    if n_bytes > CHUNK_BYTES and n_bytes > 8 * whole:
        raise InputError(
            f"{where} has chunks of {n_bytes:,} bytes for {whole:,} bytes of values; {DAMAGED}"
        )


def check_names(array: Any, where: str) -> None:
    """Check that as many names as an array claims can be stored in its bytes.

    Raises
    ------
    InputError
        There are many, and less than a bit is stored for each.
    """
    check_stored(array, where)
    n_names = array.shape[0]
    if n_names <= MANY_NAMES:
        return
    with reading(where):
        stored = array.id.get_storage_size() if hasattr(array, "id") else array.nbytes_stored()
    if n_names > stored * NAMES_IN_A_BYTE:
        raise InputError(f"{where} claims {n_names:,} names in {stored:,} bytes; {DAMAGED}")


def whole_numbers(values: Array, where: str) -> Array:
    """Give numbers as integers; floats pass if all are whole.

    Raises
    ------
    InputError
        A number is missing, infinite, fractional, or beyond 2**53.
    """
    if values.dtype.kind in "iu":
        return values
    # comparisons with NaN are false
    good = (np.abs(values) <= 2**53) & (values == np.floor(values))
    if not good.all():
        bad = values[np.flatnonzero(~good)[0]]
        raise InputError(f"{where}: {bad} is no place in a matrix (a whole number); {DAMAGED}")
    return values.astype(np.int64)
