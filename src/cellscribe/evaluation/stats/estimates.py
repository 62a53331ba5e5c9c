"""Intervals for figures: percentiles of bootstrap draws.

Efron and Tibshirani 1993; the draw depends on the seed alone, so all methods are scored on the same
resampled cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cellscribe.evaluation.scores import Estimate

Rows = npt.NDArray[np.int64]
PERCENTILES = (2.5, 97.5)


def bootstrap(statistic: Callable[[Rows], float], n: int, *, draws: int, seed: int) -> Estimate:
    """Estimate a statistic of `n` rows that are exchangeable.

    Parameters
    ----------
    statistic
        Called with row numbers, which may be repeated.
    n
        Rows.
    draws
        Number of resamples; those without a finite statistic (a class was not drawn) do not count.
    seed
        Seed of the draws.
    """
    value = float(statistic(np.arange(n)))
    random = np.random.default_rng(seed)
    found = np.array([statistic(random.integers(0, n, n)) for _ in range(draws)], np.float64)
    return between(value, found)


def bootstrap_mean(values: npt.ArrayLike, *, draws: int, seed: int) -> Estimate:
    """Estimate a mean; values that are NaN do not count."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    random = np.random.default_rng(seed)
    # one draw at a time: all of them are draws x n numbers, too many for tokens
    found = [numbers[random.integers(0, len(numbers), len(numbers))].mean() for _ in range(draws)]
    return between(float(numbers.mean()), np.array(found))


def between(value: float, found: npt.NDArray[np.float64]) -> Estimate:
    """Make an estimate of a figure and the percentiles of its resampled values."""
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    low, high = np.percentile(found, PERCENTILES)
    return Estimate(value=value, low=float(low), high=float(high))


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Combine estimates of several seeds: the mean, and the widest of intervals and figures."""
    values = [each.value for each in estimates]
    bounds = np.array([[each.low, each.high, each.value] for each in estimates]).ravel()
    bounds = bounds[~np.isnan(bounds)]
    if not len(bounds):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    return Estimate(value=float(np.mean(values)), low=float(bounds.min()), high=float(bounds.max()))
