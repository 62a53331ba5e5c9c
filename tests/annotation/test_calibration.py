"""Temperature, threshold and calibration error on scores whose truth is planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.annotation.calibration import (
    EVEN,
    NOTHING,
    calibrate,
    calibration_error,
    choose_threshold,
    fit_temperature,
    log_loss,
)
from cellscribe.model.heads import best_of, probabilities


def planted(temperature: float, n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and classes drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, 4))
    powers = np.exp(logits / temperature)
    below = np.cumsum(powers / powers.sum(1, keepdims=True), axis=1)
    return logits, (rng.random((n, 1)) > below).sum(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    logits, truth = planted(temperature)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.05)


def test_loss_and_probabilities_equal_torch() -> None:
    import torch

    logits, truth = planted(1.0, 50)
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits) / 1.7, torch.from_numpy(truth)
    )
    assert log_loss(logits, truth, 1.7) == pytest.approx(float(theirs))
    np.testing.assert_allclose(
        probabilities(logits, 1.7), torch.softmax(torch.from_numpy(logits) / 1.7, 1).numpy()
    )


def test_a_class_that_was_not_learnt_has_no_probability() -> None:
    each = probabilities(np.array([[0.0, -np.inf, 1.0]]))
    assert each[0, 1] == 0
    assert each.sum() == pytest.approx(1)
    assert log_loss(np.array([[0.0, -np.inf]]), np.array([0])) == 0


def test_calibration_error_of_what_keeps_its_promise_and_of_what_does_not() -> None:
    logits, truth = planted(2.0)
    best, sure = best_of(probabilities(logits))
    _, fair = best_of(probabilities(logits, 2.0))
    assert (
        calibration_error(fair, best == truth) < 0.02 < 0.1 < calibration_error(sure, best == truth)
    )
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 6) == pytest.approx(0.3)
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1), st.integers(50, 100))
def test_the_threshold_is_the_lowest_that_keeps_the_promise(
    cells: list[tuple[int, bool]], percent: int
) -> None:
    probability = np.array([p / 20 for p, _ in cells])
    right = np.array([r for _, r in cells])
    threshold, reached = choose_threshold(probability, right, percent / 100)

    def keeps(limit: float) -> bool:
        called = probability >= limit
        held, promised = right[called].mean(), probability[called].mean()
        return called.any() and held + promised >= 2 * percent / 100 - 1e-12

    good = [limit for limit in set(probability) if limit >= EVEN and keeps(limit)]
    assert reached == bool(good)
    if good:
        assert keeps(threshold)
        assert (probability >= threshold).sum() == (probability >= min(good)).sum()
    else:
        assert threshold == NOTHING


def test_held_out_accuracy_is_as_promised_and_holds_for_new_cells() -> None:
    logits, truth = planted(1.5)
    found = calibrate(logits, truth, np.arange(len(truth)) % 5, 0.9)
    assert found.reached
    assert found.held_out.accuracy_called is not None
    assert found.crossed is not None
    assert found.crossed.accuracy_called == pytest.approx(0.9, abs=0.02)
    assert found.held_out.accuracy_called >= 0.9
    assert found.held_out.error < 0.02 < found.error_before
    new, new_truth = planted(1.5, seed=1)
    best, probability = best_of(probabilities(new, found.temperature))
    called = probability >= found.threshold
    assert (best == new_truth)[called].mean() == pytest.approx(0.9, abs=0.02)
    assert called.mean() == pytest.approx(found.held_out.coverage, abs=0.02)


def test_a_promise_that_cannot_be_kept_is_told() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(300, 3)), np.zeros(300, int)
    truth[:] = (logits.argmax(1) + 1) % 3
    found = calibrate(logits, truth, np.zeros(300, int), 0.9)
    assert (found.reached, found.threshold, found.crossed) == (False, NOTHING, None)


def test_what_is_far_is_less_probable_and_the_fold_that_fares_worst_is_told() -> None:
    logits, truth = planted(1.0, 4_000)
    folds = np.arange(4_000) % 4
    known = np.where(folds == 3, 0.4, 1.0)
    found = calibrate(logits, truth, folds, 0.9, known=known)
    plain = calibrate(logits, truth, folds, 0.9)
    # half of the cells of one fold in four are doubted, and none of it is called
    assert found.held_out.coverage == pytest.approx(0.75 * plain.held_out.coverage, abs=0.03)
    assert found.held_out.accuracy == plain.held_out.accuracy
    assert plain.crossed is not None
    assert plain.worst_fold is not None
    assert plain.crossed.accuracy_called is not None
    assert 0.85 < plain.worst_fold <= plain.crossed.accuracy_called
