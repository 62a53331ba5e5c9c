"""Log-normalised counts, as the standard workflow makes them, and their most variable genes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

HVG = 2_000
"""Genes that features are made of."""


def log_norm(counts: csr_matrix, target: float = 1e4) -> csr_matrix:
    """Scale each cell's counts to a sum of `target`, and take log(1 + x).

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts; a cell without any stays zero.
    target
        Sum of a cell's scaled counts.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``[B, G]`` float64.
    """
    counts = csr_matrix(counts, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scaled = (diags(target / np.where(totals > 0, totals, 1.0)) @ counts).tocsr()
    scaled.data = np.log1p(scaled.data)
    return scaled


def most_variable(
    logs: csr_matrix, n: int = HVG, always: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Columns of the highest variance, ascending; all if there are no more than `n`.

    Parameters
    ----------
    logs
        ``[B, G]`` of `log_norm`.
    n
        Columns wanted.
    always
        Columns that are among them whatever their variance, and be they more than `n`.
    """
    mean = np.asarray(logs.mean(axis=0)).ravel()
    variance = np.asarray(logs.multiply(logs).mean(axis=0)).ravel() - mean**2
    if always is not None:
        variance[always] = np.inf
        n = max(n, len(always))
    return np.sort(np.argsort(-variance, kind="stable")[:n])
