"""Matrices of cells x genes as the formats store them, read as blocks of rows.

Matrices that are stored by rows (compressed, dense, or several joined) have `shape` and
``read(first, last)``, which returns those rows as CSR. Storage by columns cannot be read by rows:
it is an `Entries` stream, which `convert` turns into rows once. Arrays may be anything that can be
sliced (h5py, zarr, NumPy), and only the requested slice is read. Rows are canonical: columns in
range, ascending, each once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import csr_matrix, hstack, vstack

from cellscribe.cells.gzip_chunks import fast_array
from cellscribe.errors import InputError

Array = npt.NDArray[Any]
DENSE_BYTES = 64 << 20
"""A dense array is read in pieces of about this size."""
SAMPLE = 1 << 16
"""Values looked at to guess whether a matrix holds counts."""
DAMAGED = "the file is damaged or was cut short; copy or download it again"
STORAGE_ERRORS = (OSError, EOFError, RuntimeError, ValueError, KeyError, zlib.error)
"""What h5py, zarr and their codecs raise when bytes are missing or wrong."""


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
    except STORAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "filter" in reason and ("plugin" in reason or "registered" in reason):
            raise InputError(
                f"{where} is compressed with a filter that is not installed ({reason}); "
                "write the file again with gzip compression"
            ) from error
        raise InputError(f"{where} cannot be read ({reason}); {DAMAGED}") from error
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "biuf":
        raise InputError(f"{where} holds {values.dtype} and not numbers; give a matrix of counts")
    if kind == "b":
        return values.view(np.uint8)
    if kind == "f" and size not in (4, 8):
        return values.astype(np.float32 if size < 4 else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_indices(indices: Array, bound: int, where: str) -> Array:
    """Give `indices` as int32, or raise InputError if one is outside ``[0, bound)``."""
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
        self.data, self.indices = fast_array(self.data), fast_array(self.indices)
        self.indptr = read_slice(self.indptr, slice(None), self.where).astype(np.int64, copy=False)
        steps = np.diff(self.indptr)
        stored = min(self.data.shape[0], self.indices.shape[0])
        whole = (
            len(self.indptr) == self._n_major + 1
            and self.indptr[0] == 0
            and (steps >= 0).all()
            and self.indptr[-1] <= stored
        )
        if not whole:
            raise InputError(
                f"{self.where}: the row pointers (indptr) do not fit shape {self.shape} "
                f"and {stored:,} stored values; {DAMAGED}"
            )

    @property
    def _n_major(self) -> int:
        return self.shape[0]

    def sample(self) -> Array:
        """Read the first stored values."""
        return read_slice(self.data, slice(0, min(SAMPLE, int(self.indptr[-1]))), self.where)


class CsrRows(Compressed):
    """Compressed rows: one slice of each array is one block."""

    def read(self, first: int, last: int) -> csr_matrix:
        """Read rows `first` to `last` (exclusive)."""
        low, high = int(self.indptr[first]), int(self.indptr[last])
        genes = check_indices(
            read_slice(self.indices, slice(low, high), self.where), self.shape[1], self.where
        )
        values = read_slice(self.data, slice(low, high), self.where)
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
                part = slice(low, min(low + chunk, n_entries))
                cells = check_indices(
                    read_slice(self.indices, part, self.where), self.shape[0], self.where
                )
                places = np.arange(part.start, part.stop)
                genes = np.searchsorted(self.indptr, places, side="right") - 1
                values = read_slice(self.data, part, self.where) if with_values else np.empty(0)
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
        if len(self.array.shape) != 2:
            raise InputError(
                f"{self.where} has {len(self.array.shape)} dimensions; counts are cells x genes"
            )
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
