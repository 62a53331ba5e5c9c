"""Bootstrap intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from cellscribe.evaluation.scores import Estimate
from cellscribe.evaluation.stats.estimates import (
    between,
    bootstrap,
    bootstrap_mean,
    difference,
    over_seeds,
)

VALUES = np.random.default_rng(0).normal(3.0, 2.0, 400)


def test_interval_of_a_mean_is_the_normal_one() -> None:
    found = bootstrap_mean(VALUES, draws=4_000, seed=1)
    error = 1.96 * VALUES.std() / np.sqrt(len(VALUES))
    assert found.value == pytest.approx(VALUES.mean())
    assert found.high - found.value == pytest.approx(error, rel=0.08)
    assert found.value - found.low == pytest.approx(error, rel=0.08)


def test_both_ways_agree_and_depend_on_the_seed() -> None:
    mean = bootstrap_mean(VALUES, draws=50, seed=2)
    assert bootstrap(lambda rows: VALUES[rows].mean(), 400, draws=50, seed=2) == mean
    assert bootstrap_mean(VALUES, draws=50, seed=2) == mean
    assert bootstrap_mean(VALUES, draws=50, seed=3) != mean


def test_interval_of_a_share_covers_as_often_as_it_says() -> None:
    """Of 200 samples of 100 coins of 0.3, about 95 % of the intervals hold 0.3."""
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(200):
        found = bootstrap_mean(rng.random(100) < 0.3, draws=200, seed=seed)
        held += found.low <= 0.3 <= found.high
    assert 0.88 < held / 200 < 0.99


def test_what_is_no_number_does_not_count() -> None:
    holed = np.append(VALUES, [np.nan] * 9)
    assert bootstrap_mean(holed, draws=30, seed=0) == bootstrap_mean(VALUES, draws=30, seed=0)
    nothing = bootstrap_mean([np.nan], draws=30, seed=0)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    some = between(1.0, np.array([np.nan, 1.0, 2.0, np.inf]))
    assert (some.low, some.high) == pytest.approx((1.025, 1.975))
    assert np.isnan(between(1.0, np.array([np.nan])).low)


def test_seeds_together_are_as_wide_as_any() -> None:
    one = Estimate(value=1.0, low=0.5, high=1.5)
    two = Estimate(value=2.0, low=1.9, high=2.1)
    bare = Estimate(value=3.0, low=float("nan"), high=float("nan"))
    assert over_seeds([one, two]) == Estimate(value=1.5, low=0.5, high=2.1)
    assert over_seeds([one, two, bare]) == Estimate(value=2.0, low=0.5, high=3.0)
    none = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    assert np.isnan(over_seeds([none, none]).value)


def test_a_difference_is_that_of_the_same_resamples() -> None:
    """As if the differences of single cells had been resampled, and so far narrower."""
    other = VALUES + np.random.default_rng(1).normal(0.1, 0.05, 400)
    one, two = (
        over_seeds([bootstrap_mean(values, draws=80, seed=seed) for seed in (0, 1)])
        for values in (other, VALUES)
    )
    gap = difference(one, two, 2)
    wanted = [bootstrap_mean(other - VALUES, draws=80, seed=seed) for seed in (0, 1)]
    assert gap.value == pytest.approx((other - VALUES).mean())
    assert gap.low == pytest.approx(min(each.low for each in wanted))
    assert gap.high == pytest.approx(max(each.high for each in wanted))
    assert gap.high - gap.low < (one.high - one.low) / 10


def test_a_difference_of_other_resamples_has_no_interval() -> None:
    one = bootstrap_mean(VALUES, draws=30, seed=0)
    for other in (bootstrap_mean(VALUES, draws=40, seed=0), Estimate(value=1.0, low=0.0, high=2.0)):
        gap = difference(one, other, 1)
        assert gap.value == pytest.approx(one.value - other.value)
        assert np.isnan([gap.low, gap.high]).all()
    assert not over_seeds([one, Estimate(value=1.0, low=0.0, high=2.0)]).draws
