"""Whether vectors follow sequencing depth: how much of it clusters of the vectors explain.

Depth is an accident of the experiment. Types differ in depth, so clusters of good vectors explain
some of its variance too, and no share is right or wrong by itself: PCA-50 of the same cells says
what the standard workflow gives. Both are clustered in the same way, into the same number of
clusters, for a larger number explains more of anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CLUSTERS = 15
"""About as many as Leiden finds with scanpy's settings among some thousands of cells."""
STARTS = 3
"""Runs of k-means, each from another start; the share is their mean."""
LEAST_CELLS, MOST_CELLS = 20 * CLUSTERS, 2_000
MARGIN = 0.1
"""Share of the variance by which vectors must exceed PCA-50 to be warned of; runs of k-means differ
by a few hundredths."""


@dataclass(frozen=True, kw_only=True)
class DepthExplained:
    """Share of the variance of log depth that clusters explain, 0..1."""

    n_cells: int
    """Cells that were clustered."""
    vectors: float
    pca: float
    """Of PCA-50 of the same cells' log-normalised counts."""

    @property
    def sentence(self) -> str:
        """The two shares."""
        return (
            f"Clusters of the vectors explain {self.vectors:.0%} of the variance of log depth, "
            f"clusters of PCA-50 of the same cells {self.pca:.0%} (eta squared of {CLUSTERS} "
            f"clusters by k-means, {self.n_cells:,} cells)."
        )

    @property
    def warning(self) -> str:
        """What to beware of; "" if the vectors are not clearly above PCA-50."""
        if self.vectors - self.pca <= MARGIN:
            return ""
        return (
            f"The vectors follow sequencing depth: clusters of them explain {self.vectors:.0%} of "
            f"its variance, clusters of PCA-50 {self.pca:.0%}. Neighbours and clusters may be of "
            "deep and shallow cells, not of types; compare with PCA-50 before you rely on them."
        )


def depth_explained(vectors: npt.NDArray[np.floating], counts: csr_matrix) -> DepthExplained | None:
    """Measure how far clusters of vectors, and of PCA-50, follow depth.

    Parameters
    ----------
    vectors
        ``[B, D]``, all finite.
    counts
        ``[B, G]`` raw counts of the same cells; none is empty.

    Returns
    -------
    DepthExplained or None
        None for fewer than `LEAST_CELLS` cells, or cells that are all equally deep.
    """
    from cellscribe.evaluation.stats.features import pca

    depth = np.log(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    if len(depth) < LEAST_CELLS or np.ptp(depth) == 0:
        return None
    return DepthExplained(
        n_cells=len(depth),
        vectors=share_by_clusters(vectors, depth),
        pca=share_by_clusters(pca(counts), depth),
    )


def share_by_clusters(vectors: npt.NDArray[np.floating], values: npt.NDArray[np.float64]) -> float:
    """Return the share of the variance of `values` that k-means clusters of `vectors` explain."""
    from cellscribe.evaluation.stats.metrics import cluster

    runs = (cluster(vectors, CLUSTERS, seed, starts=1) for seed in range(STARTS))
    return float(np.mean([eta_squared(clusters, values) for clusters in runs]))


def eta_squared(groups: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> float:
    """Return the variance between groups over all variance (Fisher 1925), 0..1.

    Parameters
    ----------
    groups
        ``[B]`` group of each value, 0 and up.
    values
        ``[B]``, not all equal.
    """
    sizes = np.bincount(groups)
    means = np.bincount(groups, values) / np.maximum(sizes, 1)
    between = (sizes * (means - values.mean()) ** 2).sum()
    return float(between / ((values - values.mean()) ** 2).sum())
