"""Figures of a task: columns of its table, values with intervals, and points of its curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cellscribe.errors import InputError

Kind = Literal["model", "random", "baseline"]


class UnfitError(InputError):
    """Data or model lack what a task needs; a suite leaves the task out and logs the reason."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a task's table."""

    title: str
    about: str
    """What it measures, in a sentence, with its source."""
    better: Literal["higher", "lower"] | None = None
    """None for a figure that only describes."""
    digits: int = 3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    draws: tuple[float, ...] = field(default=(), compare=False, repr=False)
    """Its values under resampling, kept for headlines. Those of two methods on one case under one
    seed are of the same resampled cells, so that their differences have an interval."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a line in a figure; all methods of a case share the axes."""

    x: list[float]
    y: list[float]
    x_label: str
    y_label: str
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one method on one case, under one seed."""

    estimates: dict[str, Estimate]
    """By the task's metrics; a metric without a meaning for the method is left out."""
    breakdowns: dict[str, dict[str, float]] = field(default_factory=dict)
    """Further tables: this method's row of each, {"by corruption": {"mask": 6.9, "kept": 0.1}}."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By the title of the figure."""
