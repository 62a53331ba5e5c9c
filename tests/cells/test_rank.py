"""Ranks against the contract, in plain Python with exact fractions."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cellscribe.cells.rank import rank_cells, rank_cells_torch
from cellscribe.cells.tokens import PER_CELL, CellTokens

N_SPECIAL, N_TOKENS = 5, 14
DTYPES = [np.int32, np.int64, np.uint16, np.uint8, np.float32, np.float64]


def by_the_contract(
    cell: dict[int, int], token_of_column: np.ndarray, medians: np.ndarray, context: int
) -> list[int]:
    """Counts per 10,000 over the median, descending, ties by token, cut."""
    total = sum(cell.values())
    count_of_token: dict[int, int] = defaultdict(int)
    for column, count in cell.items():
        if token_of_column[column] >= 0:
            count_of_token[int(token_of_column[column])] += count
    scaled = {
        token: Fraction(10_000 * count, total) / Fraction(float(medians[token]))
        for token, count in count_of_token.items()
        if count
    }
    return sorted(scaled, key=lambda token: (-scaled[token], token))[:context]


def to_rows(cells: list[dict[int, int]], n_columns: int, dtype: type) -> csr_matrix:
    """CSR with the entries in the order in which the cells name them, zeros stored."""
    indptr = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int32)
    indices = np.array([column for cell in cells for column in cell], dtype=np.int32)
    data = np.array([count for cell in cells for count in cell.values()], dtype=dtype)
    return csr_matrix((data, indices, indptr), shape=(len(cells), n_columns))


def split(ranked: CellTokens) -> list[list[int]]:
    return [ranked.tokens[a:b].tolist() for a, b in pairwise(ranked.offsets)]


def rank_in_torch(
    counts: csr_matrix, token_of_column: np.ndarray, medians: np.ndarray, context: int
) -> list[list[int]]:
    longest = int(np.diff(counts.indptr).max(initial=0))
    tokens, lengths = rank_cells_torch(
        torch.from_numpy(counts.indptr).long(),
        torch.from_numpy(counts.indices),
        torch.from_numpy(counts.data),
        torch.from_numpy(token_of_column).long(),
        torch.from_numpy(medians),
        context,
        longest,
    )
    assert tokens.shape == (counts.shape[0], min(context, max(longest, 1)))
    for row, length in zip(tokens, lengths, strict=True):
        assert (row[:length] >= 0).all()
        assert (row[length:] == -1).all()
    return [row[:n].tolist() for row, n in zip(tokens, lengths.tolist(), strict=True)]


@st.composite
def problems(draw: st.DrawFn):
    """Cells of few genes with few counts, so that ties and shared tokens are common.

    Medians are eighths: equal fractions are then equal in float64 too, unequal ones far apart.
    """
    token = st.integers(N_SPECIAL, N_TOKENS - 1) | st.just(-1)
    token_of_column = draw(st.lists(token, min_size=1, max_size=12))
    eighths = draw(
        st.lists(st.integers(1, 40), min_size=N_TOKENS - N_SPECIAL, max_size=N_TOKENS - N_SPECIAL)
    )
    medians = np.array([np.nan] * N_SPECIAL + [n / 8 for n in eighths])
    dtype = draw(st.sampled_from(DTYPES))
    largest = 255 if dtype is np.uint8 else 60_000
    cell = st.dictionaries(
        st.integers(0, len(token_of_column) - 1), st.integers(0, 4) | st.integers(0, largest)
    )
    cells = draw(st.lists(cell, max_size=6))
    if draw(st.booleans()):
        cells = [dict(sorted(cell.items())) for cell in cells]
    context = draw(st.integers(1, 10))
    return cells, dtype, np.array(token_of_column, dtype=np.int32), medians, context


@settings(max_examples=300)
@given(problems())
def test_both_kernels_equal_the_contract(problem) -> None:
    cells, dtype, token_of_column, medians, context = problem
    counts = to_rows(cells, len(token_of_column), dtype)
    expected = [by_the_contract(cell, token_of_column, medians, context) for cell in cells]
    ranked = rank_cells(counts, token_of_column, medians, context)
    assert split(ranked) == expected
    if cells:
        assert rank_in_torch(counts, token_of_column, medians, context) == expected
    known = [{c: n for c, n in cell.items() if token_of_column[c] >= 0} for cell in cells]
    assert ranked.umis.tolist() == [sum(cell.values()) for cell in cells]
    assert ranked.umis_known.tolist() == [sum(cell.values()) for cell in known]
    assert ranked.genes.tolist() == [sum(n > 0 for n in cell.values()) for cell in cells]
    assert ranked.genes_known.tolist() == [
        len({token_of_column[c] for c, n in cell.items() if n}) for cell in known
    ]


def realistic(n_cells: int, n_columns: int, seed: int):
    """Cells of many genes; medians with all their digits; some columns unknown, some shared."""
    rng = np.random.default_rng(seed)
    counts = rng.negative_binomial(0.3, 0.1, (n_cells, n_columns)).astype(np.float32)
    medians = np.concatenate([np.full(N_SPECIAL, np.nan), rng.lognormal(size=n_columns)])
    token_of_column = rng.permutation(n_columns).astype(np.int32) + N_SPECIAL
    token_of_column[rng.random(n_columns) < 0.2] = -1
    token_of_column[-5:] = token_of_column[:5]
    return csr_matrix(counts), token_of_column, medians


def test_medians_of_any_digits() -> None:
    counts, token_of_column, medians = realistic(40, 300, 0)
    expected = [
        by_the_contract(
            {int(c): int(n) for c, n in zip(row.indices, row.data, strict=True)},
            token_of_column,
            medians,
            64,
        )
        for row in counts
    ]
    assert split(rank_cells(counts, token_of_column, medians, 64)) == expected
    assert rank_in_torch(counts, token_of_column, medians, 64) == expected


def test_ties_that_rounding_blurs_still_go_by_token() -> None:
    """k counts over a median of 0.7 k are one value in theory, several in float64."""
    n = 300
    k = np.arange(n, 0, -1)
    medians = np.concatenate([np.full(N_SPECIAL, np.nan), 0.7 * k])
    assert len(np.unique(k / medians[N_SPECIAL:])) > 1
    counts = csr_matrix(k[None].astype(np.int32))
    token_of_column = np.arange(n, dtype=np.int32) + N_SPECIAL
    expected = [token_of_column.tolist()]
    assert split(rank_cells(counts, token_of_column, medians, n)) == expected
    assert rank_in_torch(counts, token_of_column, medians, n) == expected


def test_entries_stored_twice_are_one_count() -> None:
    twice = csr_matrix((np.array([1, 2, 2]), np.array([0, 1, 0]), np.array([0, 3])), shape=(1, 2))
    token_of_column = np.array([5, 6], dtype=np.int32)
    medians = np.array([np.nan] * N_SPECIAL + [1.0, 1.0])
    ranked = rank_cells(twice, token_of_column, medians, 8)
    assert split(ranked) == [[5, 6]]  # 3 counts against 2
    assert rank_in_torch(twice, token_of_column, medians, 8) == [[5, 6]]
    assert (ranked.umis[0], ranked.umis_known[0], ranked.genes_known[0]) == (5, 5, 2)


def test_largest_token_and_largest_count() -> None:
    medians = np.ones(1 << 16)
    token_of_column = np.array([65_535, 65_534, 5], dtype=np.int32)
    counts = csr_matrix(np.array([[2**31 - 1, 2**31 - 1, 2**31 - 2]]))
    ranked = rank_cells(counts, token_of_column, medians, 8)
    assert split(ranked) == [[65_534, 65_535, 5]]
    assert rank_in_torch(counts, token_of_column, medians, 8) == [[65_534, 65_535, 5]]
    assert ranked.umis[0] == 3 * 2**31 - 4


def assert_same(a: CellTokens, b: CellTokens) -> None:
    for name in ("tokens", "offsets", *PER_CELL):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_block_size_changes_nothing(size: int) -> None:
    counts, token_of_column, medians = realistic(40, 120, 1)
    whole = rank_cells(counts, token_of_column, medians, 32)
    parts = [
        rank_cells(counts[i : i + size], token_of_column, medians, 32) for i in range(0, 40, size)
    ]
    assert_same(CellTokens.concatenate(parts), whole)


def test_slices_are_the_cells_alone_and_join_again() -> None:
    counts, token_of_column, medians = realistic(30, 60, 2)
    counts = csr_matrix(counts.toarray() * (np.arange(30) % 4 > 0)[:, None])  # some empty cells
    whole = rank_cells(counts, token_of_column, medians, 16)
    for start, stop in [(0, 30), (0, 0), (30, 30), (4, 17), (12, 13)]:
        alone = rank_cells(counts[start:stop], token_of_column, medians, 16)
        assert_same(whole.slice(start, stop), alone)
    parts = [whole.slice(0, 11), whole.slice(11, 11), whole.slice(11, 30)]
    assert_same(CellTokens.concatenate(parts), whole)
    assert np.shares_memory(whole.slice(4, 17).tokens, whole.tokens)
    np.testing.assert_array_equal(whole.lengths, [len(tokens) for tokens in split(whole)])
