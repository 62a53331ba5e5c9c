"""Linear probe: how well a linear classifier predicts a cell's type from its vector.

Logistic regression on standardised features; each cell is predicted once, by a classifier that was
fitted without it. The usual measure of representation quality where labels exist (Alain and Bengio
2016). The task celltype is composed of these functions, with neighbours and a random forest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.rotation import rotated
from cellscribe.cells.pipeline import usable_cores

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Fold = tuple[Integers, Integers]
Folds = list[Fold]
T = TypeVar("T")
R = TypeVar("R")

STRENGTHS = (0.01, 0.1, 1.0)
"""Values of scikit-learn's C that inner folds choose from, the same for every kind of features."""
PLAIN_STRENGTH = 0.1
"""Value of C where there are too few cells to choose it."""
FOLDS, INNER_FOLDS = 5, 3
NEIGHBOURS = 15


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Apply `work` to items in parallel, with one BLAS thread each; results are in order.

    The matrix products of a linear classifier are so small that more BLAS threads cost more than
    they gain: with two, a fit took five times as long as with one.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, items))


def predict_logistic_cv(
    train: npt.NDArray[np.floating],
    truth: Integers,
    test: npt.NDArray[np.floating],
    inner: Folds,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Integers:
    """Fit logistic regression with a strength that inner folds choose, and predict.

    The chosen strength has the highest macro-F1 over the predictions of all inner folds; of equal
    ones it is the lowest. The classifier is then fitted on all training cells.

    Parameters
    ----------
    train
        ``[N, D]`` features, from which mean and deviation are taken.
    truth
        ``[N]`` classes.
    test
        ``[M, D]``.
    inner
        Folds of the training cells.
    strengths
        Values of C to choose from, ascending.

    Returns
    -------
    numpy.ndarray
        ``[M]`` classes.
    """
    from sklearn.metrics import f1_score

    chosen, best = strengths[0], -1.0
    known = np.concatenate([truth[held] for _, held in inner])
    made = [(*standardised(train[fit], train[held]), truth[fit]) for fit, held in inner]
    for strength in strengths:
        guessed = [predict_logistic(*fold, strength, 1e-3) for fold in made]
        found = float(f1_score(known, np.concatenate(guessed), average="macro", zero_division=0))
        if found > best:
            chosen, best = strength, found
    return predict_logistic(*standardised(train, test), truth, chosen)


def predict_logistic(
    train: Floats, test: Floats, truth: Integers, strength: float, tolerance: float = 1e-4
) -> Integers:
    """Fit logistic regression on features that are standardised already, and predict.

    Parameters
    ----------
    train
        ``[N, D]``.
    test
        ``[M, D]``.
    truth
        ``[N]`` classes; a single class is predicted for all.
    strength
        ``C`` of scikit-learn.
    tolerance
        Largest slope at which the fit ends.
    """
    # Not `annotation.linear.fit_linear`, which keeps weights and scale for a head, also of classes
    # without cells, and neither rotates nor shares one scaling among strengths: other last digits.
    from sklearn.linear_model import LogisticRegression

    if (truth == truth[0]).all():
        return np.full(len(test), truth[0], np.int64)
    train, test = rotated(train, test)
    classifier = LogisticRegression(C=strength, max_iter=2_000, tol=tolerance)
    return classifier.fit(train, truth).predict(test)


def standardised(
    train: npt.NDArray[np.floating], test: npt.NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """Give each feature mean 0 and deviation 1 over the training cells."""
    mean, spread = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0
    return (train - mean) / spread, (test - mean) / spread


def predict_near(
    train: npt.NDArray[np.floating], truth: Integers, test: npt.NDArray[np.floating]
) -> Integers:
    """Predict the most frequent class of the nearest training cells, ``[M]``, by centred cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    mean = train.mean(axis=0)
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine")
    return classifier.fit(train - mean, truth).predict(test - mean)


def predict_forest(
    train: npt.NDArray[np.floating], truth: Integers, test: npt.NDArray[np.floating], seed: int
) -> Integers:
    """Predict classes, ``[M]``, by a random forest with scikit-learn's settings."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=seed).fit(train, truth).predict(test)


def folds_of(truth: Integers, groups: Integers | None, seed: int, most: int = FOLDS) -> Folds:
    """Split cells into folds, stratified by class, without splitting a group.

    Parameters
    ----------
    truth
        ``[N]`` classes.
    groups
        ``[N]``; with None, or a single group, cells are split at random.
    seed
        Seed of the shuffle.
    most
        Number of folds; at most one per group.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        Training and held-out rows; every row is held out once.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_groups = 0 if groups is None else len(np.unique(groups))
    with warnings.catch_warnings():
        # a class may have fewer cells than there are inner folds; some of these then lack it
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if n_groups > 1:
            grouped = StratifiedGroupKFold(min(most, n_groups), shuffle=True, random_state=seed)
            split = list(grouped.split(truth, truth, groups))
        else:
            plain = StratifiedKFold(most, shuffle=True, random_state=seed)
            split = list(plain.split(truth, truth))
    return [(train, test) for train, test in split if len(train) and len(test)]


def confusion(truth: Integers, predicted: Integers, n_classes: int) -> npt.NDArray[np.int64]:
    """Count cells by true and predicted class, ``[K, K]``."""
    flat = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def class_f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Compute F1 of each class, ``[K]``; NaN for a class without cells."""
    true, guessed = counts.sum(axis=1), counts.sum(axis=0)
    return np.where(true > 0, 2 * np.diag(counts) / np.maximum(true + guessed, 1), np.nan)


def macro_f1(counts: npt.NDArray[np.int64]) -> float:
    """Compute the mean F1 of the classes with cells."""
    return float(np.nanmean(class_f1(counts)))


def accuracy(counts: npt.NDArray[np.int64]) -> float:
    """Compute the share of cells on the diagonal."""
    return float(np.trace(counts) / counts.sum())
