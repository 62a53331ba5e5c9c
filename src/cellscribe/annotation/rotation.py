"""Linear classifiers of few cells and many features, fitted in the space that the cells span.

The weights that an L2 penalty finds lie in the space that the training cells span (the representer
theorem), and the penalty does not see a rotation within it, so a linear classifier predicts the
same (Hastie, Tibshirani and Friedman 2009, section 18.3.5), in a fraction of the time.

Letters: ``B`` training cells, ``D`` features, ``A`` axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST = 1e-6
"""Share of the largest variance below which a direction is rounding error."""

Floats = npt.NDArray[np.floating]


def rotated(
    train: npt.NDArray[np.float64], test: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rotate features into the space of the training cells, if these are fewer than features."""
    if len(train) >= train.shape[1]:
        return train, test
    basis, _ = np.linalg.qr(train.T)
    return train @ basis, test @ basis


@dataclass(frozen=True, kw_only=True)
class RowSpace:
    """Principal axes of training cells that are fewer than features; quicker than `rotated`."""

    train: Floats
    """``[B, D]``."""
    lift: Floats
    """``[B, A]``: the axes are ``train.T @ lift``."""

    def project(self, cells: Floats) -> Floats:
        """Place cells, ``[N, D]`` to ``[N, A]``."""
        return np.asarray((cells @ self.train.T) @ self.lift)

    def weights(self, found: Floats) -> Floats:
        """Weights of the features, ``[C, A]`` to ``[C, D]``."""
        return np.asarray((found @ self.lift.T) @ self.train)


def row_space(train: Floats) -> RowSpace | None:
    """The space of cells ``[B, D]``, by the eigenvectors of their products; None if D < B."""
    if len(train) >= train.shape[1]:
        return None
    variance, axes = np.linalg.eigh((train @ train.T).astype(np.float64))
    kept = variance > LEAST * variance[-1]
    lift = axes[:, kept] / np.sqrt(variance[kept])
    return RowSpace(train=train, lift=lift.astype(train.dtype))
