"""One dataset of a Census on its way from the store into an h5ad, by blocks of cells, checked.

The file grows block by block, so memory does not depend on the dataset; one thread fetches the
next block, another compresses one (gzip level 1, which every HDF5 has). Before it takes its name
it is read again as any later step will read it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cellscribe.callbacks import Log
from cellscribe.cells.counts import check_counts, open_counts
from cellscribe.cells.pipeline import read_ahead
from cellscribe.census import soma, soma_cells
from cellscribe.config import SOMA_ID, CensusOptions
from cellscribe.errors import InputError
from cellscribe.writing import hash_of, writing

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

T = TypeVar("T")

RAW = "X['raw']"
BLOCK = 2_048
"""Cells read and written at a time; two blocks are in memory."""
CHUNK = 1 << 17
"""Values a compressed chunk."""
NON_ZEROS = "nnz"
"""Column in which the Census tells each cell's non-zeros: whether all of a cell came."""


@dataclass(frozen=True)
class Dataset:
    """What is needed to fetch one dataset.

    Attributes
    ----------
    source, matrix
        The opened store.
    name, extent
        Which dataset, and where its cells lie.
    options
        Filter, columns and patience.
    log
        Told of faults.
    """

    source: soma.Source
    matrix: soma.Matrix
    name: str
    extent: soma_cells.Extent
    options: CensusOptions
    log: Log

    def patiently(self, action: Callable[[], T]) -> T:
        """Try `action` as often as the options say."""
        return soma.patiently(action, f"dataset {self.name}", self.options.retries, self.log)


def write_dataset(
    dataset: Dataset, folder: Path, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Stream a dataset into ``folder/NAME.h5ad``.

    Parameters
    ----------
    dataset
        Which one.
    folder
        Where to.
    progress
        Told the cells that are written.

    Returns
    -------
    dict
        ``file``, ``cells``, ``non_zeros``, ``umis``, ``bytes`` and ``sha256``.

    Raises
    ------
    SourceError
        Its values are no raw counts, or not as many as `obs` tells of.
    InputError
        The network fails for good, or the file does not read back as it was written.
    OutputError
        The disk is full.
    """
    known = [NON_ZEROS] if NON_ZEROS in dataset.source.obs.schema.names else []
    obs = dataset.patiently(
        lambda: soma_cells.read_obs(
            dataset.source,
            dataset.options.value_filter,
            dataset.name,
            dataset.extent,
            [*dataset.options.columns, *known],
        )
    )
    if len(obs) != dataset.extent.cells:
        raise soma.SourceError(f"{len(obs):,} cells where {dataset.extent.cells:,} were counted")
    expected = obs[NON_ZEROS].to_numpy() if known else None
    kept = obs[[*dataset.options.columns, SOMA_ID]]
    out = folder / f"{dataset.name}.h5ad"
    with writing(out) as partial:
        facts = _stream(partial, dataset, kept, expected, progress)
        _check(partial, facts)
        digest = hash_of(partial)
        size = partial.stat().st_size
    return {"file": out.name, **facts, "bytes": size, "sha256": digest}


def _stream(
    path: Path,
    dataset: Dataset,
    obs: pd.DataFrame,
    expected: np.ndarray | None,
    progress: Callable[[int], None],
) -> dict[str, int]:
    import anndata
    import h5py

    cells = non_zeros = umis = 0
    blocks = _blocks(dataset, obs[SOMA_ID].to_numpy())
    with (
        h5py.File(path, "w") as file,
        closing(blocks),
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=obs, var=dataset.matrix.var))
        # Started here: Ctrl-C while a thread starts would leave it writing to a closed file.
        writer.submit(int).result()
        rows = _growing_rows(file, (len(obs), len(dataset.matrix.var)))
        for block in blocks:
            last = cells + block.shape[0]
            _refuse(block, cells, None if expected is None else expected[cells:last])
            # Ctrl-C is lost in a thread that is inside HDF5, so this one only waits
            writer.submit(_append, rows, block, cells, non_zeros).result()
            cells, non_zeros = last, non_zeros + block.nnz
            umis += int(block.data.sum(dtype=np.float64))
            progress(cells)
    return {"cells": cells, "non_zeros": non_zeros, "umis": umis}


def _append(rows: tuple[Any, Any, Any], block: csr_matrix, cells: int, non_zeros: int) -> None:
    """Write a block behind so many cells and values."""
    data, indices, indptr = rows
    end = non_zeros + block.nnz
    for array, values in ((data, block.data), (indices, block.indices)):
        array.resize((end,))
        array[non_zeros:end] = values
    pointers = block.indptr[1:].astype(np.int64) + non_zeros
    indptr[cells + 1 : cells + 1 + len(pointers)] = pointers


def _growing_rows(file: Any, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Make an empty `X` as anndata encodes CSR: data, indices and row pointers."""
    if "X" in file:
        del file["X"]
    group = file.create_group("X")
    group.attrs["encoding-type"] = "csr_matrix"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["shape"] = np.array(shape)
    growing: dict[str, Any] = {
        "shape": (0,),
        "maxshape": (None,),
        "chunks": (CHUNK,),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
    }
    return (
        group.create_dataset("data", dtype=np.float32, **growing),
        group.create_dataset("indices", dtype=np.int32, **growing),
        group.create_dataset("indptr", data=np.zeros(shape[0] + 1, np.int64)),
    )


def _blocks(dataset: Dataset, ids: np.ndarray) -> Generator[csr_matrix]:
    """Blocks in order, the next one fetched meanwhile.

    The thread tries once; a fetch that failed is repeated here, where Ctrl-C ends the waiting.
    """
    parts = [ids[start : start + BLOCK] for start in range(0, len(ids), BLOCK)]
    with ThreadPoolExecutor(1, thread_name_prefix="census") as pool:
        ahead = [pool.submit(soma_cells.read_block, dataset.matrix, parts[0])]
        for place, part in enumerate(parts):
            fetched = ahead
            ahead = [
                pool.submit(soma_cells.read_block, dataset.matrix, later)
                for later in parts[place + 1 : place + 2]
            ]

            def fetch(fetched: list[Any] = fetched, part: np.ndarray = part) -> csr_matrix:
                if fetched:
                    return fetched.pop().result()
                return soma_cells.read_block(dataset.matrix, part)

            yield dataset.patiently(fetch)


def _refuse(block: csr_matrix, first_row: int, expected: np.ndarray | None) -> None:
    """Refuse what are no raw counts, and cells that are not whole."""
    try:
        check_counts(block, name="", layer=RAW, first_row=first_row, suggestion=RAW)
    except InputError as error:
        # its mend would be another layer, which a Census does not have
        raise soma.SourceError(str(error).removeprefix(": ").removesuffix(f"; {RAW}")) from error
    if expected is None:
        return
    if wrong := int((np.diff(block.indptr) != expected).sum()):
        raise soma.SourceError(
            f"{wrong:,} of {len(expected):,} cells do not have as many non-zeros as obs gives in "
            f"{NON_ZEROS!r}"
        )


def _check(path: Path, facts: dict[str, int]) -> None:
    """Refuse a file that does not hold what was fetched."""
    try:
        found: Any = _read_back(path)
    except InputError as error:
        found = f"nothing: {error}"
    if found != facts:
        raise InputError(
            f"{path} was written and reads back as {found}, not as {facts}; check the disk, then "
            "give the same command again"
        )


def _read_back(path: Path) -> dict[str, int]:
    """Count what the file holds, as any later step will read it."""
    cells = non_zeros = umis = 0
    with open_counts(path, log=lambda line: None) as counts:
        for block in read_ahead(counts.blocks(BLOCK), depth=1):
            cells += block.shape[0]
            non_zeros += block.nnz
            umis += int(block.data.sum(dtype=np.float64))
    return {"cells": cells, "non_zeros": non_zeros, "umis": umis}
