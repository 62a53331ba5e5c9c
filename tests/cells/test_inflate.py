"""Slices of compressed arrays are those that h5py reads."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellscribe.cells.readers.gzip_chunks import GzipArray, fast_array


def stored(folder: Path, values: np.ndarray, **how: Any) -> h5py.Dataset:
    file = h5py.File(folder / "x.h5", "w")
    return file.create_dataset("x", data=values, **how)


@given(
    size=st.integers(1, 200),
    chunk=st.integers(1, 64),
    dtype=st.sampled_from(["<f4", "<f8", "<i4", "<u2", "<u1", "<i8"]),
    shuffle=st.booleans(),
    bounds=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=6),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slices_are_those_of_h5py(
    tmp_path: Path,
    size: int,
    chunk: int,
    dtype: str,
    shuffle: bool,
    bounds: list[tuple[int, int]],
) -> None:
    values = np.random.default_rng(size).integers(0, 200, size).astype(dtype)
    how = {"compression": "gzip", "shuffle": shuffle, "chunks": (min(chunk, size),)}
    array = stored(tmp_path, values, **how)
    with array.file:
        fast = fast_array(array)
        assert isinstance(fast, GzipArray)
        assert (fast.shape, fast.dtype) == (array.shape, array.dtype)
        for start, stop in bounds:
            np.testing.assert_array_equal(fast[start:stop], array[start:stop])
            assert fast[start:stop].dtype == array.dtype
        np.testing.assert_array_equal(fast[::2], values[::2])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "lzf", "chunks": (10,)},
        {"compression": "gzip", "chunks": (10,), "fletcher32": True},
        {"compression": "gzip", "chunks": (10,), "dtype": ">i4"},
        {"compression": "gzip", "chunks": (10,), "scaleoffset": 0},
    ],
)
def test_arrays_stored_otherwise_are_left_to_h5py(tmp_path: Path, how: dict[str, Any]) -> None:
    array = stored(tmp_path, np.arange(40, dtype=np.int32), **how)
    with array.file:
        assert fast_array(array) is array
    numbers = np.arange(4)
    assert fast_array(numbers) is numbers


def test_chunks_that_were_never_written_and_chunks_without_filter(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        how = {"chunks": (10,), "compression": "gzip", "fillvalue": 7}
        array = file.create_dataset("x", (40,), np.int32, **how)
        array[10:20] = np.arange(10)
        # a chunk that gzip would have made larger is stored as it is
        array.id.write_direct_chunk((30,), np.arange(10, 20, dtype=np.int32).tobytes(), 1)
        fast = fast_array(array)
        assert isinstance(fast, GzipArray)
        for part in (slice(0, 40), slice(12, 18), slice(0, 12), slice(35, 40)):
            np.testing.assert_array_equal(fast[part], array[part])
        assert fast[:3].tolist() == [7, 7, 7]


def test_a_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        array = file.create_dataset("x", (40,), np.int32, chunks=(10,), compression="gzip")
        array.id.write_direct_chunk((0,), zlib.compress(bytes(12)))
        array.id.write_direct_chunk((10,), b"not zlib at all")
        fast = fast_array(array)
        with pytest.raises(OSError, match="chunk 0 holds 12 bytes in place of 40"):
            fast[0:5]
        with pytest.raises(OSError, match="chunk 1 cannot be inflated"):
            fast[10:20]
