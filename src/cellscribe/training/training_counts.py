"""Counts of the training cells by token, for views of a cell that masks cannot make.

Up to `MOST_VALUES` counts are held in memory by every rank. More are packed once, in flat files
beside the corpus, which all ranks of a machine map into memory and share: a step reads a few
kilobytes a cell from there, at random.

::

    CORPUS/training_counts/tokens.npy     uint16, gene of each count, cell after cell
    CORPUS/training_counts/values.npy     uint32, the count
    CORPUS/training_counts/lengths.npy    int64, counts of each cell
    CORPUS/training_counts/numbers.npy    int64, the cells' numbers in the corpus
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.corpus.store import Corpus
from cellscribe.errors import InputError
from cellscribe.training.distributed import rank_here
from cellscribe.writing import disk_errors, writing

FOLDER = "training_counts"
MOST_VALUES = 2_000_000_000
"""Largest number of counts held in memory: 6 bytes each."""
SPLIT = "train"
POLL = 2.0
"""Seconds between two looks of a rank that waits for rank zero to pack the counts."""

Ints = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]
DTYPES = {"tokens": np.uint16, "values": np.uint32, "lengths": np.int64, "numbers": np.int64}


class TrainingCounts:
    """Counts of a corpus's training cells, found by the cells' numbers.

    Parameters
    ----------
    corpus
        Corpus that was built with its counts.
    option
        Option that needs them, for messages.

    Raises
    ------
    InputError
        The counts are missing.
    OutputError
        They must be packed, and the disk is full or may not be written.
    """

    def __init__(self, corpus: Corpus, option: str) -> None:
        paths = _shards(corpus, option)
        self._width = len(corpus.vocabulary)
        if sum(_size(path) for path in paths) <= MOST_VALUES:
            parts = list(_read(corpus, paths))
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        else:
            arrays = _packed(corpus, paths)
        self._tokens, self._values = arrays["tokens"], arrays["values"]
        self._offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])])
        self._order = np.argsort(arrays["numbers"])
        self.numbers: Ints = arrays["numbers"][self._order]
        """``[cells]`` numbers of all training cells, ascending."""

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, cells: Ints) -> csr_matrix:
        """Return the counts of cells by their numbers in the corpus, ``[B, V]``."""
        return self.at(self._order[np.searchsorted(self.numbers, cells)])

    def at(self, places: Ints) -> csr_matrix:
        """Return the counts of cells by their places in the shards, ``[B, V]``."""
        ends = [slice(self._offsets[place], self._offsets[place + 1]) for place in places]
        tokens = [self._tokens[end] for end in ends]
        indptr = np.cumsum([0, *map(len, tokens)])
        empty: list[Any] = [np.zeros(0)]
        values = np.concatenate(empty + [self._values[end] for end in ends]).astype(np.float32)
        columns = np.concatenate(empty + tokens).astype(np.int32)
        return csr_matrix((values, columns, indptr), shape=(len(places), self._width))


def _shards(corpus: Corpus, option: str) -> list[Path]:
    """Return the counts of the shards, all of which must be there."""
    paths = []
    for shard in corpus.shards(SPLIT):
        path = corpus.path / shard["counts"]["name"] if "counts" in shard else None
        if path is None or not path.exists():
            raise InputError(f"{corpus.path} holds no counts, which {option} needs; set {option} 0")
        paths.append(path)
    return paths


def _size(path: Path) -> int:
    """Return the number of counts of a shard, without reading them."""
    import zarr

    with _readable(path):
        return int(zarr.open_group(path, mode="r")["X/data"].shape[0])  # type: ignore[union-attr]


def _read(corpus: Corpus, paths: list[Path]) -> Iterator[Arrays]:
    """Read shard after shard: tokens and values, and the lengths and numbers of the cells."""
    import anndata

    token_of = {gene: token for token, gene in enumerate(corpus.vocabulary.ids)}
    for path in paths:
        with _readable(path):
            cells = anndata.read_zarr(path)
            counts = cells.X
            _check_counts(counts, cells.n_vars)
            token = np.array([token_of.get(gene, -1) for gene in cells.var_names], np.int32)
            known = token[counts.indices] >= 0
            ends = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
            part = {
                "tokens": token[counts.indices[known]].astype(np.uint16),
                "values": counts.data[known].astype(np.uint32),
                "lengths": np.diff(ends),
                "numbers": cells.obs_names.to_numpy().astype(np.int64),
            }
        yield part


def _check_counts(counts: Any, n_genes: int) -> None:
    """Refuse arrays of a sparse matrix that contradict each other; kernels index with them."""
    indptr, indices, data = counts.indptr, counts.indices, counts.data
    ends = np.array([indptr[0], indptr[-1], len(indices)]) == np.array([0, len(data), len(data)])
    if not ends.all() or (np.diff(indptr.astype(np.int64)) < 0).any():
        raise ValueError("row pointers and counts do not fit")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_genes:
        raise ValueError("a column is none of the genes")
    if not (np.isfinite(data).all() and (data >= 0).all()):
        raise ValueError("a count is negative or no number")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever zarr and anndata raise on a damaged shard into one line."""
    try:
        yield
    except Exception as error:
        reason = str(error)[:200] or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason}); it is damaged: copy the corpus anew, or build it "
            "again"
        ) from error


def _packed(corpus: Corpus, paths: list[Path]) -> Arrays:
    """Map the packed counts; rank zero packs them first if they are not there."""
    folder = corpus.path / FOLDER
    if rank_here() == 0 and not folder.exists():
        with disk_errors(folder, "free some space, or build a corpus of fewer cells"):
            _pack(corpus, paths, folder)
    while not folder.exists():
        time.sleep(POLL)
    again = "remove it, and it is made again"
    try:
        mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DTYPES}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{folder} cannot be read ({error}); {again}") from None
    cells = corpus.splits[SPLIT]["cells"]
    n_values = int(mapped["lengths"].sum())
    fit = all(
        mapped[name].dtype == kind and mapped[name].ndim == 1 for name, kind in DTYPES.items()
    )
    fit = fit and len(mapped["numbers"]) == len(mapped["lengths"]) == cells
    # they were made for all stored counts, of which those of unknown genes are left out
    if not fit or not n_values <= len(mapped["tokens"]) == len(mapped["values"]):
        raise InputError(f"{folder} is not of this corpus; remove it, and it is made again")
    return mapped


def _pack(corpus: Corpus, paths: list[Path], folder: Path) -> None:
    """Write the four files; the folder appears whole or not at all."""
    n_cells, n_values = corpus.splits[SPLIT]["cells"], sum(_size(path) for path in paths)
    with writing(folder) as partial:
        partial.mkdir()
        sizes = dict.fromkeys(("tokens", "values"), n_values)
        sizes |= dict.fromkeys(("lengths", "numbers"), n_cells)
        files = {
            name: np.lib.format.open_memmap(
                partial / f"{name}.npy", "w+", DTYPES[name], (sizes[name],)
            )
            for name in DTYPES
        }
        done = dict.fromkeys(DTYPES, 0)
        for part in _read(corpus, paths):
            for name, values in part.items():
                files[name][done[name] : done[name] + len(values)] = values
                done[name] += len(values)
        for file in files.values():
            file.flush()
