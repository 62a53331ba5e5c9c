"""Binomial downsampling beside the closed form of its mean and variance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cellscribe.cells.downsample import downsample


@pytest.fixture(scope="module")
def counts() -> csr_matrix:
    random = np.random.default_rng(1)
    return csr_matrix(random.poisson(random.gamma(0.5, 8, (300, 50))).astype(np.float32))


def test_mean_and_variance_are_those_of_a_binomial(counts: csr_matrix) -> None:
    share, total = 0.3, counts.sum()
    lost = [
        downsample(counts, share, np.random.default_rng(seed)).sum() - share * total
        for seed in range(40)
    ]
    deviation = (total * share * (1 - share)) ** 0.5
    assert abs(np.mean(lost)) < 5 * deviation / 40**0.5
    assert 0.5 < np.std(lost) / deviation < 1.5


def test_no_count_grows_and_none_is_zero(counts: csr_matrix) -> None:
    before = counts.copy()
    kept = downsample(counts, 0.2, np.random.default_rng(0))
    assert (counts != before).nnz == 0
    assert (kept.data > 0).all()
    assert kept.dtype == np.float32
    assert ((counts - kept).toarray() >= 0).all()
    assert kept.nnz < counts.nnz


def test_the_draw_is_one_number_a_stored_count(counts: csr_matrix) -> None:
    kept = downsample(counts, 0.4, np.random.default_rng(5))
    wanted = np.random.default_rng(5).binomial(counts.data.astype(np.int64), 0.4)
    assert np.array_equal(kept.data, wanted[wanted > 0])
    assert (downsample(counts, 1, np.random.default_rng(5)) != counts).nnz == 0
    assert downsample(counts, 0, np.random.default_rng(5)).nnz == 0
