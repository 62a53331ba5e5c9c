"""Cells as they would look with less sequencing of the same library."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


def downsample(counts: csr_matrix, share: float, random: np.random.Generator) -> csr_matrix:
    """Keep each molecule with one probability: binomial downsampling.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts; left as they are.
    share
        Probability with which a molecule is kept.
    random
        One number is drawn for each stored count, in the order of storage.

    Returns
    -------
    csr_matrix
        ``[B, G]`` float32, without zeros.
    """
    kept = random.binomial(counts.data.astype(np.int64), share).astype(np.float32)
    out = csr_matrix((kept, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
    out.eliminate_zeros()
    return out
