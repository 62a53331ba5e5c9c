"""Widths of intervals: against counting, and on groups that share an error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.annotation.conformal import conformal_quantile, fit_interval, weights_of


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9]))
@settings(max_examples=80)
def test_without_groups_it_is_the_usual_order_statistic(errors: list[int], share: float) -> None:
    place = math.ceil(share * (len(errors) + 1) - 1e-9)
    expected = sorted(errors)[min(place, len(errors)) - 1]
    assert conformal_quantile(np.array(errors, float), None, share) == expected


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.8, 0.9]),
)
@settings(max_examples=80)
def test_every_group_counts_alike(cells: list[tuple[int, int]], share: float) -> None:
    errors = np.array([error for error, _ in cells], float)
    groups = np.array([f"g{group}" for _, group in cells], object)

    def held(width: float) -> float:
        """Mean over groups of the share within a width."""
        return float(np.mean([(errors[groups == g] <= width).mean() for g in set(groups)]))

    found = conformal_quantile(errors, groups, share)
    assert held(found) >= share - 1e-9
    assert all(held(width) < share for width in np.unique(errors) if width < found)
    assert weights_of(groups, len(groups)).sum() == pytest.approx(1)


def test_new_groups_are_covered_as_told() -> None:
    """Groups with a shift of their own: what the folds tell is what new groups show."""
    rng = np.random.default_rng(0)
    told, shown, naive = [], [], []
    for _ in range(60):
        shift, number = rng.normal(0, 2, 24), np.repeat(np.arange(24), 20)
        errors = np.abs(shift[number] + rng.normal(0, 0.5, len(number)))
        groups = np.array([f"g{n}" for n in number], object)
        found = fit_interval(errors, groups, number // 4, 0.8)
        new = np.abs(rng.normal(0, 2, 200)[:, None] + rng.normal(0, 0.5, (200, 20)))
        told.append(found.reached)
        shown.append((new <= found.half_width).mean())
        naive.append(found.groups)
    assert np.mean(shown) == pytest.approx(0.8, abs=0.04)
    assert np.mean(told) == pytest.approx(np.mean(shown), abs=0.04)
    assert set(naive) == {24}


def test_the_reached_share_is_by_other_folds_alone() -> None:
    errors = np.array([1.0] * 10 + [5.0] * 10)
    found = fit_interval(errors, None, np.repeat([0, 1], 10), 0.8)
    assert found.half_width == 5
    # the first is within what the second needs, the second not within what the first needs
    assert found.reached == 0.5
    assert found.worst_fold == 0
    alone = fit_interval(errors, None, np.zeros(20, int), 0.8)
    assert alone.reached is None
    assert alone.worst_fold is None
