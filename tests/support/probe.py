"""How well a linear classifier tells labels from vectors of cells, by scikit-learn alone."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_accuracy(vectors: np.ndarray, labels: np.ndarray, *, folds: int = 5) -> float:
    """Share of cells whose label is predicted by a classifier that was fitted without them."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000))
    splits = StratifiedKFold(folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(classifier, np.asarray(vectors, np.float64), labels, cv=splits)
    return float((predicted == labels).mean())
