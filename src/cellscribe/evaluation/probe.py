"""Linear probe: how much of a cell's type a linear classifier reads off its vector.

Logistic regression on standardised features, stratified folds, every cell predicted once by a
classifier that never saw it. The measure of representation quality that is used where labels exist
(Alain and Bengio 2016); beside it `log_norm_pca`, the standard workflow's features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Scores of the held-out predictions of all folds."""

    accuracy: float
    macro_f1: float
    """Mean F1 over classes: rare types count as much as common ones."""
    fold_accuracies: list[float]


def linear_probe(
    vectors: npt.NDArray[np.floating],
    labels: npt.NDArray[np.object_],
    *,
    folds: int = 5,
    seed: int = 0,
) -> ProbeScore:
    """Score a linear classifier on vectors.

    Parameters
    ----------
    vectors
        ``[B, D]``.
    labels
        ``[B]``; every class needs at least `folds` cells.
    folds
        Stratified, shuffled with `seed`: the same cells for every kind of vector.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors = np.asarray(vectors, dtype=np.float64)
    predicted = np.empty(len(labels), dtype=object)
    accuracies = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(vectors, labels):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000))
        classifier.fit(vectors[train], labels[train])
        predicted[test] = classifier.predict(vectors[test])
        accuracies.append(float(accuracy_score(labels[test], predicted[test])))
    return ProbeScore(
        accuracy=float(accuracy_score(labels, predicted)),
        macro_f1=float(f1_score(labels, predicted, average="macro")),
        fold_accuracies=accuracies,
    )


def log_norm_pca(
    counts: csr_matrix, *, genes: int = 2_000, components: int = 50, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Project cells the standard way: counts per 10,000, log1p, most variable genes, PCA.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts.
    genes
        Columns kept: those of highest variance after the logarithm.
    components
        Principal components of the centred columns.

    Returns
    -------
    numpy.ndarray
        ``[B, components]``.
    """
    from sklearn.decomposition import PCA

    counts = csr_matrix(counts, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scaled = (diags(1e4 / np.maximum(totals, 1)) @ counts).tocsr()
    scaled.data = np.log1p(scaled.data)
    mean = np.asarray(scaled.mean(axis=0)).ravel()
    variance = np.asarray(scaled.multiply(scaled).mean(axis=0)).ravel() - mean**2
    kept = np.sort(np.argsort(-variance, kind="stable")[:genes])
    return PCA(components, random_state=seed).fit_transform(scaled[:, kept].toarray())
