"""Metrics of predicted responses, against scipy, scikit-learn, closed forms and made-up truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.metrics import r2_score

from cellscribe.evaluation.tasks.perturbation import metrics as metrics

NAMES = ("A", "B", "C")


def made_up(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``[B, 30]`` values with many zeros, and conditions, some of which do not count."""
    rng = np.random.default_rng(seed)
    conditions = np.array(["ctrl"] * 41 + ["A"] * 20 + ["B"] * 30 + ["C"] * 25 + [""] * 10, object)
    values = rng.gamma(1.0, 1.0, (len(conditions), 30)) * (rng.random((len(conditions), 30)) < 0.5)
    values[:, 3] = 0.0
    values[:, 4] = 0.7
    order = rng.permutation(len(conditions))
    return values[order], conditions[order]


def test_profiles_are_means_and_genes_rank_by_welchs_t() -> None:
    values, conditions = made_up()
    found = metrics.profiles(csr_matrix(values), conditions, NAMES, "ctrl", seed=5)
    assert found.n_cells.tolist() == [20, 30, 25]
    perturbed = np.isin(conditions.astype(str), NAMES)
    np.testing.assert_allclose(found.mean, values[perturbed].mean(axis=0))
    controls = values[conditions == "ctrl"]
    # the halves are not told apart, but by their means: 21 and 20 cells
    np.testing.assert_allclose(
        (21 * found.control + 20 * found.start) / 41, controls.mean(axis=0), atol=1e-12
    )
    assert not np.allclose(found.control, found.start)
    varying = [gene for gene in range(30) if gene not in (3, 4)]
    for row, name in enumerate(NAMES):
        own = values[conditions == name]
        np.testing.assert_allclose(found.means[row], own.mean(axis=0))
        others = values[perturbed & (conditions != name)]
        t = np.zeros(30)
        welch = stats.ttest_ind(own[:, varying], others[:, varying], equal_var=False)
        t[varying] = np.abs(welch.statistic)
        expected = ((t - t.min()) / (t.max() - t.min())) ** 2
        np.testing.assert_allclose(found.weights[row], expected / expected.sum(), rtol=1e-6)
    assert not found.against_control[:, [3, 4]].any()


def test_true_changes_are_ranked_against_the_one_half_of_controls() -> None:
    """The halves are found again by trying: every cell's own column says to which it went."""
    values, conditions = made_up()
    tags = np.eye(len(values))
    found = metrics.profiles(
        csr_matrix(np.hstack([values, tags])), conditions, NAMES, "ctrl", seed=5
    )
    one, other = (part[30:] > 0 for part in (found.control, found.start))
    assert (one.sum(), other.sum()) == (21, 20)
    assert not (one & other).any()
    assert np.array_equal(one | other, conditions == "ctrl")
    for row, name in enumerate(NAMES):
        own = values[conditions == name][:, 5:]
        t = stats.ttest_ind(own, values[one][:, 5:], equal_var=False).statistic
        np.testing.assert_allclose(found.against_control[row, 5:30], np.abs(t), rtol=1e-6)
    again = metrics.profiles(csr_matrix(values), conditions, NAMES, "ctrl", seed=5)
    np.testing.assert_array_equal(again.control, found.control[:30])
    another = metrics.profiles(csr_matrix(values), conditions, NAMES, "ctrl", seed=6)
    assert not np.allclose(another.control, again.control)


def test_correlations_and_errors_are_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.normal(size=(2, 6, 40))
    weights = rng.random((6, 40))
    weights /= weights.sum(axis=1, keepdims=True)
    mean = rng.normal(size=40)
    for row in range(6):
        one, other = truth[row], predicted[row]
        assert metrics.pearson(truth, predicted)[row] == pytest.approx(
            stats.pearsonr(one, other).statistic
        )
        assert metrics.mse(truth, predicted)[row] == pytest.approx(np.mean((one - other) ** 2))
        assert metrics.mse(truth, predicted, weights)[row] == pytest.approx(
            np.average((one - other) ** 2, weights=weights[row])
        )
        assert metrics.weighted_r2(truth, predicted, mean, weights)[row] == pytest.approx(
            r2_score(one - mean, other - mean, sample_weight=weights[row])
        )
    control = np.arange(40.0)
    assert metrics.l2_expressed(truth, predicted, control, 10) == pytest.approx(
        np.sqrt(((truth - predicted)[:, 30:] ** 2).sum(axis=1))
    )


def test_a_perfect_prediction_has_the_best_of_every_metric() -> None:
    truth = np.random.default_rng(2).normal(size=(5, 30))
    weights = metrics.de_weights(np.abs(truth))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert metrics.pearson(truth, truth) == pytest.approx(1)
    assert not metrics.mse(truth, truth, weights).any()
    assert metrics.weighted_r2(truth, truth, truth.mean(axis=0), weights) == pytest.approx(1)
    assert metrics.discrimination(truth, truth, [()] * 5).tolist() == [1.0] * 5


def test_a_prediction_of_no_change_correlates_with_nothing() -> None:
    assert not metrics.pearson(np.random.default_rng(3).normal(size=(4, 9)), np.zeros((4, 9))).any()


def test_top_genes_are_the_highest_and_the_first_of_equals() -> None:
    scores = np.array([[1.0, 5.0, 5.0, 0.0, 9.0]])
    assert metrics.top_genes(scores, 3).tolist() == [[4, 1, 2]]


def test_discrimination_counts_who_is_farther() -> None:
    truth = np.array([[0.0], [1.0], [3.0], [10.0]])
    # to 2.4 the distances are 2.4, 1.4, 0.6, 7.6
    predicted = np.full((4, 1), 2.4)
    assert metrics.discrimination(truth, predicted, [()] * 4) == pytest.approx([1 / 3, 2 / 3, 1, 0])
    assert np.isnan(metrics.discrimination(truth[:1], predicted[:1], [()])).all()


def test_discrimination_of_one_prediction_for_all_and_of_chance_is_a_half() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(9, 50))
    same = np.tile(rng.normal(size=50), (9, 1))
    assert metrics.discrimination(truth, same, [()] * 9).mean() == pytest.approx(0.5)
    equal = metrics.discrimination(np.ones((7, 3)), np.zeros((7, 3)), [()] * 7)
    assert equal.tolist() == [0.5] * 7
    found = [
        metrics.discrimination(
            rng.normal(size=(9, 50)), rng.normal(size=(9, 50)), [()] * 9
        ).mean()
        for _ in range(200)
    ]  # fmt: skip
    assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(200)
    better = metrics.discrimination(truth, truth + rng.normal(size=truth.shape), [()] * 9)
    assert better.mean() > 0.8


def test_discrimination_does_not_look_at_the_target() -> None:
    rng = np.random.default_rng(5)
    truth, predicted = rng.normal(size=(2, 6, 20))
    targets = [[row] for row in range(6)]
    changed = predicted.copy()
    changed[np.arange(6), np.arange(6)] = 1e6
    before = metrics.discrimination(truth, predicted, targets)
    np.testing.assert_array_equal(metrics.discrimination(truth, changed, targets), before)
    assert not np.array_equal(metrics.discrimination(truth, changed, [()] * 6), before)


def test_the_mean_of_all_shines_in_correlation_and_is_null_where_weighted() -> None:
    """A shift that all perturbations share, and a few genes of each one's own."""
    rng = np.random.default_rng(6)
    own = np.zeros((20, 400))
    for row in range(20):
        own[row, rng.choice(400, 8, replace=False)] = rng.choice([-3.0, 3.0], 8)
    truth = rng.normal(size=400) + own
    scores = np.abs(own) + np.abs(rng.normal(size=own.shape)) * 0.2
    weights, mean = metrics.de_weights(scores), truth.mean(axis=0)
    guess = np.tile(mean, (20, 1))
    assert metrics.pearson(truth, guess).mean() > 0.85
    assert (metrics.weighted_r2(truth, guess, mean, weights) <= 0).all()
    assert metrics.weighted_r2(truth, guess, mean, weights).mean() > -0.3
    assert metrics.discrimination(truth, guess, [()] * 20).mean() == pytest.approx(0.5)
    told = mean + 0.5 * own
    assert metrics.weighted_r2(truth, told, mean, weights).mean() > 0.5
    assert metrics.mse(truth, told, weights).mean() < metrics.mse(truth, guess, weights).mean() / 2


def test_cells_are_told_apart_by_what_tells_them() -> None:
    rng = np.random.default_rng(7)
    perturbed = np.arange(400) % 2 == 0
    vectors = rng.normal(size=(400, 30))
    null = [metrics.separation(vectors, rng.permutation(perturbed), seed=s) for s in range(5)]
    # an AUROC of 200 against 200 has a standard error of 0.029 where nothing is there
    assert abs(np.mean(null) - 0.5) < 4 * 0.029 / np.sqrt(5)
    vectors[perturbed, 3] += 1.5
    # the best that can be had is that of two normals 1.5 apart
    best = stats.norm.cdf(1.5 / np.sqrt(2))
    assert best - 0.08 < metrics.separation(vectors, perturbed) < best + 0.03
    assert metrics.separation(vectors, perturbed) == metrics.separation(vectors, ~perturbed)
