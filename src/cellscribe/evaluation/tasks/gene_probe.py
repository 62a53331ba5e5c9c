"""Features of genes, and a linear probe that classifies genes by them.

Letters: ``B`` cells, ``G`` genes, ``M`` genes of the list, ``C`` classes, ``F`` features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FOLDS = 5
STRENGTH = 0.1
"""Inverse of the probe's ridge penalty, on standardised features; the same for every method."""
COMPONENTS = 50
"""Of the co-expression PCA."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def expression_features(expressed: csr_matrix) -> Floats:
    """Compute ``[G, 3]``: log mean, share of cells that show the gene, log mean over these cells.

    Parameters
    ----------
    expressed
        ``[B, G]`` counts per 10,000; every gene is shown by some cell.
    """
    sums = np.asarray(expressed.sum(axis=0)).ravel()
    shown = expressed.getnnz(axis=0)
    n_cells = expressed.shape[0]
    return np.stack([np.log(sums / n_cells), shown / n_cells, np.log(sums / shown)], axis=1)


def coexpression(expressed: csr_matrix) -> Floats:
    """Compute principal components of genes by standardised log expression, ``[G, <= 50]``.

    Genes are the samples and cells the features, so genes that go up and down in the same cells lie
    close.

    Parameters
    ----------
    expressed
        ``[B, G]`` counts per 10,000.
    """
    from sklearn.decomposition import PCA

    logs = np.log1p(expressed.toarray()).T
    logs -= logs.mean(axis=1, keepdims=True)
    deviation = logs.std(axis=1, keepdims=True)
    logs /= np.where(deviation > 0, deviation, 1)
    n = min(COMPONENTS, *logs.shape)
    return PCA(n, svd_solver="covariance_eigh").fit_transform(logs)


def probe_genes(
    features: npt.NDArray[np.floating], truth: Integers, n_classes: int, seed: int
) -> tuple[Floats, Integers]:
    """Score every gene by a probe that was fitted without it.

    Parameters
    ----------
    features
        ``[M, F]``.
    truth
        ``[M]`` class of each gene.
    n_classes
        ``C``.
    seed
        Of the folds.

    Returns
    -------
    ranks
        ``[M, C]`` rank of the gene's probability of each class among those of its fold, 0 to 1: the
        probes of two folds are not on one scale.
    fold
        ``[M]``.
    """
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(features, dtype=np.float64)
    ranks, fold = np.empty((len(truth), n_classes)), np.empty(len(truth), dtype=np.int64)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for place, (train, test) in enumerate(splitter.split(features, truth)):
        probe = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2_000),
        )
        probe.fit(features[train], truth[train])
        ranks[test] = (rankdata(probe.predict_proba(features[test]), axis=0) - 0.5) / len(test)
        fold[test] = place
    return ranks, fold


def area(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Compute the area under the ROC curve (Mann and Whitney 1947); NaN if a side is empty."""
    from scipy.stats import rankdata

    n = int(positive.sum())
    others = len(positive) - n
    if not n or not others:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * others))


def average_precision(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Average precision at distinct scores, weighted by added recall; NaN without a positive."""
    n = int(positive.sum())
    if not n:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(found, prepend=0) / n * found / (last + 1)))


def roc(positive: npt.NDArray[np.bool_], scores: Floats) -> tuple[list[float], list[float]]:
    """Return shares of negatives and of positives above each of at most 101 thresholds."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, 101)))[::-1]
    above = scores >= thresholds[:, None]
    x, y = above[:, ~positive].mean(axis=1), above[:, positive].mean(axis=1)
    return [0.0, *x.round(5).tolist()], [0.0, *y.round(5).tolist()]
