"""Column-major storage to rows, once.

CSC files and Matrix Market files come as a stream of entries that is not ordered by cell. The first
pass counts each cell's entries, which settles where every row will lie; the second puts the
entries there. Small matrices are held in memory. Larger ones go through files: each entry is
appended to the region of its band of rows, then one band at a time is put in order, so memory
is a chunk and a band whatever the size of the file, and every input is read twice, never more.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from cellscribe.callbacks import Log
from cellscribe.cells.readers.matrices import CsrRows, Entries
from cellscribe.cells.readers.storage import DAMAGED, Array
from cellscribe.errors import InputError

IN_MEMORY = 30_000_000
"""Entries up to which a conversion stays in memory."""
BAND = 8_000_000
"""Entries put in order at a time in a conversion on disk."""


@njit(cache=True, nogil=True)
def _count_entries(cells: Array, lengths: Array) -> None:
    for at in range(cells.size):
        lengths[cells[at]] += 1


@njit(cache=True, nogil=True)
def _scatter_entries(
    cells: Array,
    genes: Array,
    values: Array,
    cursor: Array,
    out_genes: Array,
    out_values: Array,
) -> None:
    for at in range(cells.size):
        to = cursor[cells[at]]
        out_genes[to] = genes[at]
        out_values[to] = values[at]
        cursor[cells[at]] = to + 1


def to_rows(entries: Entries, stack: ExitStack, scratch: Path | None, log: Log) -> CsrRows:
    """Turn a stream of entries into compressed rows.

    Parameters
    ----------
    entries
        The stream; read twice, or once where it is small enough to be held.
    stack
        Closes and removes the scratch files, if any.
    scratch
        Folder for them; the system's temporary folder if None.
    log
        Called with a line of text when files are written.

    Raises
    ------
    InputError
        The scratch folder is full or cannot be written, or the input cannot be read.
    """
    if entries.n_entries <= IN_MEMORY:
        held = list(entries.chunks(True))
        return _in_memory(entries, held)
    folder = scratch_folder(stack, scratch)
    n_bytes = entries.n_entries * (8 + entries.dtype.itemsize)
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"scratch folder {folder} has {free / 1e9:.1f} GB free; ordering {entries.where} by "
            f"cells needs {n_bytes / 1e9:.1f} GB: free them, or set TMPDIR to a larger disk"
        )
    log(
        f"{entries.where} is stored by columns: ordering it by cells once, "
        f"{n_bytes / 1e9:.1f} GB under {folder}"
    )
    try:
        return _on_disk(entries, stack, folder)
    except OSError as error:
        why = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"fails ({error})"
        raise InputError(
            f"scratch folder {folder} {why}; ordering {entries.where} by cells needs "
            f"{n_bytes / 1e9:.1f} GB: free them, or set TMPDIR to a larger disk"
        ) from error


def scratch_folder(stack: ExitStack, scratch: Path | None) -> Path:
    """Make a scratch folder that `stack` removes."""
    try:
        return Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="cellscribe-", dir=scratch))
        )
    except OSError as error:
        raise InputError(
            f"no scratch folder can be made under {scratch or tempfile.gettempdir()} "
            f"({error.strerror}); set TMPDIR to a folder that can be written"
        ) from error


def _row_pointers(
    entries: Entries, chunks: Iterable[tuple[Array, Array, Array]], *, with_values: bool
) -> Array:
    lengths = np.zeros(entries.shape[0], np.int64)
    for cells, genes, values in chunks:
        # whoever made the stream: the kernels below write where these numbers say
        inside = not cells.size or (cells.min() >= 0 and cells.max() < len(lengths))
        paired = len(genes) == len(cells) and (not with_values or len(values) == len(cells))
        if not inside or not paired:
            raise InputError(f"{entries.where}: an entry lies outside the matrix; {DAMAGED}")
        _count_entries(cells, lengths)
    return np.concatenate([[0], np.cumsum(lengths)])


def _in_memory(entries: Entries, held: list[tuple[Array, Array, Array]]) -> CsrRows:
    indptr = _row_pointers(entries, held, with_values=True)
    genes = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], entries.dtype)
    cursor = indptr[:-1].copy()
    for part in held:
        _scatter_entries(*part, cursor, genes, values)
    return CsrRows(
        data=values, indices=genes, indptr=indptr, shape=entries.shape, where=entries.where
    )


@dataclass
class _File:
    """A flat array in a file, sliced by reading; unlike a memory map it never grows the process."""

    path: Path
    dtype: np.dtype[Any]
    size: int

    def __post_init__(self) -> None:
        self.file = self.path.open("w+b")

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(self.size)
        self.file.seek(start * self.dtype.itemsize)
        return np.fromfile(self.file, self.dtype, max(0, stop - start))

    def write(self, at: int, values: Array) -> None:
        self.file.seek(at * self.dtype.itemsize)
        self.file.write(values.astype(self.dtype, copy=False).tobytes())
        # the reader seeks on the same descriptor, past Python's buffer
        self.file.flush()


def _on_disk(entries: Entries, stack: ExitStack, folder: Path) -> CsrRows:
    indptr = _row_pointers(entries, entries.chunks(False), with_values=False)
    first_rows = _bands(indptr)
    size = int(indptr[-1])
    files = [
        _File(folder / name, np.dtype(dtype), size)
        for name, dtype in (("cells", np.int32), ("genes", np.int32), ("values", entries.dtype))
    ]
    for file in files:
        stack.callback(file.file.close)
    cells_file, genes_file, values_file = files

    filled = indptr[first_rows[:-1]].copy()
    for part in entries.chunks(True):
        band_of = (np.searchsorted(first_rows, part[0], side="right") - 1).astype(np.uint16)
        order = np.argsort(band_of, kind="stable")
        ends = np.searchsorted(band_of[order], np.arange(len(filled)), side="right")
        for band, (low, high) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if high > low:
                for file, column in zip(files, part, strict=True):
                    file.write(int(filled[band]), column[order[low:high]])
                filled[band] += high - low

    for row, next_row in pairwise(first_rows):
        low, high = int(indptr[row]), int(indptr[next_row])
        cells, genes, values = (file[low:high] for file in files)
        # a file that changed between the passes would be put in order past the ends of arrays
        places = np.clip(cells - np.int32(row), -1, next_row - row) + 1
        lengths = np.bincount(places, minlength=next_row - row + 1)
        if not np.array_equal(lengths[1:], np.diff(indptr[row : next_row + 1])):
            raise InputError(
                f"{entries.where} changed while it was read; run again when the file is whole"
            )
        placed_genes, placed_values = np.empty_like(genes), np.empty_like(values)
        cells = cells - np.int32(row)
        _check_band(cells, np.diff(indptr[row : next_row + 1]), entries.where)
        cursor = indptr[row:next_row] - low
        _scatter_entries(cells, genes, values, cursor, placed_genes, placed_values)
        genes_file.write(low, placed_genes)
        values_file.write(low, placed_values)
    cells_file.file.close()
    cells_file.path.unlink()
    return CsrRows(
        data=values_file,
        indices=genes_file,
        indptr=indptr,
        shape=entries.shape,
        where=entries.where,
    )


def _check_band(cells: Array, lengths: Array, where: str) -> None:
    """Check that a band has the entries that were counted, before they are put in their places.

    Raises
    ------
    InputError
        The file changed between the two passes, or the scratch files did.
    """
    inside = cells.size == 0 or (cells.min() >= 0 and cells.max() < len(lengths))
    if not inside or (np.bincount(cells, minlength=len(lengths)) != lengths).any():
        raise InputError(f"{where} changed while it was read; start again when it is at rest")


def _bands(indptr: Array) -> Array:
    """First row of each band, and the end: bands of at most `BAND` entries, or of one row."""
    first_rows = [0]
    n_cells = len(indptr) - 1
    while first_rows[-1] < n_cells:
        row = first_rows[-1]
        fits = int(np.searchsorted(indptr, indptr[row] + BAND, side="right")) - 1
        first_rows.append(min(n_cells, max(fits, row + 1)))
    return np.array(first_rows, np.int64)
