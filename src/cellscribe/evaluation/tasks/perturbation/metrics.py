"""Distances between the predicted and the measured response to a perturbation.

A profile is a pseudobulk: the mean of log(1 + counts per 10,000) over the cells of a perturbation;
a change is its difference from that of control cells. Genes are ranked by Welch's t statistic on
the cells' log expression, which takes their sums and sums of squares alone.

The control cells are halved. True changes are taken from one half, predictions start from the
other. With the same cells in both, the sampling error of their mean would be in truth and
prediction alike, and with few controls, changes that are only noise would correlate. (GEARS and its
successors use all controls for both.) Errors and correlations with control as reference reward the
mean of all perturbations as a prediction; weighted errors and ranks do not (Mejia et al. 2026).
Both kinds are here.

Letters: ``T`` perturbations, ``G`` genes, ``B`` cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
"""Folds of `separation`."""
TOP = 20
"""Most differentially expressed genes that figures are taken over, as in GEARS."""
EXPRESSED = 1_000
"""Most expressed genes that the L2 distance is taken over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Profiles:
    """Measured responses of a screen."""

    names: tuple[str, ...]
    """``T`` perturbations."""
    n_cells: Integers
    """``[T]``."""
    means: Floats
    """``[T, G]`` mean log expression."""
    control: Floats
    """``[G]`` of the control cells that true changes are taken from."""
    start: Floats
    """``[G]`` of the control cells that predictions start from."""
    against_control: Floats
    """``[T, G]`` absolute Welch t of the perturbation's cells against those of `control`."""
    weights: Floats
    """``[T, G]`` see `de_weights`; each row sums to 1."""

    @property
    def mean(self) -> Floats:
        """``[G]`` of all perturbed cells."""
        return np.average(self.means, axis=0, weights=self.n_cells)

    def places(self, names: Sequence[str]) -> Integers:
        """Rows of some perturbations."""
        return np.array([self.names.index(name) for name in names], np.int64)


def profiles(
    logs: csr_matrix,
    conditions: npt.NDArray[np.object_],
    names: Sequence[str],
    control: str,
    *,
    seed: int,
) -> Profiles:
    """Measure the response to each perturbation.

    Parameters
    ----------
    logs
        ``[B, G]`` log-normalised expression.
    conditions
        ``[B]``; cells of conditions beyond `names` and `control` do not count.
    names
        ``T`` perturbations, two or more, of two cells or more each.
    control
        The condition of control cells, of which there are four or more.
    seed
        Of the draw that halves them.
    """
    place = {name: row for row, name in enumerate(names)}
    rows = np.array([place.get(name, -1) for name in conditions])
    halves = np.random.default_rng(seed).permutation(np.flatnonzero(conditions == control))
    rows[halves[::2]], rows[halves[1::2]] = len(names), len(names) + 1
    used = np.flatnonzero(rows >= 0)
    member = csr_matrix((np.ones(len(used)), (rows[used], used)), shape=(len(names) + 2, len(rows)))
    groups = (
        np.asarray(member.sum(axis=1)).ravel(),
        (member @ logs).toarray(),
        (member @ logs.multiply(logs)).toarray(),
    )
    perturbed, controls = [part[:-2] for part in groups], [part[-2:-1] for part in groups]
    others = [part.sum(axis=0) - part for part in perturbed]
    means = groups[1] / groups[0][:, None]
    return Profiles(
        names=tuple(names),
        n_cells=perturbed[0].astype(np.int64),
        means=means[:-2],
        control=means[-2],
        start=means[-1],
        against_control=np.abs(_welch(perturbed, controls)),
        weights=de_weights(np.abs(_welch(perturbed, others))),
    )


def _welch(one: Sequence[Floats], other: Sequence[Floats]) -> Floats:
    """Welch's t of groups given as (cells, sums, sums of squares); 0 where nothing varies."""
    means, errors = [], []
    for cells, sums, squares in (one, other):
        n = cells[:, None]
        mean = sums / n
        means.append(mean)
        spread = squares - n * mean**2
        # of a gene that is the same in every cell, rounding leaves a small spread
        errors.append(np.where(spread > 1e-10 * squares, spread, 0.0) / (n - 1) / n)
    error = np.sqrt(errors[0] + errors[1])
    varies = error > 0
    return np.where(varies, (means[0] - means[1]) / np.where(varies, error, 1.0), 0.0)


def de_weights(scores: Floats) -> Floats:
    """Turn scores of differential expression into weights of genes.

    Absolute t statistics against the other perturbations' cells, scaled to 0 to 1 for each
    perturbation, squared, and divided by their sum: Mejia et al. 2026 (ICML; arXiv 2506.22641).

    Parameters
    ----------
    scores
        ``[T, G]``, 0 or more.
    """
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    scaled = np.where(high > low, (scores - low) / np.where(high > low, high - low, 1.0), 1.0) ** 2
    return scaled / scaled.sum(axis=1, keepdims=True)


def top_genes(scores: Floats, n: int = TOP) -> Integers:
    """Return the genes of the highest scores, ``[T, n]``; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :n]


def pearson(truth: Floats, predicted: Floats) -> Floats:
    """Correlate rows, ``[T]``; 0 where a prediction is the same for every gene."""
    truth = truth - truth.mean(axis=1, keepdims=True)
    predicted = predicted - predicted.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(truth, axis=1) * np.linalg.norm(predicted, axis=1)
    varies = norms > 1e-12
    return np.where(varies, (truth * predicted).sum(axis=1) / np.where(varies, norms, 1.0), 0.0)


def mse(truth: Floats, predicted: Floats, weights: Floats | None = None) -> Floats:
    """Compute mean squared errors of rows, ``[T]``, with weights that sum to 1 if given."""
    errors = (truth - predicted) ** 2
    return errors.mean(axis=1) if weights is None else (errors * weights).sum(axis=1)


def weighted_r2(truth: Floats, predicted: Floats, mean: Floats, weights: Floats) -> Floats:
    """Compute the weighted R2 of changes from the mean of all perturbed cells, ``[T]``.

    Mejia et al. 2026. The mean itself, as a prediction, has 0 or a little less.

    Parameters
    ----------
    truth, predicted
        ``[T, G]`` profiles.
    mean
        ``[G]`` of all perturbed cells.
    weights
        ``[T, G]``, rows sum to 1.
    """
    truth, predicted = truth - mean, predicted - mean
    middle = (weights * truth).sum(axis=1, keepdims=True)
    spread = mse(truth, np.broadcast_to(middle, truth.shape), weights)
    return 1 - mse(truth, predicted, weights) / spread


def l2_expressed(truth: Floats, predicted: Floats, control: Floats, n: int = EXPRESSED) -> Floats:
    """Compute Euclidean distances over the genes that control cells express most, ``[T]``.

    Ahlmann-Eltze, Huber and Anders 2025 (Nature Methods).
    """
    kept = np.argsort(-control, kind="stable")[:n]
    return np.linalg.norm(truth[:, kept] - predicted[:, kept], axis=1)


def discrimination(truth: Floats, predicted: Floats, targets: Sequence[Sequence[int]]) -> Floats:
    """Compute discrimination scores of perturbations, ``[T]``: is its own truth the nearest one?

    Arc's Virtual Cell Challenge 2025: of the true profiles of all ``T`` perturbations, the share of
    the others that are farther from the prediction (sum of absolute differences) than its own; one
    as far counts half. 1 is perfect; one and the same prediction for all has 0.5, and so has
    chance. The target genes of a perturbation are left out, since their change is known.

    Parameters
    ----------
    truth, predicted
        ``[T, G]``.
    targets
        Columns that are left out for each perturbation.

    Returns
    -------
    numpy.ndarray
        NaN if there is one perturbation only.
    """
    n = len(truth)
    if n < 2:
        return np.full(n, np.nan)
    scores = np.empty(n)
    for row in range(n):
        away = np.abs(truth - predicted[row])
        away[:, list(targets[row])] = 0.0
        distances = away.sum(axis=1)
        # the same numbers added in another order differ in their last digits
        close = 1e-9 * max(distances.max(), 1e-9)
        farther = (distances > distances[row] + close).sum()
        equal = (np.abs(distances - distances[row]) <= close).sum() - 1
        scores[row] = (farther + equal / 2) / (n - 1)
    return scores


def separation(
    vectors: Floats, perturbed: npt.NDArray[np.bool_], *, folds: int = FOLDS, seed: int = 0
) -> float:
    """Compute AUROC of perturbed cells against control cells, mean over folds.

    Features are standardised; the classifier is the logistic regression of `probe`.

    Parameters
    ----------
    vectors
        ``[B, D]``.
    perturbed
        ``[B]``; either side has a cell for every fold.
    folds
        Stratified.
    seed
        Of the folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(vectors, perturbed):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000))
        classifier.fit(vectors[train], perturbed[train])
        scores.append(roc_auc_score(perturbed[test], classifier.decision_function(vectors[test])))
    return float(np.mean(scores))
