"""The linear head, fitted by scikit-learn on vectors that do not change.

Logistic regression on standardised vectors; the standardisation is folded into its weights, so that
the head reads vectors as `embed` gives them. The penalty is the one that serves held-out cells
best.

Letters: ``B`` labelled cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import fit_temperature, log_loss
from cellscribe.annotation.labels import Labelled, learnable
from cellscribe.errors import InputError

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Values of scikit-learn's C that are tried."""
ROUNDS = 5_000
SMALL = 1 << 24
"""Values below which one thread does: several would wait for each other, long on a busy machine."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """A linear classifier on standardised vectors."""

    weight: npt.NDArray[np.float64]
    """``[C, D]``; zeros for a class that was not there to be learnt."""
    bias: npt.NDArray[np.float64]
    """``[C]``; -inf for such a class."""
    mean: npt.NDArray[np.float64]
    """``[D]``."""
    scale: npt.NDArray[np.float64]
    """``[D]``, above zero."""

    def folded(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight and bias that read the vectors as they are."""
        weight = self.weight / self.scale
        return weight, self.bias - weight @ self.mean

    def logits(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """``[B, D]`` to ``[B, C]``."""
        weight, bias = self.folded()
        return np.asarray(vectors, np.float64) @ weight.T + bias


def fit_linear(vectors: Floats, truth: Integers, n_labels: int, penalty: float) -> LinearHead:
    """Logistic regression on standardised vectors, ``[B, D]``; `penalty` is scikit-learn's C."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(vectors)
    weight, bias = np.zeros((n_labels, vectors.shape[1])), np.full(n_labels, -np.inf)
    classes = np.unique(truth)
    if len(classes) == 1:
        bias[classes] = 0.0
    else:
        model = LogisticRegression(C=penalty, max_iter=ROUNDS)
        threads = 1 if vectors.size < SMALL else None
        with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
            # Where it ends after so many rounds it is as good as anyone needs it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaler.transform(vectors), truth)
        # Of two classes scikit-learn keeps the difference alone.
        own = len(model.coef_) == len(classes)
        weight[classes if own else classes[1:]] = model.coef_
        bias[classes] = model.intercept_ if own else [0.0, model.intercept_[0]]
    return LinearHead(weight=weight, bias=bias, mean=scaler.mean_, scale=scaler.scale_)


def fit_ridge(vectors: Floats, values: Floats, penalty: float = 0.1) -> LinearHead:
    """Ridge regression on standardised vectors, ``[B, D]`` to ``[B]``: a head of one output.

    `penalty` is a share of the cells: scikit-learn's alpha is that many times ``B``.
    """
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(vectors)
    model = Ridge(alpha=penalty * len(vectors))
    with threadpool_limits(1 if vectors.size < SMALL else None, "blas"):
        model.fit(scaler.transform(vectors), values)
    return LinearHead(
        weight=model.coef_[None, :],
        bias=np.atleast_1d(model.intercept_),
        mean=scaler.mean_,
        scale=scaler.scale_,
    )


def start_linear(width: int, n_labels: int, seed: int) -> LinearHead:
    """A head on vectors that mean nothing yet, with torch's first weights of a linear layer."""
    bound = width**-0.5
    weight = np.random.default_rng(seed).uniform(-bound, bound, (n_labels, width))
    zeros, ones = np.zeros(width), np.ones(width)
    return LinearHead(weight=weight, bias=np.zeros(n_labels), mean=zeros, scale=ones)


def fit_head(
    vectors: Floats, labelled: Labelled, folds: Integers
) -> tuple[LinearHead, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Fit the head on all cells, with the penalty that serves held-out cells best.

    Returns
    -------
    head
        On all cells.
    logits
        ``[B', C]`` held-out scores of the testable cells.
    tested
        ``[B]`` which these are: those whose class is also outside their fold.
    """
    truth, n_labels = labelled.truth, len(labelled.labels)
    tested = np.zeros(len(truth), bool)
    for fold in np.unique(folds):
        tested |= learnable(truth, folds != fold, folds == fold)
    if not tested.any():
        raise InputError(
            "no label occurs in two groups, so nothing can be held out; name another column with "
            "--group, or leave it out"
        )
    best: tuple[float, float, npt.NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        logits = np.empty((len(truth), n_labels))
        for fold in np.unique(folds):
            away = folds == fold
            logits[away] = fit_linear(vectors[~away], truth[~away], n_labels, penalty).logits(
                vectors[away]
            )
        logits = logits[tested]
        loss = log_loss(logits, truth[tested], fit_temperature(logits, truth[tested]))
        if best is None or loss < best[0]:
            best = (loss, penalty, logits)
    assert best is not None
    return fit_linear(vectors, truth, n_labels, best[1]), best[2], tested
