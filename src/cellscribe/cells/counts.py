"""Raw counts of any common format, opened lazily and read as checked CSR row blocks.

`open_counts` detects the format from the content, picks the layer, and returns a `Counts`. Only the
gene names and the row pointers are read before the first block. Every block is checked before it is
returned, see `check_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cellscribe.callbacks import Log, log_stderr
from cellscribe.cells.check_values import check_counts, check_kind
from cellscribe.cells.gene_names.features import genes_only
from cellscribe.cells.layers import advise_layer, resolve_layer
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.convert import to_rows
from cellscribe.cells.readers.detect_format import open_source
from cellscribe.cells.readers.matrices import (
    Entries,
    RowRange,
    Rows,
    make_rows,
)
from cellscribe.cells.readers.multimodal import Wanted
from cellscribe.cells.readers.storage import DAMAGED, Array
from cellscribe.cells.value_kinds import Sample, sample_cells
from cellscribe.config import CountsKind, InputOptions
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

RUNS, RUN = 8, 32
"""Runs of cells, evenly spaced, and their length: what is looked at of a whole matrix."""
TAKEN: dict[CountsKind, str] = {
    "fractional": "fractional values are taken as counts (--counts fractional)",
    "tpm": "values are taken as TPM or the like, not as counts (--counts tpm)",
}


def open_counts(
    source: str | Path | AnnData | Counts,
    *,
    options: InputOptions | None = None,
    layer: str | None = None,
    scratch: Path | None = None,
    trusted: bool = False,
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
    trusted
        The values come from `Counts.blocks` and are not judged again: of a few cells nothing can be
        told.
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
        wanted = layer and resolve_layer(layer, list(source._matrices), source.name)
        if wanted not in (None, source._address):
            raise InputError(f"{source.name} is open at {source.layer}; open it anew for {layer!r}")
        if options.counts not in ("raw", source.kind):
            raise InputError(
                f"{source.name} is open as {source.kind} counts; open it anew for {options.counts}"
            )
        return source
    stack = ExitStack()
    try:
        wanted_part = Wanted(modality=options.modality, table=options.table)
        opened = open_source(source, stack, scratch, log, wanted_part)
        wanted_part.check(opened)
        address = resolve_layer(layer, list(opened.matrices), opened.name)
        matrix = opened.matrices[address]()
        var = opened.var(address)
        _check_shape(matrix.shape, len(var), opened.name, address)
        if opened.keep is None:
            opened = replace(opened, keep=genes_only(var, opened.name, log))
        rows = to_rows(matrix, stack, scratch, log) if isinstance(matrix, Entries) else matrix
        if options.counts != "raw" and not trusted:
            log(f"{opened.name}: {TAKEN[options.counts]}")
        counts = Counts(opened, layer=address, rows=rows, var=var, stack=stack)
        counts.kind, counts.log, counts.layer_given = options.counts, log, layer is not None
        counts.trusted = trusted
        counts.by_rows = not isinstance(matrix, Entries)
        return counts
    except BaseException:
        stack.close()
        raise


def open_rows(block: csr_matrix) -> Counts:
    """Open rows that come from `Counts.blocks`, whole numbers or not, changed or not."""
    from anndata import AnnData

    return open_counts(AnnData(block), options=InputOptions(counts="fractional"), trusted=True)


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
        "X", "layers/<name>" or "raw/X"; in a MuData or SpatialData behind "mod/<name>/" or
        "tables/<name>/".
    kind
        What the values are said to be: "raw", "fractional" or "tpm".
    log
        Called with a line of text on what is odd and not refused.
    layer_given
        Whether the user named the layer.
    trusted
        Whether the values were judged before.
    by_rows
        Whether the matrix is stored by cells, so that some of them can be read without the others.
    """

    kind: CountsKind = "raw"
    log: Log = staticmethod(log_stderr)
    layer_given = trusted = False
    by_rows = True

    def __init__(
        self, source: Source, *, layer: str, rows: Rows, var: pd.DataFrame, stack: ExitStack
    ) -> None:
        self.name = source.name
        self.path = source.path
        self.form = source.form
        self.layer, self._address = f"{source.part}{layer}", layer
        self._matrices: Mapping[str, Callable[[], Rows | Entries]] = source.matrices
        self._read_obs, self._read_obs_rows = source.obs, source.obs_rows
        self._rows = rows
        self._stack = stack
        self._closed = self._checked = False
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

    def cell_names(self) -> Iterable[str]:
        """Read the names of the cells."""
        return [str(name) for name in self.obs.index]

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
            The values are not what `kind` says, or the storage is damaged. X is empty or only zeros
            and ones, nobody named it, and another layer has counts.
        """
        if rows < 1 or start < 0:
            raise ValueError(f"rows must be positive and start not negative: {rows}, {start}")
        if self._closed:
            raise ValueError(f"{self.name} was closed")
        for first in range(start, self.n_cells, rows):
            block = self._read(first, min(first + rows, self.n_cells))
            if not (self._checked or self.trusted):
                self._check_whole(block)
            yield block

    def _read(self, first: int, last: int) -> csr_matrix:
        """Read a block and check it."""
        block = self._rows.read(first, last)
        if self._column_of_feature is not None:
            block = _select_columns(block, self._column_of_feature, self.n_genes)
        check_counts(
            block,
            name=self.name,
            layer=self.layer,
            first_row=first,
            kind=self.kind,
            judge=not self.trusted,
            advise=self._advise,
        )
        return block

    def _check_whole(self, block: csr_matrix) -> None:
        """Check what one block cannot tell, by cells from all over the matrix."""
        self._checked = True
        if self.kind == "raw":
            if block.data.max(initial=0) <= 1:
                self._check_ones()
            return
        sample = Sample(
            [cell for run in self._runs() for cell in sample_cells(run.indptr, run.data).cells]
        )
        check_kind(sample, self.kind, name=self.name, layer=self.layer, advise=self._advise)

    def _check_ones(self) -> None:
        """Look for a matrix of zeros and ones, or a placeholder, that stands where counts should.

        Raises
        ------
        InputError
            It is one, the user has not named it, and another layer has counts.
        """
        largest = max(run.data.max(initial=0) for run in self._runs())
        if largest > 1:
            return
        what = "only zeros and ones" if largest else "only zeros"
        if not self.layer_given and (advice := self._advise()):
            raise InputError(f"{self.name}: {self.layer} holds {what}; {advice}")
        if largest:
            self.log(
                f"{self.name}: {self.layer} holds {what}, as if it said only which genes are on; "
                "a model is meant for counts"
            )

    def _runs(self) -> Iterator[csr_matrix]:
        """Some cells at even distances, checked."""
        starts = np.linspace(0, max(0, self.n_cells - RUN), RUNS).astype(int)
        for first in np.unique(starts):
            yield self._read(int(first), min(int(first) + RUN, self.n_cells))

    def _advise(self) -> str:
        return advise_layer(self._matrices, self._address)

    def part(self, first: int, last: int) -> Counts:
        """Give the cells from `first` to `last` (exclusive) as counts of their own.

        They read this file, which must stay open, and have no path: an output that copies its
        input would copy the other cells as well.

        Raises
        ------
        ValueError
            There are no such cells.
        """
        if not 0 <= first < last <= self.n_cells:
            raise ValueError(f"cells {first} to {last} of {self.n_cells}")
        found = copy(self)
        found._rows = RowRange(rows=self._rows, first=first, last=last)
        read = self._read_obs_rows
        found._read_obs = lambda: read(first, last) if read else self.obs.iloc[first:last]
        found._read_obs_rows = read and (lambda low, high: read(first + low, first + high))
        found.n_cells, found.path = last - first, None
        found.name = f"{self.name}, cells {first:,} to {last - 1:,}"
        found._stack = ExitStack()
        found.__dict__.pop("obs", None)
        return found

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
