"""Log-normalised counts, as the standard workflow makes them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags


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
