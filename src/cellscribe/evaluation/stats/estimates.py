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
    """Make an estimate of a figure and its resampled values, with their percentiles as interval."""
    draws = tuple(found.tolist())
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(value=value, low=float("nan"), high=float("nan"), draws=draws)
    low, high = np.percentile(found, PERCENTILES)
    return Estimate(value=value, low=float(low), high=float(high), draws=draws)


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Combine estimates of several seeds: the mean, and the widest of intervals and figures.

    Resampled values stand one seed after the other, where all seeds have equally many.
    """
    values = [each.value for each in estimates]
    bounds = np.array([[each.low, each.high, each.value] for each in estimates]).ravel()
    bounds = bounds[~np.isnan(bounds)]
    if not len(bounds):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    alike = len({len(each.draws) for each in estimates}) == 1
    return Estimate(
        value=float(np.mean(values)),
        low=float(bounds.min()),
        high=float(bounds.max()),
        draws=tuple(draw for each in estimates for draw in each.draws) if alike else (),
    )


def difference(one: Estimate, other: Estimate, n_seeds: int) -> Estimate:
    """Subtract a figure of another method on the same case, with an interval of paired resamples.

    Both methods are scored on the same resampled cells, so what these have in common cancels: the
    interval is that of the difference (Efron and Tibshirani 1993), as wide as the seeds together
    reach. Without resampled values of both its ends are NaN.

    Parameters
    ----------
    one, other
        Figures over the same seeds, see `over_seeds`.
    n_seeds
        Number of these seeds.
    """
    value = one.value - other.value
    if not one.draws or len(one.draws) != len(other.draws) or len(one.draws) % n_seeds:
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    draws = (np.array(one.draws) - np.array(other.draws)).reshape(n_seeds, -1)
    of_seeds = [between(float("nan"), seed) for seed in draws]
    low, high = (np.array([getattr(each, end) for each in of_seeds]) for end in ("low", "high"))
    return Estimate(value=value, low=float(low.min()), high=float(high.max()))
