"""Linear probe: how much of a cell's type a linear classifier reads off its vector.

Logistic regression on standardised features, every cell predicted once by a classifier that never
saw it. The measure of representation quality that is used where labels exist (Alain and Bengio
2016); beside it `log_norm_pca`, the standard workflow's features. `linear_probe` is the short form
with one strength of regularisation; the task celltype is put together of the functions below it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cellscribe.cells.pipeline import usable_cores

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Fold = tuple[Integers, Integers]
Folds = list[Fold]
T = TypeVar("T")
R = TypeVar("R")

STRENGTHS = (0.01, 0.1, 1.0)
"""Weight of the data against the L2 penalty (C), of which folds inside the training cells choose:
the same three for every kind of features."""
PLAIN_STRENGTH = 0.1
"""Where there are too few cells to choose by."""
FOLDS, INNER_FOLDS = 5, 3
NEIGHBOURS = 15


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Apply `work` to items in threads of one BLAS thread each; results in order.

    Products as small as those of a linear classifier lose more by waiting for each other's threads
    than they gain: with two, a fit took five times as long as with one.
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
    """Fit logistic regression whose strength inner folds choose, and predict.

    The strength of the highest macro-F1 over the predictions of all inner folds is taken, the
    weaker one of equals; then all training cells are fitted with it.

    Parameters
    ----------
    train
        ``[N, D]`` features; mean and deviation are theirs.
    truth
        ``[N]`` classes.
    test
        ``[M, D]``.
    inner
        Folds of the training cells.
    strengths
        To choose of, ascending.

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
    """Fit logistic regression on features as they are, and predict.

    Parameters
    ----------
    train
        ``[N, D]``.
    test
        ``[M, D]``.
    truth
        ``[N]`` classes; if there is but one, it is predicted.
    strength
        ``C`` of scikit-learn.
    tolerance
        Largest slope at which the fit ends.
    """
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


def rotated(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Turn features so that as many are left as there are training cells, if these are fewer.

    The weights that an L2 penalty finds lie in the space that the training cells span (the
    representer theorem), and the penalty does not see a rotation within it, so a linear classifier
    predicts the same (Hastie, Tibshirani and Friedman 2009, section 18.3.5).
    """
    if len(train) >= train.shape[1]:
        return train, test
    basis, _ = np.linalg.qr(train.T)
    return train @ basis, test @ basis


def predict_near(
    train: npt.NDArray[np.floating], truth: Integers, test: npt.NDArray[np.floating]
) -> Integers:
    """``[M]`` class of most of the nearest training cells, by cosine of centred features."""
    from sklearn.neighbors import KNeighborsClassifier

    mean = train.mean(axis=0)
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine")
    return classifier.fit(train - mean, truth).predict(test - mean)


def predict_forest(
    train: npt.NDArray[np.floating], truth: Integers, test: npt.NDArray[np.floating], seed: int
) -> Integers:
    """``[M]`` classes by a random forest with scikit-learn's settings."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=seed).fit(train, truth).predict(test)


def folds_of(truth: Integers, groups: Integers | None, seed: int, most: int = FOLDS) -> Folds:
    """Split cells into folds, stratified by class, that keep groups whole.

    Parameters
    ----------
    truth
        ``[N]`` classes.
    groups
        ``[N]``; None, or one group alone: cells are split at random.
    seed
        Of the shuffle.
    most
        Folds; no more than there are groups.

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
    """``[K, K]`` cells by true class and predicted class."""
    flat = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def class_f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """``[K]`` F1 of each class, NaN for one that no cell has."""
    true, guessed = counts.sum(axis=1), counts.sum(axis=0)
    return np.where(true > 0, 2 * np.diag(counts) / np.maximum(true + guessed, 1), np.nan)


def macro_f1(counts: npt.NDArray[np.int64]) -> float:
    """Mean F1 of the classes that cells have."""
    return float(np.nanmean(class_f1(counts)))


def accuracy(counts: npt.NDArray[np.int64]) -> float:
    """Share of cells on the diagonal."""
    return float(np.trace(counts) / counts.sum())
