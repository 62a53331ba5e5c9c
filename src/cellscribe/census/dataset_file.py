"""Copy one dataset of a Census into an h5ad, in blocks of cells, and check the file.

The file grows block by block, so memory does not depend on the size of the dataset; one thread
fetches the next block, another compresses one (gzip level 1, which every HDF5 has). Before the file
gets its name it is read again, as later steps will read it.
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
"""Number of cells read and written at a time; two blocks are in memory."""
CHUNK = 1 << 17
"""Number of values of a compressed chunk."""
NON_ZEROS = "nnz"
"""Column of the Census with each cell's number of non-zeros, to check that cells are complete."""


@dataclass(frozen=True)
class Dataset:
    """The parameters of fetching one dataset.

    Attributes
    ----------
    source, matrix
        The opened store.
    name, extent
        Name of the dataset, and range of its cells.
    options
        Filter, columns and number of retries.
    log
        Called with messages on errors.
    """

    source: soma.Source
    matrix: soma.Matrix
    name: str
    extent: soma_cells.Extent
    options: CensusOptions
    log: Log

    def retry(self, action: Callable[[], T]) -> T:
        """Call `action`, with the number of retries of the options."""
        return soma.retry(action, f"dataset {self.name}", self.options.retries, self.log)


def write_dataset(
    dataset: Dataset, folder: Path, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Stream a dataset into ``folder/NAME.h5ad``.

    Parameters
    ----------
    dataset
        Dataset to fetch.
    folder
        Folder of the file.
    progress
        Called with the number of cells written.

    Returns
    -------
    dict
        ``file``, ``cells``, ``non_zeros``, ``umis``, ``bytes`` and ``sha256``.

    Raises
    ------
    SourceError
        Its values are no raw counts, or not as many as `obs` gives.
    InputError
        The network fails repeatedly, or the file does not read back as it was written.
    OutputError
        The disk is full.
    """
    known = [NON_ZEROS] if NON_ZEROS in dataset.source.obs.schema.names else []
    obs = dataset.retry(
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
        # start the thread here: Ctrl-C at its start would leave it writing to a closed file
        writer.submit(int).result()
        rows = _growing_rows(file, (len(obs), len(dataset.matrix.var)))
        for block in blocks:
            last = cells + block.shape[0]
            _check_block(block, cells, None if expected is None else expected[cells:last])
            # Ctrl-C is lost in a thread that is inside HDF5, so this one only waits
            writer.submit(_append, rows, block, cells, non_zeros).result()
            cells, non_zeros = last, non_zeros + block.nnz
            umis += int(block.data.sum(dtype=np.float64))
            progress(cells)
    return {"cells": cells, "non_zeros": non_zeros, "umis": umis}


def _append(rows: tuple[Any, Any, Any], block: csr_matrix, cells: int, non_zeros: int) -> None:
    """Append a block after `cells` cells and `non_zeros` values."""
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
    """Yield blocks in order, while a thread fetches the next one.

    The thread tries once; a failed fetch is repeated here, where Ctrl-C can end the waiting.
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

            yield dataset.retry(fetch)


def _check_block(block: csr_matrix, first_row: int, expected: np.ndarray | None) -> None:
    """Check that a block holds raw counts of complete cells."""
    try:
        check_counts(block, name="", layer=RAW, first_row=first_row)
    except InputError as error:
        # its fix would be another layer, which a Census does not have
        what = str(error).removeprefix(": ").partition("); ")[0]
        raise soma.SourceError(f"{what})") from error
    if expected is None:
        return
    if wrong := int((np.diff(block.indptr) != expected).sum()):
        raise soma.SourceError(
            f"{wrong:,} of {len(expected):,} cells do not have as many non-zeros as obs gives in "
            f"{NON_ZEROS!r}"
        )


def _check(path: Path, facts: dict[str, int]) -> None:
    """Check that the file holds what was fetched."""
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
    """Count the contents of the file, as later steps will read it."""
    cells = non_zeros = umis = 0
    with open_counts(path, log=lambda line: None) as counts:
        for block in read_ahead(counts.blocks(BLOCK), depth=1):
            cells += block.shape[0]
            non_zeros += block.nnz
            umis += int(block.data.sum(dtype=np.float64))
    return {"cells": cells, "non_zeros": non_zeros, "umis": umis}
