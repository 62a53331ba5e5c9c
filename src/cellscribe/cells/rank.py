"""Rank-value encoding: a cell's counts become its genes in descending order of scaled expression.

The contract (sc-FM / Geneformer): counts per 10,000 over the gene's median, zeros dropped, sorted
descending, cut to the context. The per-cell factor cannot change an order, so both kernels sort
``count / median`` alone. A sort key is that float64 with its lowest 16 bits (a relative 1e-11)
replaced by the inverted token: one integer sort then breaks ties by ascending token, and CPU, GPU,
block size and file format give the same tokens to the last one.

Letters: ``B`` cells, ``G`` columns of the file, ``V`` tokens, ``N`` tokens of all cells together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

from cellscribe.cells.tokens import CellTokens, Tokenize

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

TOKEN_BITS = 0xFFFF
NO_KEY = np.iinfo(np.int64).max
SORTED_TOGETHER = 64
"""Cells whose keys are sorted in one call."""


def rank_cells(
    counts: csr_matrix,
    token_of_column: npt.NDArray[np.int32],
    medians: npt.NDArray[np.float64],
    context: int,
) -> CellTokens:
    """Rank the genes of each cell on the CPU.

    Parameters
    ----------
    counts
        ``[B, G]`` counts; they need not be whole.
    token_of_column
        ``[G]`` token of each column, -1 where unknown. Columns that share a token are summed.
    medians
        ``[V]`` median by token.
    context
        Most genes kept a cell.
    """
    n_cells = counts.shape[0]
    indptr = counts.indptr.astype(np.int64, copy=False)
    indices = counts.indices.astype(np.int32, copy=False)
    data = counts.data.astype(np.float64, copy=False)
    known = token_of_column[token_of_column >= 0]
    sum_first = np.bincount(known, minlength=1).max() > 1 or not counts.has_canonical_format
    umis, umis_known = np.zeros((2, n_cells), dtype=np.int64)
    genes, genes_known = np.zeros((2, n_cells), dtype=np.int32)
    stored = np.diff(indptr)
    best = np.empty((n_cells, min(context, stored.max(initial=0))), dtype=np.uint16)
    # Sorted together are cells of about the same length, in one call: each call must take Python's
    # lock again, which takes far longer than sorting a cell if another thread holds it.
    order = np.argsort(stored, kind="stable")
    for first in range(0, n_cells, SORTED_TOGETHER):
        cells = order[first : first + SORTED_TOGETHER]
        keys = np.empty((len(cells), stored[cells[-1]]), dtype=np.int64)
        _fill_keys(
            cells,
            indptr,
            indices,
            data,
            token_of_column,
            medians,
            sum_first,
            keys,
            umis,
            umis_known,
            genes,
            genes_known,
        )
        # NumPy sorts, because it has AVX-512 and AVX2 kernels and numba has not.
        if context < keys.shape[1]:
            keys.partition(context - 1, axis=1)
            keys = keys[:, :context]
        keys.sort(axis=1)
        _unpack_keys(keys, cells, genes_known, best)
    kept = np.minimum(genes_known, context)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
    return CellTokens(
        tokens=_pack(best, offsets),
        offsets=offsets,
        umis=umis,
        umis_known=umis_known,
        genes=genes,
        genes_known=genes_known,
    )


def ranker(medians: npt.NDArray[np.float64], context: int) -> Tokenize:
    """Make the tokeniser of a model that reads ranked genes: `rank_cells` with its settings."""

    def rank(counts: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        return rank_cells(counts, token_of_column, medians, context)

    return rank


@numba.njit(cache=True, nogil=True)
def _fill_keys(  # type: ignore[no-untyped-def]
    cells,
    indptr,
    indices,
    data,
    token_of_column,
    medians,
    sum_first,
    keys,
    umis,
    umis_known,
    genes,
    genes_known,
):
    """Write the sort keys of some cells, one row each, `NO_KEY` after the last."""
    total_of_token = np.zeros(len(medians) if sum_first else 0, dtype=np.float64)
    touched = np.empty(len(medians) if sum_first else 0, dtype=np.int64)
    value = np.empty(1, dtype=np.float64)
    bits = value.view(np.int64)
    for row in range(len(cells)):
        cell = cells[row]
        end = 0
        n_touched = 0
        n_genes = 0
        total = 0.0
        total_known = 0.0
        for place in range(indptr[cell], indptr[cell + 1]):
            count = data[place]
            if count == 0.0:
                continue
            total += count
            n_genes += 1
            token = token_of_column[indices[place]]
            if token < 0:
                continue
            total_known += count
            if sum_first:
                if total_of_token[token] == 0.0:
                    touched[n_touched] = token
                    n_touched += 1
                total_of_token[token] += count
            else:
                value[0] = count / medians[token]
                # Inverted, so that ascending keys are descending values, then ascending tokens.
                keys[row, end] = ~((bits[0] & ~TOKEN_BITS) | (TOKEN_BITS - token))
                end += 1
        for i in range(n_touched):
            token = touched[i]
            value[0] = total_of_token[token] / medians[token]
            keys[row, end] = ~((bits[0] & ~TOKEN_BITS) | (TOKEN_BITS - token))
            end += 1
            total_of_token[token] = 0.0
        keys[row, end:] = NO_KEY
        genes[cell] = n_genes
        genes_known[cell] = end
        umis[cell] = np.int64(np.rint(total))
        umis_known[cell] = np.int64(np.rint(total_known))


@numba.njit(cache=True, nogil=True)
def _unpack_keys(keys, cells, genes_known, best):  # type: ignore[no-untyped-def]
    """Write the tokens of sorted keys to the rows of `best` that are those of `cells`."""
    for row in range(len(cells)):
        cell = cells[row]
        for place in range(min(genes_known[cell], keys.shape[1])):
            best[cell, place] = TOKEN_BITS - (~keys[row, place] & TOKEN_BITS)


@numba.njit(cache=True, nogil=True)
def _pack(best, offsets):  # type: ignore[no-untyped-def]
    """Join the first tokens of each row, as many as `offsets` leave room for."""
    tokens = np.empty(offsets[-1], dtype=np.uint16)
    for cell in range(len(best)):
        start, end = offsets[cell], offsets[cell + 1]
        tokens[start:end] = best[cell, : end - start]
    return tokens


def rank_cells_torch(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    data: torch.Tensor,
    token_of_column: torch.Tensor,
    medians: torch.Tensor,
    context: int,
    longest: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank the genes of each cell on whatever device the tensors are on.

    Same contract and same tokens as `rank_cells`; nothing here waits for the device.

    Parameters
    ----------
    indptr, indices, data
        ``[B + 1]``, ``[nnz]``, ``[nnz]``: raw counts in CSR form.
    token_of_column
        ``[G]`` int64, -1 where unknown. Columns that share a token are summed.
    medians
        ``[V]`` float64.
    context
        Most genes kept a cell.
    longest
        Non-zeros of the fullest cell, known on the host: ``max(diff(indptr))``.

    Returns
    -------
    tokens
        ``[B, min(context, longest)]`` int64, -1 after the last gene of a cell.
    lengths
        ``[B]`` int64.
    """
    import torch

    n_cells, n_tokens = len(indptr) - 1, len(medians)
    place = torch.arange(len(data), device=data.device)
    row = torch.searchsorted(indptr[1:].contiguous(), place, right=True)
    token = token_of_column[indices.long()]
    count = torch.where(token >= 0, data.double(), 0.0)
    token = token.clamp(min=0)
    # Sum columns that share a token: sort by (cell, token), add up each run at its first place.
    slot, order = torch.sort(row * n_tokens + token, stable=True)
    first = torch.ones_like(slot, dtype=torch.bool)
    first[1:] = slot[1:] != slot[:-1]
    run = torch.cumsum(first, 0) - 1
    total = torch.zeros(len(slot), dtype=torch.float64, device=data.device)
    total.index_add_(0, run, count[order])
    total = torch.where(first, total[run], 0.0)
    token, row = slot % n_tokens, slot.div(n_tokens, rounding_mode="floor")
    value = total / medians[token]
    key = ~((value.view(torch.int64) & ~TOKEN_BITS) | (TOKEN_BITS - token))
    key = torch.where(total > 0, key, NO_KEY)
    # Sorting by (cell, token) kept each cell's places together, so place - indptr[row] is a column.
    padded = torch.full((n_cells, max(longest, 1)), NO_KEY, dtype=torch.int64, device=data.device)
    padded[row, place - indptr[row]] = key
    best = torch.sort(padded, dim=1).values[:, :context]
    tokens = torch.where(best != NO_KEY, TOKEN_BITS - (~best & TOKEN_BITS), -1)
    return tokens, (best != NO_KEY).sum(1)
