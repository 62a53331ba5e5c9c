"""Figures of held-out predictions: of all cells, of each label, of each held-out group.

All of it is plain values, so that a model can keep it as JSON and a page can be made of it later.
The definitions are scikit-learn's. A probability is that of the label, with temperature and
threshold from the other folds, so that no cell is judged by what was chosen on it.

Letters: ``B`` held-out cells, ``C`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import calibrate, calibration_error
from cellscribe.model.heads import best_of, probabilities

BINS = 10
"""Bins of the reliability curve."""
MOST_POINTS = 120
"""Points of a curve that are kept; the steps between them are below what a page shows."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What held-out cells were called by something that did not see them."""

    labels: list[str]
    truth: Integers
    """``[B]``."""
    each: npt.NDArray[np.float64]
    """``[B, C]`` probabilities; what they lack to 1 is for a type never taught."""
    called: npt.NDArray[np.bool_]
    """``[B]`` whether the cell gets its best label."""
    groups: npt.NDArray[np.object_] | None
    """``[B]``."""

    @property
    def best(self) -> npt.NDArray[np.int64]:
        """``[B]`` most probable labels."""
        return best_of(self.each)[0]


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """Scores of held-out cells before calibration."""

    labels: list[str]
    logits: npt.NDArray[np.float64]
    """``[B, C]``, -inf where a label was not there to be learnt."""
    truth: Integers
    folds: Integers
    """``[B]`` fold in which each cell was held out."""
    groups: npt.NDArray[np.object_] | None
    known: Floats | None = None
    """``[B]`` probability that the cell is of any known type."""

    def some(self, rows: Any) -> HeldOutScores:
        """Some of the cells."""
        return HeldOutScores(
            labels=self.labels,
            logits=self.logits[rows],
            truth=self.truth[rows],
            folds=self.folds[rows],
            groups=None if self.groups is None else self.groups[rows],
            known=None if self.known is None else self.known[rows],
        )

    def calibrated(self, accuracy: float) -> Predictions:
        """Give each fold the temperature and the threshold that the others teach.

        Of a single fold nothing is left to learn from, and it gets its own.
        """
        known = np.ones(len(self.truth)) if self.known is None else np.asarray(self.known)
        each, called = np.empty(self.logits.shape), np.empty(len(self.truth), bool)
        folds = np.unique(self.folds)
        for fold in folds:
            here = self.folds == fold
            rest = ~here if len(folds) > 1 else here
            found = calibrate(
                self.logits[rest], self.truth[rest], self.folds[rest], accuracy, known=known[rest]
            )
            each[here] = probabilities(self.logits[here], found.temperature) * known[here, None]
            called[here] = best_of(each[here])[1] >= found.threshold
        return Predictions(
            labels=self.labels, truth=self.truth, each=each, called=called, groups=self.groups
        )


def score(found: Predictions) -> dict[str, Any]:
    """Score held-out predictions.

    Returns
    -------
    dict
        Plain values. ``cells``, ``accuracy``, ``macro_f1`` over the labels that are there,
        ``brier`` (mean squared distance of the probabilities from the truth, 0 to 2), ``error``
        (expected calibration error), ``coverage``, ``accuracy_called`` (None where none is),
        ``roc_auc`` and ``average_precision`` (means over labels); ``labels``: a row each, see
        `score_labels`; ``confusion``: cells by label (rows) and best label; ``reliability``: see
        `reliability`; ``roc`` and ``pr``: mean curves; ``groups``: see `score_groups`.
    """
    from sklearn.metrics import f1_score

    best, probability = best_of(found.each)
    truth, n_labels = found.truth, len(found.labels)
    right = best == truth
    wanted = np.eye(n_labels)[truth]
    labels = score_labels(found)
    confusion = np.zeros((n_labels, n_labels), np.int64)
    np.add.at(confusion, (truth, best), 1)
    return {
        "cells": len(truth),
        "accuracy": float(right.mean()),
        "macro_f1": float(
            f1_score(truth, best, average="macro", labels=np.unique(truth), zero_division=0)
        ),
        "brier": float(((found.each - wanted) ** 2).sum(axis=1).mean()),
        "error": calibration_error(probability, right),
        "coverage": float(found.called.mean()),
        "accuracy_called": float(right[found.called].mean()) if found.called.any() else None,
        "roc_auc": _mean([each["roc_auc"] for each in labels]),
        "average_precision": _mean([each["average_precision"] for each in labels]),
        "labels": labels,
        "confusion": confusion.tolist(),
        "reliability": reliability(probability, right),
        "roc": _mean_curve([each["roc"] for each in labels]),
        "pr": _mean_curve([each["pr"] for each in labels]),
        "groups": score_groups(found),
    }


def score_labels(found: Predictions) -> list[dict[str, Any]]:
    """Score each label against the rest.

    Returns
    -------
    list of dict
        ``label``, ``precision``, ``recall``, ``f1`` of the best label whether called or not,
        ``support`` in cells, ``coverage`` (share of its cells that are called), ``roc_auc``,
        ``average_precision``, and the points ``[x, y]`` of the curves ``roc`` (false positive rate,
        recall) and ``pr`` (recall, precision); None or empty where no held-out cell has the label,
        or all have.
    """
    from sklearn.metrics import (
        auc,
        average_precision_score,
        precision_recall_curve,
        precision_recall_fscore_support,
        roc_curve,
    )

    numbers = np.arange(len(found.labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        found.truth, found.best, labels=numbers, zero_division=0
    )
    rows = []
    for number, label in enumerate(found.labels):
        own = found.truth == number
        row: dict[str, Any] = {
            "label": label,
            "precision": float(precision[number]),
            "recall": float(recall[number]),
            "f1": float(f1[number]),
            "support": int(support[number]),
            "coverage": float(found.called[own].mean()) if own.any() else None,
            "roc_auc": None,
            "average_precision": None,
            "roc": [],
            "pr": [],
        }
        if own.any() and not own.all():
            values = found.each[:, number]
            wrong, caught, _ = roc_curve(own, values)
            exact, share, _ = precision_recall_curve(own, values)
            row |= {
                "roc_auc": float(auc(wrong, caught)),
                "average_precision": float(average_precision_score(own, values)),
                "roc": _thinned(wrong, caught),
                "pr": _thinned(share[::-1], exact[::-1]),
            }
        rows.append(row)
    return rows


def reliability(probability: Floats, right: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Compare promised and held shares, by bins of equal width of the best label's probability.

    Returns
    -------
    list of dict
        ``low``, ``high``, ``cells``, and of bins with cells ``promised`` (mean probability) and
        ``held`` (share of right ones).
    """
    place = np.minimum((np.asarray(probability) * BINS).astype(np.int64), BINS - 1)
    rows = []
    for number in range(BINS):
        here = place == number
        some = bool(here.any())
        rows.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "cells": int(here.sum()),
                "promised": float(np.mean(probability[here])) if some else None,
                "held": float(right[here].mean()) if some else None,
            }
        )
    return rows


def score_groups(found: Predictions) -> list[dict[str, Any]]:
    """Score each held-out group, the worst first: ``group``, ``cells``, accuracies, coverage."""
    if found.groups is None:
        return []
    right = found.best == found.truth
    rows: list[dict[str, Any]] = []
    for group in np.unique(found.groups.astype(str)):
        here = found.groups.astype(str) == group
        on = here & found.called
        rows.append(
            {
                "group": str(group),
                "cells": int(here.sum()),
                "accuracy": float(right[here].mean()),
                "coverage": float(found.called[here].mean()),
                "accuracy_called": float(right[on].mean()) if on.any() else None,
            }
        )
    return sorted(rows, key=lambda row: (row["accuracy"], row["group"]))


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _mean_curve(curves: list[list[list[float]]]) -> list[list[float]]:
    """Mean of curves at even places of x, as scikit-learn's example of a macro ROC takes it."""
    there = [np.array(curve) for curve in curves if curve]
    if not there:
        return []
    x = np.linspace(0, 1, MOST_POINTS)
    y = np.mean([np.interp(x, curve[:, 0], curve[:, 1]) for curve in there], axis=0)
    return _points(x, y)


def _thinned(x: Floats, y: Floats) -> list[list[float]]:
    """Keep the ends, and of the points between them those that are apart enough to be seen."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    place = np.floor(length / max(length[-1], 1e-12) * (MOST_POINTS - 1)).astype(np.int64)
    first = np.concatenate([[True], np.diff(place) > 0])
    first[-1] = True
    return _points(x[first], y[first])


def _points(x: Floats, y: Floats) -> list[list[float]]:
    return [[round(float(a), 5), round(float(b), 5)] for a, b in zip(x, y, strict=True)]
