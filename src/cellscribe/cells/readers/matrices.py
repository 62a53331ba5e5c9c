"""Matrices of cells x genes as the formats store them, read as blocks of rows.

Matrices that are stored by rows (compressed, dense, or several joined) have `shape` and
``read(first, last)``, which returns those rows as CSR. Storage by columns cannot be read by rows:
it is an `Entries` stream, which `convert` turns into rows once. Arrays may be anything that can be
sliced (h5py, zarr, NumPy), and only the requested slice is read. Rows are canonical: columns in
range, ascending, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix, hstack, vstack

from cellscribe.cells.readers.gzip_chunks import fast_array
from cellscribe.cells.readers.storage import (
    DAMAGED,
    Array,
    array_shape,
    check_stored,
    one_axis,
    reason,
    whole_numbers,
)
from cellscribe.errors import InputError

DENSE_BYTES = 64 << 20
"""A dense array is read in pieces of about this size."""
SAMPLE = 1 << 16
"""Values looked at to guess whether a matrix holds counts."""
REPEATS = 1 << 16
"""Entries that a row may have beyond two for each column; entries may stand twice, but not all."""


class Rows(Protocol):
    """A matrix of cells x genes that can be read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive) as canonical CSR."""

    def sample(self) -> Array:
        """Read some of the values, for a guess at what they are."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A matrix of cells x genes that can only be read as a stream of entries.

    Attributes
    ----------
    chunks
        Starts the stream anew: arrays of cells (int32), genes (int32) and values, in any order.
        Called with False it need not read the values, which are then empty.
    """

    shape: tuple[int, int]
    n_entries: int
    dtype: np.dtype[Any]
    where: str
    chunks: Callable[[bool], Iterator[tuple[Array, Array, Array]]]
    sample: Callable[[], Array]


def read_slice(array: Any, key: Any, where: str) -> Array:
    """Read a slice of a stored array in native byte order.

    Raises
    ------
    InputError
        The storage fails (cut short, corrupt, unknown compression), or holds no numbers.
    """
    try:
        values = np.asarray(array[key])
    # damaged bytes reach every line of h5py, zarr and their codecs
    except Exception as error:
        why = reason(error)
        if "filter" in why and ("plugin" in why or "registered" in why):
            raise InputError(
                f"{where} is compressed with a filter that is not installed ({why}); "
                "write the file again with gzip compression"
            ) from error
        raise InputError(f"{where} cannot be read ({why}); {DAMAGED}") from error
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "biuf":
        raise InputError(f"{where} holds {values.dtype} and not numbers; give a matrix of counts")
    if kind == "b":
        return values.view(np.uint8)
    if kind == "f" and size not in (4, 8):
        return values.astype(np.float32 if size < 4 else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_indices(indices: Array, bound: int, where: str) -> Array:
    """Give `indices` as int32; InputError if one is not whole or outside ``[0, bound)``."""
    indices = whole_numbers(indices, where)
    if indices.size and (indices.min() < 0 or indices.max() >= bound):
        raise InputError(
            f"{where}: an index lies outside 0..{bound - 1}, the end of the matrix; {DAMAGED}"
        )
    return indices.astype(np.int32, copy=False)


@njit(cache=True, nogil=True)
def _ascending(indptr: Array, indices: Array) -> bool:
    for row in range(indptr.size - 1):
        for at in range(indptr[row] + 1, indptr[row + 1]):
            if indices[at] <= indices[at - 1]:
                return False
    return True


def make_rows(values: Array, genes: Array, indptr: Array, n_genes: int) -> csr_matrix:
    """Assemble canonical CSR; `genes` must be in range. Entries that stand twice are summed."""
    block = csr_matrix((values, genes, indptr), shape=(len(indptr) - 1, n_genes), copy=False)
    if _ascending(block.indptr, block.indices):
        block.has_canonical_format = True
    else:
        # sum_duplicates works in place, and these arrays may belong to the user's AnnData
        block = block.copy()
        block.sum_duplicates()
    return block


@dataclass(kw_only=True)
class Compressed:
    """The three arrays of a compressed sparse matrix, `indptr` in memory."""

    data: Any
    indices: Any
    indptr: Array
    shape: tuple[int, int]
    where: str

    def __post_init__(self) -> None:
        for key in ("data", "indices", "indptr"):
            array, where = getattr(self, key), f"{self.where}/{key}"
            check_stored(one_axis(array, where), where)
            if hasattr(array, "store_path"):
                from cellscribe.cells.readers.zarr_store import refuse_holes

                # each row may have one zero among its indices
                spare = self._n_major
                if key == "indptr":
                    # all zeros where there is no entry
                    spare = 0 if self.data.shape[0] else array.shape[0]
                refuse_holes(array, where, spare)
        stored = self.data.shape[0]
        one_axis(self.indices, f"{self.where}/indices", stored)
        self.data, self.indices = fast_array(self.data), fast_array(self.indices)
        # before it is read: its length may be a lie
        whole = self.indptr.shape[0] == self._n_major + 1
        if whole:
            where = f"{self.where}/indptr"
            starts = whole_numbers(read_slice(self.indptr, slice(None), where), where)
            # differences of numbers far out of range would wrap around
            whole = starts[0] == 0 and starts.min() >= 0 and starts.max() <= stored
        if whole:
            self.indptr = starts.astype(np.int64, copy=False)
            lengths = np.diff(self.indptr)
            whole = bool((lengths >= 0).all())
        if not whole:
            raise InputError(
                f"{self.where}: the row pointers (indptr) do not fit shape {self.shape} "
                f"and {stored:,} stored values; {DAMAGED}"
            )
        self._check_lengths(lengths)

    def _check_lengths(self, lengths: Array) -> None:
        n_minor = sum(self.shape) - self._n_major
        longest = int(lengths.max(initial=0))
        if longest > 2 * n_minor + REPEATS:
            row = "row" if self._n_major == self.shape[0] else "column"
            raise InputError(
                f"{self.where}: {row} {int(lengths.argmax())} has {longest:,} entries for "
                f"{n_minor:,} places; {DAMAGED}"
            )

    @property
    def _n_major(self) -> int:
        return self.shape[0]

    def sample(self) -> Array:
        """Read the first stored values."""
        return self._values(0, min(SAMPLE, int(self.indptr[-1])))

    def _values(self, low: int, high: int) -> Array:
        return one_axis(
            read_slice(self.data, slice(low, high), f"{self.where}/data"),
            f"{self.where}/data",
            high - low,
        )

    def _indices(self, low: int, high: int, bound: int) -> Array:
        where = f"{self.where}/indices"
        found = one_axis(read_slice(self.indices, slice(low, high), where), where, high - low)
        return check_indices(found, bound, where)


class CsrRows(Compressed):
    """Compressed rows: one slice of each array is one block."""

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive)."""
        low, high = int(self.indptr[first]), int(self.indptr[last])
        genes = self._indices(low, high, self.shape[1])
        values = self._values(low, high)
        indptr = (self.indptr[first : last + 1] - low).astype(np.int32)
        return make_rows(values, genes, indptr, self.shape[1])


class CscColumns(Compressed):
    """Compressed columns (genes): readable as a stream of entries only."""

    @property
    def _n_major(self) -> int:
        return self.shape[1]

    def entries(self, chunk: int = 1 << 22) -> Entries:
        """Stream the entries gene by gene, `chunk` at a time."""

        def chunks(with_values: bool) -> Iterator[tuple[Array, Array, Array]]:
            n_entries = int(self.indptr[-1])
            for low in range(0, n_entries, chunk):
                high = min(low + chunk, n_entries)
                cells = self._indices(low, high, self.shape[0])
                genes = np.searchsorted(self.indptr, np.arange(low, high), side="right") - 1
                values = self._values(low, high) if with_values else np.empty(0)
                yield cells, genes.astype(np.int32), values

        return Entries(
            shape=self.shape,
            n_entries=int(self.indptr[-1]),
            dtype=read_slice(self.data, slice(0, 0), self.where).dtype,
            where=self.where,
            chunks=chunks,
            sample=self.sample,
        )


@njit(cache=True, nogil=True)
def _compress(dense: Array) -> tuple[Array, Array, Array]:
    n_rows, n_columns = dense.shape
    indptr = np.zeros(n_rows + 1, np.int32)
    for row in range(n_rows):
        filled = 0
        for column in range(n_columns):
            filled += dense[row, column] != 0
        indptr[row + 1] = indptr[row] + filled
    columns = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], dense.dtype)
    at = 0
    for row in range(n_rows):
        for column in range(n_columns):
            if dense[row, column] != 0:
                columns[at] = column
                values[at] = dense[row, column]
                at += 1
    return values, columns, indptr


@dataclass(kw_only=True)
class DenseRows:
    """A dense array, cells x genes or (``cells_axis=1``, loom) genes x cells."""

    array: Any
    where: str
    cells_axis: int = 0
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        n_axes = len(array_shape(self.array, self.where))
        if n_axes != 2:
            raise InputError(f"{self.where} has {n_axes} dimensions; counts are cells x genes")
        check_stored(self.array, self.where)
        cells, genes = self.array.shape[:: -1 if self.cells_axis else 1]
        self.shape = (int(cells), int(genes))

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive), in pieces that stay small when dense."""
        row_bytes = max(1, self.shape[1] * self.array.dtype.itemsize)
        step = max(1, DENSE_BYTES // row_bytes)
        parts = [self._piece(at, min(at + step, last)) for at in range(first, last, step)]
        if len(parts) == 1:
            return parts[0]
        return vstack(parts, format="csr") if parts else csr_matrix((0, self.shape[1]))

    def _piece(self, first: int, last: int) -> csr_matrix:
        rows = slice(first, last)
        dense = read_slice(self.array, (slice(None), rows) if self.cells_axis else rows, self.where)
        dense = np.ascontiguousarray(dense.T if self.cells_axis else dense)
        values, columns, indptr = _compress(dense)
        return make_rows(values, columns, indptr, self.shape[1])

    def sample(self) -> Array:
        """Read the first rows that fit a sample."""
        rows = max(1, SAMPLE // max(1, self.shape[1]))
        return self.read(0, min(rows, self.shape[0])).data


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """Consecutive rows of a matrix."""

    rows: Rows
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.last - self.first, self.rows.shape[1]

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive) of the range."""
        return self.rows.read(self.first + first, self.first + last)

    def sample(self) -> Array:
        """Sample the whole matrix."""
        return self.rows.sample()


@dataclass(kw_only=True)
class JoinedRows:
    """Matrices of other genes side by side, each with its own order of (some of) the cells.

    Attributes
    ----------
    places
        For each part, ``n_cells`` int64: the part's row for each cell, -1 where it lacks the cell.
    """

    parts: Sequence[Rows]
    places: Sequence[Array]

    @property
    def shape(self) -> tuple[int, int]:
        """Cells x genes of all parts."""
        return len(self.places[0]), sum(part.shape[1] for part in self.parts)

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive)."""
        pairs = zip(self.parts, self.places, strict=True)
        columns = [_gather(part, place[first:last]) for part, place in pairs]
        return hstack(columns, format="csr")

    def sample(self) -> Array:
        """Sample the first part."""
        return self.parts[0].sample()


def _gather(part: Rows, places: Array) -> csr_matrix:
    """Read scattered rows run by run; a place of -1 is an empty row."""
    if not len(places):
        return csr_matrix((0, part.shape[1]), dtype=np.int32)
    follows = np.where(places[1:] < 0, places[:-1] < 0, places[1:] == places[:-1] + 1)
    # -1 followed by 0 looks like a run but is the end of a gap
    follows &= (places[:-1] < 0) == (places[1:] < 0)
    bounds = np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(places)]])
    runs = []
    for low, high in pairwise(bounds):
        if places[low] < 0:
            runs.append(csr_matrix((high - low, part.shape[1]), dtype=np.int32))
        else:
            runs.append(part.read(int(places[low]), int(places[high - 1]) + 1))
    return vstack(runs, format="csr") if len(runs) > 1 else runs[0]
