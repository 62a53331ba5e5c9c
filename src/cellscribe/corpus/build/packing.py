"""Pack a source's cells as counts by gene of the corpus, with each cell's hash and random keys.

The kernels here map a source's rows to the gene space and reorder rows; all release Python's lock.

Letters: ``B`` cells, ``N`` non-zero counts, ``G`` genes of the corpus.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from cellscribe.cells.bits import INCREMENT, scramble

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LARGEST_COUNT = 1 << 24
"""Largest count: counts are stored as float32, which is exact up to here."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Cells of one block, mapped to the gene space.

    Attributes
    ----------
    genes, counts
        ``[N]`` int32 and uint32: places in the gene space, ascending within a cell, and counts.
    offsets
        ``[B + 1]`` int64: cell i is ``offsets[i] : offsets[i + 1]``.
    n_counts
        ``[B]`` int64 total counts over all columns of the source.
    cell_hash
        ``[B]`` uint64, depends on the cell's genes and their counts only.
    """

    genes: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    n_counts: npt.NDArray[np.int64]
    cell_hash: npt.NDArray[np.uint64]

    @property
    def n_genes(self) -> npt.NDArray[np.int64]:
        """``[B]`` number of genes with a count."""
        return np.diff(self.offsets)


def gene_hashes(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Hash each id to 64 bits of BLAKE2b, so that cells' hashes do not depend on gene order."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def to_space(
    block: csr_matrix, gene_of_column: npt.NDArray[np.int32], hash_of_gene: npt.NDArray[np.uint64]
) -> Rows:
    """Map rows of a source to the gene space: columns of one gene summed, genes ascending.

    Parameters
    ----------
    block
        ``[B, columns]`` raw counts.
    gene_of_column
        Place of each column in the gene space, -1 for unknown genes.
    hash_of_gene
        ``[G]`` from `gene_hashes`.
    """
    n_cells = block.shape[0]
    keys = np.empty(len(block.data), dtype=np.uint64)
    offsets = np.zeros(n_cells + 1, dtype=np.int64)
    n_counts = np.zeros(n_cells, dtype=np.int64)
    indptr = block.indptr.astype(np.int64, copy=False)
    if not _fill_keys(indptr, block.indices, block.data, gene_of_column, keys, offsets, n_counts):
        bounds = offsets.tolist()
        for start, end in pairwise(bounds):
            keys[start:end].sort()
    cell_hash = np.empty(n_cells, dtype=np.uint64)
    genes = np.empty(offsets[-1], dtype=np.int32)
    counts = np.empty(offsets[-1], dtype=np.uint32)
    n = _merge(keys, offsets, hash_of_gene, genes, counts, cell_hash)
    return Rows(
        genes=genes[:n], counts=counts[:n], offsets=offsets, n_counts=n_counts, cell_hash=cell_hash
    )


@numba.njit(cache=True, nogil=True)
def _fill_keys(indptr, indices, data, gene_of_column, keys, offsets, n_counts):  # type: ignore[no-untyped-def]
    """Write (gene, count) of known non-zero values as one number; return if all rows ascend."""
    at = 0
    ascending = True
    for cell in range(len(indptr) - 1):
        total = 0.0
        before = -1
        for place in range(indptr[cell], indptr[cell + 1]):
            count = data[place]
            if count == 0:
                continue
            total += count
            gene = gene_of_column[indices[place]]
            if gene < 0:
                continue
            ascending &= gene >= before
            before = gene
            keys[at] = (np.uint64(gene) << np.uint64(32)) | np.uint64(count)
            at += 1
        n_counts[cell] = np.int64(total)
        offsets[cell + 1] = at
    return ascending


@numba.njit(cache=True, nogil=True)
def _merge(keys, offsets, hash_of_gene, genes, counts, cell_hash):  # type: ignore[no-untyped-def]
    """Sum equal genes, hash each cell, update `offsets`; return the number of values left."""
    at = np.int64(0)
    start = offsets[0]
    for cell in range(len(offsets) - 1):
        end = offsets[cell + 1]
        first = at
        for place in range(start, end):
            gene = np.int32(keys[place] >> np.uint64(32))
            count = np.uint32(keys[place] & np.uint64(0xFFFFFFFF))
            if at > first and genes[at - 1] == gene:
                counts[at - 1] += count
            else:
                genes[at] = gene
                counts[at] = count
                at += 1
        code = np.uint64(0)
        for place in range(first, at):
            # a sum, so that the order of genes does not matter
            step = np.uint64(counts[place]) * INCREMENT
            code += scramble(hash_of_gene[genes[place]] + step)
        cell_hash[cell] = scramble(code)
        offsets[cell + 1] = at
        start = end
    return at


def random_keys(cells: npt.NDArray[np.int64], seed: int, purpose: int) -> npt.NDArray[np.uint64]:
    """Return a random number for each cell number, ``[B]`` uint64.

    It depends on number, seed and purpose only, not on blocks, threads or resumption.
    """
    start = scramble(np.uint64(seed) ^ np.uint64(scramble(np.uint64(purpose + 1))))
    return _keys(cells, np.uint64(start))


@numba.njit(cache=True, nogil=True)
def _keys(cells, start):  # type: ignore[no-untyped-def]
    out = np.empty(len(cells), dtype=np.uint64)
    for i in range(len(cells)):
        out[i] = scramble(start + np.uint64(cells[i]) * INCREMENT)
    return out


@numba.njit(cache=True, nogil=True)
def scatter_rows(values, offsets, out, places):  # type: ignore[no-untyped-def]
    """Copy each row to its place in `out`."""
    for row in range(len(places)):
        at = places[row]
        for place in range(offsets[row], offsets[row + 1]):
            out[at] = values[place]
            at += 1


class Scratch(threading.local):
    """Large arrays that a thread reuses.

    For each new large array the system clears fresh memory, which takes longer than the work on
    it.
    """

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[np.uint8]] = {}

    def empty(self, name: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the array of that name; its old contents are lost."""
        n_bytes = size * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or len(held) < n_bytes:
            # shards differ a little in size
            held = self._held[name] = np.empty(n_bytes + n_bytes // 8, dtype=np.uint8)
        return held[:n_bytes].view(dtype)


def offsets_of(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the ``[B + 1]`` offsets of ``[B]`` lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
