"""Medians beside NumPy's, and the bound on the error of the histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellscribe.corpus.build.medians import LARGEST_ERROR, SCALE, GeneMedians, Values

N_TOKENS = 7
counts_of_cells = hnp.arrays(
    np.uint32,
    st.tuples(st.integers(1, 40), st.just(N_TOKENS + 1)),
    elements=st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 60_000)),
)


def by_numpy(dense: np.ndarray) -> np.ndarray:
    """Median of each gene's non-zero counts per 10,000; the last column is no known gene."""
    share = SCALE * dense / np.maximum(dense.sum(1, keepdims=True), 1)
    return np.array([np.median(c[c > 0]) if (c > 0).any() else np.nan for c in share.T[:-1]])


def added(dense: np.ndarray, blocks: int, room: int) -> GeneMedians:
    medians = GeneMedians(np.array([*range(N_TOKENS), -1], np.int32), N_TOKENS, exact_values=room)
    values = []
    for block in np.array_split(dense, blocks):
        cells, genes = np.nonzero(block)
        ends = np.concatenate([[0], np.cumsum((block > 0).sum(1))]).astype(np.int64)
        totals = block.sum(1).astype(np.int64)
        values.append(Values(genes.astype(np.uint16), block[cells, genes], ends, totals))
    medians.add(values[:2])
    for block in values[2:]:
        medians.add([block])
    return medians


@given(dense=counts_of_cells, blocks=st.integers(1, 5))
@settings(max_examples=60)
def test_few_values_have_exact_medians(dense: np.ndarray, blocks: int) -> None:
    medians = added(dense, blocks, 10_000)
    assert medians.exact
    assert medians.n_cells == len(dense)
    np.testing.assert_allclose(medians.medians(), by_numpy(dense), rtol=1e-6)


@given(dense=counts_of_cells, blocks=st.integers(1, 5), room=st.integers(0, 20))
@settings(max_examples=150)
def test_many_values_have_medians_within_the_stated_error(
    dense: np.ndarray, blocks: int, room: int
) -> None:
    medians = added(dense, blocks, room)
    expected = by_numpy(dense)
    assert medians.exact == (np.count_nonzero(dense[:, :-1]) <= room)
    np.testing.assert_allclose(medians.medians(), expected, rtol=LARGEST_ERROR)


@given(dense=counts_of_cells, seed=st.integers(0, 1_000), room=st.integers(0, 20))
@settings(max_examples=60)
def test_the_order_of_cells_and_blocks_means_nothing(
    dense: np.ndarray, seed: int, room: int
) -> None:
    shuffled = np.random.default_rng(seed).permutation(dense)
    one, other = added(dense, 1, room).medians(), added(shuffled, 4, room).medians()
    assert one.tobytes() == other.tobytes()


def test_totals_count_genes_that_the_vocabulary_lacks() -> None:
    dense = np.zeros((1, N_TOKENS + 1), np.uint32)
    dense[0, 0], dense[0, -1] = 1, 9_999
    assert added(dense, 1, 100).medians()[0] == pytest.approx(1.0)


def test_values_over_ten_decades_stay_within_the_error() -> None:
    dense = np.ones((64, N_TOKENS + 1), np.uint32)
    dense[:, -1] = np.geomspace(1, 4e9, 64).astype(np.uint32)
    np.testing.assert_allclose(
        added(dense, 8, 0).medians(), by_numpy(dense.astype(np.float64)), rtol=LARGEST_ERROR
    )
