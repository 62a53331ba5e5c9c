"""The linear probe, and the standard features beside it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cellscribe.evaluation.stats.probe import linear_probe, log_norm_pca


def labels_of(n: int, n_classes: int) -> np.ndarray:
    return np.array([f"type {i % n_classes}" for i in range(n)], dtype=object)


def test_separable_types_are_all_told_apart() -> None:
    labels = labels_of(120, 3)
    rng = np.random.default_rng(0)
    middles = np.eye(3, 6) * 20
    vectors = middles[np.arange(120) % 3] + rng.normal(size=(120, 6))
    score = linear_probe(vectors.astype(np.float32), labels)
    assert (score.accuracy, score.macro_f1) == (1.0, 1.0)
    assert score.fold_accuracies == [1.0] * 5


@pytest.mark.parametrize("width", [4, 500])
def test_random_vectors_are_no_better_than_chance(width: int) -> None:
    """With 500 numbers a cell any training set is separable: only unseen cells tell the truth."""
    vectors = np.random.default_rng(1).normal(size=(400, width))
    score = linear_probe(vectors, labels_of(400, 4))
    error = np.sqrt(0.25 * 0.75 / 400)
    assert abs(score.accuracy - 0.25) < 4 * error
    assert abs(score.macro_f1 - 0.25) < 4 * error


def test_rare_types_count_as_much_in_macro_f1() -> None:
    """The rare type cannot be told from one of the two common ones: one F1 of three is 0."""
    labels = np.array(["a"] * 200 + ["b"] * 200 + ["rare"] * 10, dtype=object)
    vectors = np.random.default_rng(2).normal(size=(410, 3))
    vectors[:200, 0] += 50
    score = linear_probe(vectors, labels)
    assert score.accuracy == pytest.approx(400 / 410)
    assert score.macro_f1 == pytest.approx((1 + 2 * 200 / (2 * 200 + 10)) / 3)


def test_scale_and_place_of_a_feature_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    labels = labels_of(150, 3)
    vectors = rng.normal(size=(150, 5)) + np.eye(3, 5)[np.arange(150) % 3]
    score = linear_probe(vectors, labels)
    assert 0.4 < score.accuracy < 1
    assert linear_probe(vectors * [1e-3, 1, 10, 1e3, 2] + [0, 5, -3, 1e4, 1], labels) == score


def test_folds_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(4)
    labels = labels_of(100, 2)
    vectors = rng.normal(size=(100, 3)) + np.eye(2, 3)[np.arange(100) % 2]
    score = linear_probe(vectors, labels, folds=4, seed=1)
    assert len(score.fold_accuracies) == 4
    assert score.accuracy == pytest.approx(np.mean(score.fold_accuracies))
    assert linear_probe(vectors, labels, folds=4, seed=1) == score
    assert linear_probe(vectors, labels, folds=4, seed=2) != score


def dense_pca(counts: np.ndarray, genes: int, components: int) -> np.ndarray:
    """scanpy's normalize_total, log1p, most variable by plain variance, pca; on dense numbers."""
    totals = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / np.where(totals > 0, totals, 1) * 1e4)
    most = np.argsort(logs.var(axis=0))[::-1][:genes]
    centred = logs[:, most] - logs[:, most].mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :components] * values[:components]


@pytest.mark.parametrize(("genes", "dtype"), [(30, np.float32), (80, np.int32), (500, np.uint16)])
def test_log_norm_pca_equals_the_dense_way(genes: int, dtype: type) -> None:
    rng = np.random.default_rng(5)
    counts = rng.negative_binomial(1, 0.3, (60, 80)) * (rng.random(80) < rng.random((60, 80)))
    counts[7] = 0  # an empty cell
    ours = log_norm_pca(csr_matrix(counts.astype(dtype)), genes=genes, components=6)
    expected = dense_pca(counts.astype(np.float64), genes, 6)
    assert ours.shape == (60, 6)
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-8)


def test_log_norm_pca_does_not_see_depth() -> None:
    counts = csr_matrix(np.random.default_rng(6).poisson(2.0, (40, 50)))
    deeper = csr_matrix(counts.multiply(np.arange(1, 41)[:, None]))
    np.testing.assert_allclose(
        np.abs(log_norm_pca(deeper, components=5)),
        np.abs(log_norm_pca(counts, components=5)),
        atol=1e-8,
    )
