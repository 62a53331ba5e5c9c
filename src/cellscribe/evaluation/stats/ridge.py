"""Ridge regression on vectors of cells; each cell is predicted by a fit without it.

The same results as scikit-learn's, at lower cost: one eigendecomposition a fold serves all
penalties and all targets, which matters for 2,000 columns. The penalty is chosen by leaving out one
cell at a time.

Letters: ``B`` cells, ``D`` width of a vector, ``T`` targets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FOLDS = 5
ALPHAS = tuple(10.0**power for power in range(6))
"""Penalties to choose from, on standardised vectors."""


def out_of_fold(vectors: Floats, targets: Floats, *, seed: int) -> Floats:
    """Predict targets of every cell by a ridge regression that was fitted without it.

    Vectors ``[B, D]`` are standardised by mean and deviation of the other folds. Each target has a
    penalty of its own. Returns ``[B, T]``, like `targets`. Folds depend on the seed alone.
    """
    n = len(vectors)
    fold_of = np.random.default_rng(seed).permutation(n) % FOLDS
    predicted = np.empty_like(targets)
    for fold in range(FOLDS):
        test = fold_of == fold
        predicted[test] = ridge(vectors[~test], targets[~test], vectors[test])
    return predicted


def ridge(train: Floats, targets: Floats, test: Floats) -> Floats:
    """Predict ``[b, T]`` targets of test cells; the penalty of each target is chosen on training.

    The chosen penalty of `ALPHAS` has the least squared error over cells left out one at a time,
    computed by Allen's shortcut (PRESS, 1974): a residual divided by one minus its leverage. The
    intercept is not penalised. The same as scikit-learn's ``StandardScaler`` and ``RidgeCV``.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    # a column that varies by rounding errors only would be scaled up to noise
    varies = spread > 1e-7 * np.maximum(np.abs(mean), 1e-30)
    if not varies.any():
        return np.broadcast_to(targets.mean(axis=0), (len(test), targets.shape[1])).copy()
    x = (train[:, varies] - mean[varies]) / spread[varies]
    y = targets - targets.mean(axis=0)
    values, basis = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0.0)
    turned = x @ basis
    squares, onto = turned**2, turned.T @ y
    errors, weights = [], []
    for alpha in ALPHAS:
        weight = onto / (values + alpha)[:, None]
        leverage = 1 / len(y) + squares @ (1 / (values + alpha))
        left_out = (y - turned @ weight) / (1 - leverage)[:, None]
        errors.append((left_out**2).mean(axis=0))
        weights.append(weight)
    best = np.argmin(errors, axis=0)
    chosen = np.stack([weights[place][:, target] for target, place in enumerate(best)], axis=1)
    seen = (test[:, varies] - mean[varies]) / spread[varies]
    return seen @ (basis @ chosen) + targets.mean(axis=0)


def r2(truth: Floats, guess: Floats) -> float:
    """Compute the explained share of the variance; below 0 for a guess worse than the mean."""
    around = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - guess) ** 2).sum()) / around if around > 0 else float("nan")
