"""From scores to probabilities that mean what they say, and to a probability worth calling.

Everything here is fitted on cells that the classifier never saw, in groups (donors, batches) that
it never saw. One temperature for all classes (Guo et al. 2017, arXiv:1706.04599): it changes no
prediction, only how sure it is. The threshold is the lowest at which the called cells are as often
right as wanted, and never below an even chance: a label that is more likely wrong is not given.
How often they are right is the mean of two estimates: the share that was right, which the choice of
the lowest of many thresholds flatters, and the mean of their probabilities, which it does not.

Nothing here is a guarantee. With a handful of groups no bound could be one and still call a cell;
what is given is an estimate, that of each fold by the others, and the fold that fared worst.

Letters: ``B`` held-out cells, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.model.heads import best_of, probabilities

EVEN = 0.5
"""Lowest threshold."""
BINS = 15
"""Bins of the expected calibration error."""
NOTHING = 1.0
"""Threshold where no lower one is good enough."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How a set of held-out cells fared."""

    cells: int
    accuracy: float
    """Share of right best labels, called or not."""
    macro_f1: float
    """Mean F1 over the classes that are there."""
    error: float
    """Expected calibration error of the best label's probability."""
    coverage: float
    """Share of cells that are called."""
    accuracy_called: float | None
    """Share of right ones among the called; None where none is."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the held-out cells teach."""

    temperature: float
    threshold: float
    wanted: float
    """Accuracy wanted among called cells."""
    reached: bool
    """Whether a threshold gives it on the held-out cells."""
    error_before: float
    """Expected calibration error with temperature 1."""
    held_out: Calls
    """On the cells that temperature and threshold were chosen on."""
    crossed: Calls | None
    """Each fold under temperature and threshold of the other folds; None of a single fold."""
    worst_fold: float | None = None
    """Accuracy among the called cells of the fold that fared worst so; None where none is."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def summary(self, of: str = "cells") -> str:
        """One sentence for the terminal: of other folds' choices, where there are some."""
        calls = self.crossed or self.held_out
        right = (
            "none is called"
            if calls.accuracy_called is None
            else (f"{calls.coverage:.1%} get a label, {calls.accuracy_called:.1%} of these right")
        )
        if self.worst_fold is not None:
            right += f" ({self.worst_fold:.1%} in the part that fared worst)"
        return (
            f"Of {calls.cells:,} held-out {of} the best label is right for {calls.accuracy:.1%} "
            f"(macro F1 {calls.macro_f1:.3f}); {right}."
        )


def log_loss(logits: Floats, truth: Integers, temperature: float = 1.0) -> float:
    """Mean negative log probability of the true class."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(truth)), truth]
    return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())


def fit_temperature(logits: Floats, truth: Integers) -> float:
    """Temperature of the lowest loss on held-out cells, from a hundredth to a hundred.

    Parameters
    ----------
    logits
        ``[B, C]`` of cells that the classifier did not see.
    truth
        ``[B]`` their classes; of finite score, each.
    """
    from scipy.optimize import minimize_scalar

    bounds = (-np.log(100.0), np.log(100.0))
    found = minimize_scalar(
        lambda log_t: log_loss(logits, truth, float(np.exp(log_t))),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibration_error(probability: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean gap between what was promised and what held, over bins of equal width.

    Parameters
    ----------
    probability
        ``[B]`` of each cell's best label.
    right
        ``[B]`` whether it was.
    bins
        From 0 to 1.
    """
    place = np.minimum((np.asarray(probability) * bins).astype(np.int64), bins - 1)
    promised = np.bincount(place, weights=probability, minlength=bins)
    held = np.bincount(place, weights=right, minlength=bins)
    return float(np.abs(promised - held).sum() / len(right))


def choose_threshold(
    probability: Floats,
    right: npt.NDArray[np.bool_],
    accuracy: float,
    *,
    promised: Floats | None = None,
) -> tuple[float, bool]:
    """Lowest probability from which on the called cells are right as often as wanted.

    Parameters
    ----------
    probability, right
        ``[B]``, as for `calibration_error`.
    accuracy
        Wanted share of right ones among the cells at or above the threshold: of the share that was
        right and the mean that was promised, the mean.
    promised
        ``[B]`` probability of being right, given that the cell is of a known type; `probability` if
        not given.

    Returns
    -------
    threshold
        At least `EVEN`; `NOTHING` if none is good enough.
    reached
        Whether one is.
    """
    probability, right = np.asarray(probability), np.asarray(right)
    promised = probability if promised is None else np.asarray(promised)
    order = np.argsort(-probability, kind="stable")
    sorted_down = probability[order]
    hits = (np.cumsum(right[order]) + np.cumsum(promised[order])) / 2
    # Cells of one probability are called together, or not at all.
    last = np.append(sorted_down[1:] != sorted_down[:-1], True)
    called = np.arange(1, len(order) + 1)
    good = last & (hits >= accuracy * called) & (sorted_down >= EVEN)
    if not good.any():
        return NOTHING, False
    end = int(np.flatnonzero(good)[-1])
    rest = sorted_down[end + 1 :]
    if not (rest >= EVEN).any():
        return EVEN, True
    # Halfway to the next cell, which is not called.
    return float((sorted_down[end] + rest[0]) / 2), True


def judge(probability: Floats, best: Integers, truth: Integers, called: Any) -> Calls:
    """Score the calls of held-out cells.

    Parameters
    ----------
    probability, best
        ``[B]`` of the best class.
    truth
        ``[B]``.
    called
        ``[B]`` bool.
    """
    from sklearn.metrics import f1_score

    right, called = best == truth, np.asarray(called, bool)
    return Calls(
        cells=len(truth),
        accuracy=float(right.mean()),
        macro_f1=float(
            f1_score(truth, best, average="macro", labels=np.unique(truth), zero_division=0)
        ),
        error=calibration_error(probability, right),
        coverage=float(called.mean()),
        accuracy_called=float(right[called].mean()) if called.any() else None,
    )


def calibrate(
    logits: Floats,
    truth: Integers,
    folds: Integers,
    accuracy: float,
    *,
    scale: bool = True,
    known: Floats | None = None,
) -> Calibration:
    """Choose temperature and threshold on held-out cells.

    Parameters
    ----------
    logits
        ``[B, C]`` of held-out cells, -inf where a class was not there to be learnt.
    truth
        ``[B]`` classes, each of finite score.
    folds
        ``[B]`` fold in which the cell was held out.
    accuracy
        Wanted among called cells.
    scale
        Whether to fit a temperature; 1 otherwise.
    known
        ``[B]`` probability that the cell is of any known type, by which that of its label is
        multiplied; 1 if not given.
    """
    known = np.ones(len(truth)) if known is None else known
    temperature, threshold, reached = _choose(logits, truth, known, accuracy, scale)
    best, probability = best_of(probabilities(logits, temperature))
    raw = best_of(probabilities(logits))[1]
    crossed, worst = _cross(logits, truth, known, folds, accuracy, scale)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        wanted=accuracy,
        reached=reached,
        error_before=calibration_error(raw, best == truth),
        held_out=judge(probability * known, best, truth, probability * known >= threshold),
        crossed=crossed,
        worst_fold=worst,
    )


def _choose(
    logits: Floats, truth: Integers, known: Floats, accuracy: float, scale: bool
) -> tuple[float, float, bool]:
    """Temperature, threshold, and whether the threshold gives the wanted accuracy."""
    temperature = fit_temperature(logits, truth) if scale else 1.0
    best, promised = best_of(probabilities(logits, temperature))
    right = best == truth
    threshold, reached = choose_threshold(promised * known, right, accuracy, promised=promised)
    return temperature, threshold, reached


def _cross(
    logits: Floats,
    truth: Integers,
    known: Floats,
    folds: Integers,
    accuracy: float,
    scale: bool,
) -> tuple[Calls | None, float | None]:
    """Judge each fold by what the others teach: the figures to be expected of new groups."""
    if len(np.unique(folds)) < 2:
        return None, None
    probability, called = np.empty(len(truth)), np.empty(len(truth), bool)
    best, _ = best_of(probabilities(logits))
    by_fold = []
    for fold in np.unique(folds):
        here = folds == fold
        temperature, threshold, _ = _choose(
            logits[~here], truth[~here], known[~here], accuracy, scale
        )
        probability[here] = best_of(probabilities(logits[here], temperature))[1] * known[here]
        called[here] = probability[here] >= threshold
        if called[here].any():
            by_fold.append(float((best == truth)[here & called].mean()))
    return judge(probability, best, truth, called), min(by_fold, default=None)


def log_calibration(calibration: Calibration, log: Log, of: str = "cells") -> None:
    """Warn where the wanted accuracy cannot be had, or costs most of the cells (or genes)."""
    if not calibration.reached:
        log(
            f"Warning: no threshold gives {calibration.wanted:.0%} right among the called held-out "
            f"{of}: all but the surest will be unknown. Lower --accuracy, or give more {of}."
        )
    elif calibration.held_out.coverage < 0.5:
        log(
            f"Warning: {calibration.wanted:.0%} right among called {of} leaves "
            f"{1 - calibration.held_out.coverage:.0%} of the held-out {of} unknown."
        )
