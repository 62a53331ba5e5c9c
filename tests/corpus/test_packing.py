"""Rows in the gene space, their hashes and random keys."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellscribe.corpus.build.packing import gene_hashes, random_keys, to_space
from cellscribe.corpus.build.spill import list_array, rows_in_order

N_COLUMNS, N_GENES = 9, 6
IDS = [f"ENSG{i:011}" for i in range(N_GENES)]
dense_counts = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 12), st.just(N_COLUMNS)), elements=st.integers(0, 5)
)
gene_maps = hnp.arrays(np.int32, N_COLUMNS, elements=st.integers(-1, N_GENES - 1))


def in_space(dense: np.ndarray, genes: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """The obvious way: add up the columns of each gene."""
    out = np.zeros((len(dense), N_GENES), np.int64)
    for column, gene in enumerate(genes):
        if gene >= 0:
            out[:, gene] += dense[:, column]
    return out


@given(
    dense=dense_counts, genes=gene_maps, dtype=st.sampled_from([np.float32, np.uint16, np.int64])
)
@settings(max_examples=100)
def test_rows_are_the_sums_of_their_columns(
    dense: np.ndarray, genes: np.ndarray, dtype: type
) -> None:
    rows = to_space(sp.csr_matrix(dense.astype(dtype)), genes, gene_hashes(IDS))
    shape = (len(dense), N_GENES)
    matrix = sp.csr_matrix((rows.counts, rows.genes, rows.offsets), shape=shape)
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), in_space(dense, genes))
    np.testing.assert_array_equal(rows.n_counts, dense.sum(1))
    np.testing.assert_array_equal(rows.n_genes, (in_space(dense, genes) > 0).sum(1))


@given(dense=dense_counts, seed=st.integers(0, 99))
@settings(max_examples=60)
def test_a_hash_tells_genes_and_counts_and_nothing_else(dense: np.ndarray, seed: int) -> None:
    genes = np.arange(N_COLUMNS, dtype=np.int32)
    genes[N_GENES:] = -1
    here = to_space(sp.csr_matrix(dense), genes, gene_hashes(IDS)).cell_hash
    # the same cells in a file and a corpus with another order of genes
    order = np.random.default_rng(seed).permutation(N_GENES)
    moved = np.concatenate([dense[:, :N_GENES][:, order], dense[:, N_GENES:] + 1], axis=1)
    there = to_space(
        sp.csr_matrix(moved), genes, gene_hashes([IDS[gene] for gene in order])
    ).cell_hash
    np.testing.assert_array_equal(here, there)
    _, groups = np.unique(dense[:, :N_GENES], axis=0, return_inverse=True)
    same_rows = groups[:, None] == groups
    np.testing.assert_array_equal(here[:, None] == here, same_rows)


def test_hashes_of_many_cells_are_spread_over_all_bits() -> None:
    dense = np.arange(1, 4_097)[:, None] * np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0]])
    genes = np.arange(N_COLUMNS, dtype=np.int32)
    genes[N_GENES:] = -1
    hashes = to_space(sp.csr_matrix(dense), genes, gene_hashes(IDS)).cell_hash
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert len(np.unique(hashes)) == 4_096
    # five standard deviations of a fair coin
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / 64


def test_random_keys_belong_to_the_cell_alone() -> None:
    cells = np.arange(100_000)
    keys = random_keys(cells, seed=3, purpose=0)
    np.testing.assert_array_equal(keys[500:600], random_keys(cells[500:600], 3, 0))
    assert len(np.unique(keys)) == len(keys)
    for other in (random_keys(cells, 4, 0), random_keys(cells, 3, 1)):
        shares = np.stack([keys, other]).astype(np.float64) / 2**64
        assert abs(np.corrcoef(shares)[0, 1]) < 5 / np.sqrt(len(cells))
    places = np.bincount((keys >> np.uint64(56)).astype(int), minlength=256)
    chi = ((places - len(cells) / 256) ** 2 / (len(cells) / 256)).sum()
    # chi-square with 255 degrees of freedom: far below one in a million on either side
    assert 150 < chi < 380


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=20), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_rows_are_taken_whole(lengths: list[int], seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.arange(offsets[-1])
    rows = [values[a:b].tolist() for a, b in pairwise(offsets)]
    order = np.random.default_rng(seed).permutation(len(lengths))
    split = len(lengths) // 2
    parts = [
        list_array(values[: offsets[split]].astype(np.uint16), offsets[: split + 1]),
        list_array(values.astype(np.uint32), offsets)[split:],
    ]
    taken, ends = rows_in_order(parts, order)
    assert taken.dtype == np.uint32
    assert taken.tolist() == [value for row in order for value in rows[row]]
    assert np.diff(ends).tolist() == [len(rows[row]) for row in order]
    assert rows_in_order(parts, order, np.float32)[0].dtype == np.float32


def test_an_empty_block_has_no_rows() -> None:
    rows = to_space(sp.csr_matrix((0, N_COLUMNS)), np.zeros(N_COLUMNS, np.int32), gene_hashes(IDS))
    assert len(rows.n_counts) == len(rows.cell_hash) == 0
    with pytest.raises(OverflowError):
        random_keys(np.arange(2), seed=-1, purpose=0)
