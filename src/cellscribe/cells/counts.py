"""Raw counts of any common format, opened lazily and read as checked CSR row blocks.

`open_counts` detects the format from the content, picks the layer, and returns a `Counts`. Only the
gene names and the row pointers are read before the first block. Every block is checked before it is
returned, because a log-normalised matrix gives plausible and wrong embeddings: only whole numbers
from 0 to 2**31 - 1 pass, in any numeric type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numba import njit
from scipy.sparse import csr_matrix

from cellscribe.callbacks import Log, log_stderr
from cellscribe.cells.convert import to_rows
from cellscribe.cells.detect_format import open_source
from cellscribe.cells.features import genes_only
from cellscribe.cells.formats import Source
from cellscribe.cells.matrices import (
    DAMAGED,
    Array,
    Entries,
    Rows,
    make_rows,
)
from cellscribe.config import InputOptions
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

LARGEST = 2**31 - 1
"""Real counts are far smaller; a larger value is an overflow or a fill value."""
LOG_CEILING = 25
"""Logarithms of counts are smaller, normalised counts are not."""


def open_counts(
    source: str | Path | AnnData | Counts,
    *,
    options: InputOptions | None = None,
    layer: str | None = None,
    scratch: Path | None = None,
    log: Log = log_stderr,
) -> Counts:
    """Open cells of any known format.

    Parameters
    ----------
    source
        Path of an .h5ad, .zarr, .loom, 10x .h5, matrix folder or .mtx (or a .tar.gz or .zip of
        one), .csv, .tsv or .parquet; an AnnData, backed or not; a `Counts`, which is returned as
        it is.
    options
        How the input is read; a verb's options are such.
    layer
        In place of that of `options`: "X" (default), the name of a layer such as "counts", or "raw"
        for ``raw.X``.
    scratch
        Folder for the files of a conversion or an unpacked archive, removed at close.
    log
        Called with a line of text when features are left out or a file is converted.

    Raises
    ------
    InputError
        There is no such file, it is damaged or of no known format, or has no such layer.
    """
    options = options or InputOptions()
    layer = layer or options.layer
    if isinstance(source, Counts):
        wanted = layer and _resolve_layer(layer, list(source._matrices), source.name)
        if wanted not in (None, source.layer):
            raise InputError(f"{source.name} is open at {source.layer}; open it anew for {layer!r}")
        return source
    stack = ExitStack()
    try:
        opened = open_source(source, stack, scratch, log)
        address = _resolve_layer(layer, list(opened.matrices), opened.name)
        matrix = opened.matrices[address]()
        var = opened.var(address)
        _check_shape(matrix.shape, len(var), opened.name, address)
        if opened.keep is None:
            opened = replace(opened, keep=genes_only(var, opened.name, log))
        rows = to_rows(matrix, stack, scratch, log) if isinstance(matrix, Entries) else matrix
        return Counts(opened, layer=address, rows=rows, var=var, stack=stack)
    except BaseException:
        stack.close()
        raise


def _resolve_layer(layer: str | None, available: list[str], name: str) -> str:
    """Find the address ("X", "layers/...", "raw/X") of the layer that a user names."""
    words = [address.removeprefix("layers/").replace("raw/X", "raw") for address in available]
    if layer is None or layer == "X":
        if "X" not in available:
            fix = f"name one with --layer: {', '.join(words)}" if words else "write it with counts"
            raise InputError(f"{name} has no matrix X; {fix}")
        return "X"
    for candidate in (layer, "raw/X" if layer == "raw" else layer, f"layers/{layer}"):
        if candidate in available:
            return candidate
    raise InputError(f"{name} has no layer {layer!r}; there are {', '.join(words) or 'none'}")


def _check_shape(shape: tuple[int, int], n_named: int, name: str, layer: str) -> None:
    for size, what in zip(shape, ("cells", "genes"), strict=True):
        if size == 0:
            raise InputError(f"{name}: {layer} has no {what}; give a file that has some")
    if n_named != shape[1]:
        raise InputError(
            f"{name}: {layer} has {shape[1]:,} genes, but {n_named:,} are named; {DAMAGED}"
        )


class Counts:
    """Opened raw counts, cells x genes; a context manager.

    Attributes
    ----------
    name
        Name in messages: the path, or "AnnData object".
    path
        The file or folder, None for an AnnData.
    form
        "h5ad", "zarr", "10x-h5", "10x-mtx", "loom", "text-table", "parquet-table" or "anndata".
    n_cells, n_genes
        Shape of the blocks together.
    var
        One row per gene: its name (str) and the columns of the file.
    layer
        "X", "layers/<name>" or "raw/X".
    """

    def __init__(
        self, source: Source, *, layer: str, rows: Rows, var: pd.DataFrame, stack: ExitStack
    ) -> None:
        self.name = source.name
        self.path = source.path
        self.form = source.form
        self.layer = layer
        self._matrices: Mapping[str, Callable[[], Rows | Entries]] = source.matrices
        self._read_obs = source.obs
        self._rows = rows
        self._stack = stack
        self._closed = False
        self.n_cells = rows.shape[0]
        self._column_of_feature = None if source.keep is None else _new_columns(source.keep)
        self.var: pd.DataFrame = var if source.keep is None else var[source.keep]
        self.n_genes = len(self.var)

    def __enter__(self) -> Counts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Counts {self.name} {self.layer}: {self.n_cells:,} cells x {self.n_genes:,} genes>"

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Cell names (str, maybe repeated) and the file's columns, read when first asked for."""
        obs = self._read_obs()
        if len(obs) != self.n_cells:
            raise InputError(
                f"{self.name}: {self.n_cells:,} cells, but {len(obs):,} are named; {DAMAGED}"
            )
        return obs

    def blocks(self, rows: int = 4096, start: int = 0) -> Iterator[csr_matrix]:
        """Read consecutive blocks of cells from row `start` on, each checked.

        Blocks of an AnnData in memory share its arrays: do not write to them.

        Yields
        ------
        csr_matrix
            ``[<= rows, n_genes]`` canonical, int32 indices, numeric type as stored.

        Raises
        ------
        InputError
            The values are not raw counts, or the storage is damaged.
        """
        if rows < 1 or start < 0:
            raise ValueError(f"rows must be positive and start not negative: {rows}, {start}")
        if self._closed:
            raise ValueError(f"{self.name} was closed")
        for first in range(start, self.n_cells, rows):
            block = self._rows.read(first, min(first + rows, self.n_cells))
            if self._column_of_feature is not None:
                block = _select_columns(block, self._column_of_feature, self.n_genes)
            if not _are_counts(block.data):
                check_counts(
                    block,
                    name=self.name,
                    layer=self.layer,
                    first_row=first,
                    suggestion=self._suggestion(),
                )
            yield block

    def _suggestion(self) -> str:
        """Name another layer that looks like raw counts, raw and "counts" before others."""
        others = [address for address in self._matrices if address != self.layer]
        others.sort(key=lambda address: (address not in ("layers/counts", "raw/X"), address))
        for address in others:
            try:
                values = self._matrices[address]().sample()
            # a matrix that cannot be read is no suggestion; the error to report is another one
            except InputError:
                continue
            if values.any() and _are_counts(values):
                word = "raw" if address == "raw/X" else address.removeprefix("layers/")
                return f"{address} looks like raw counts: use --layer {word}"
        return ""

    def close(self) -> None:
        """Close the file and remove scratch files; may be called more than once."""
        self._closed = True
        self._stack.close()


def _new_columns(keep: Array) -> Array:
    """New column of each stored feature, -1 for those left out."""
    return np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)


def _select_columns(block: csr_matrix, places: Array, n_genes: int) -> csr_matrix:
    """Drop the columns whose place is -1."""
    genes = places[block.indices]
    kept = genes >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    indptr = before[block.indptr].astype(np.int32)
    return make_rows(block.data[kept], genes[kept], indptr, n_genes)


@njit(cache=True, nogil=True)
def _all_counts(values: Array, largest: float) -> bool:
    bad = 0
    for at in range(values.size):
        value = values[at]
        # written so that NaN fails
        bad += not (value >= 0 and value <= largest and value == np.floor(value))
    return bad == 0


def _are_counts(values: Array) -> bool:
    if values.size == 0 or values.dtype.kind == "b":
        return True
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "f":
        return bool(_all_counts(values, float(LARGEST)))
    # one pass over signed integers: negative ones are the largest when read as unsigned
    unsigned = values.view(f"u{values.dtype.itemsize}")
    return int(unsigned.max()) <= min(LARGEST, int(np.iinfo(values.dtype).max))


def check_counts(
    block: csr_matrix, *, name: str, layer: str, first_row: int, suggestion: str = ""
) -> None:
    """Raise unless every stored value is a raw count.

    Parameters
    ----------
    block
        Cells x genes.
    name, layer
        Names of the file and the matrix, for the message.
    first_row
        Row of the file that is the block's first.
    suggestion
        How to fix it, if another layer looks right.

    Raises
    ------
    InputError
        A value is NaN or infinite, negative, fractional, or above 2**31 - 1. The message names it,
        its cell, and what the matrix seems to hold.
    """
    values = block.data
    if _are_counts(values):
        return
    finite = np.isfinite(values)
    largest = values[finite].max() if finite.any() else 0
    give = "give the raw counts, in X or in a layer named with --layer"
    if not finite.all():
        bad, what = ~finite, "missing or infinite values"
        give = "set them to 0 if they mean no counts, or give the raw counts with --layer"
    elif (bad := values < 0).any():
        what = "values below zero, as after scaling"
    elif (bad := values > LARGEST).any():
        what = "values above 2147483647, as after an overflow"
    elif largest < LOG_CEILING:
        bad = values != np.floor(values)
        what = "log-normalised values, it seems"
    else:
        bad = values != np.floor(values)
        what = "normalised values, it seems"
    at = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(block.indptr, at, side="right")) - 1
    raise InputError(
        f"{name}: {layer} holds {what}, not raw counts ({values[at]:.6g} in cell "
        f"{first_row + row}, gene {block.indices[at]}, counted from 0); {suggestion or give}"
    )
