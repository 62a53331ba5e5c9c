"""Bins of counts: where NumPy's quantiles put them, ties and subsets drawn alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cellscribe.cells.tokens import CellTokens, known_counts
from cellscribe.families.scgpt.binning import bin_cells


def packed(rows: list[npt.ArrayLike]) -> CellTokens:
    """Cells of these values, their tokens 0, 1, 2, ..."""
    values = [np.asarray(row, np.float32) for row in rows]
    lengths = np.array([len(row) for row in values])
    return CellTokens(
        tokens=np.concatenate([np.arange(n, dtype=np.uint16) for n in lengths]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        values=np.concatenate(values),
        umis=np.array([int(row.sum()) for row in values]),
        umis_known=np.array([int(row.sum()) for row in values]),
        genes=lengths.astype(np.int32),
        genes_known=lengths.astype(np.int32),
    )


def bins_of(row: npt.ArrayLike, n_bins: int = 51) -> npt.NDArray[np.float32]:
    values = bin_cells(packed([row]), n_bins, 10**6).values
    assert values is not None
    return values


def test_bins_without_ties_are_the_published_ones() -> None:
    assert bins_of([1, 2, 3, 4, 5]).tolist() == [1, 13, 25, 37, 50]
    assert bins_of([1, 2, 3, 4], 6).tolist() == [1, 2, 3, 5]
    assert bins_of([1, 1, 1, 2, 4], 5)[3:].tolist() == [3, 4]
    assert set(bins_of([1, 1, 1, 2, 4], 5)[:3]) <= {1, 2}


counts = st.lists(st.integers(1, 12) | st.integers(1, 5_000), min_size=1, max_size=120)
floats = st.lists(st.floats(2**-10, 2**20, width=32), min_size=1, max_size=60)


@given(counts | floats, st.integers(3, 60))
def test_bins_lie_where_numpy_puts_them(row: list[float], n_bins: int) -> None:
    values = np.asarray(row, np.float32)
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    for value, ours in zip(values, bins_of(values, n_bins), strict=True):
        highest, below = int((edges <= value).sum()), int((edges < value).sum())
        assert min(below + 1, highest) <= ours <= highest


def test_tied_counts_fall_into_all_their_bins_alike() -> None:
    found = np.bincount(bins_of(np.ones(50_000)).astype(int), minlength=51)
    assert found[0] == 0
    # 50 bins, 1,000 expected in each: chi-squared of 49 degrees has its 99.99th percentile at 96.
    assert ((found[1:] - 1_000) ** 2 / 1_000).sum() < 96


def test_long_cells_are_cut_to_a_random_subset_with_the_bins_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 50, (2_000, 20))
    whole, cut = (bin_cells(packed(list(rows)), 51, context) for context in (20, 5))
    assert (cut.lengths == 5).all()
    assert whole.values is not None
    assert cut.values is not None
    kept = cut.tokens.reshape(-1, 5).astype(int)
    assert (np.diff(kept, axis=1) > 0).all()
    of_whole = np.take_along_axis(whole.values.reshape(-1, 20), kept, axis=1)
    np.testing.assert_array_equal(cut.values.reshape(-1, 5), of_whole)
    often = np.bincount(kept.ravel(), minlength=20)
    # 19 degrees; each place is kept 500 times in 2,000.
    assert ((often - 500) ** 2 / (500 * 0.75)).sum() < 50


def test_cells_of_equal_counts_draw_differently() -> None:
    ones = np.ones((2, 40))
    ones[1, 7] = 2
    cells = bin_cells(known_counts(csr_matrix(ones), np.arange(40, dtype=np.int32)), 51, 99)
    assert cells.values is not None
    first, second = cells.values.reshape(2, 40)
    assert (np.delete(first, 7) != np.delete(second, 7)).mean() > 0.5
