"""Whether genes that real cells express together are correlated: shuffled "test data" shows.

Public files exist in which each gene was shuffled among the cells, or the cells of a type: counts
are whole, markers plausible, and no two genes go together any more, so no vector of such a cell
means anything. Ribosomal proteins are made in step in every human cell, and are counted well.

The measure is the mean Pearson correlation of all pairs of `GENES`, log-normalised, within clusters
of the cells (k-means of 20 components of the log-normalised counts), so that types do not make it.
Measured on 18 public files of 10x (v1 to v3, 5'), Drop-seq, CEL-seq2, inDrop and sorted cells, 200
to 3,874 cells each: 0.15 to 0.87. The same files with each gene shuffled among all cells: -0.01 to
0.01; among the cells of a type or cluster: -0.02 to 0.04. Fewer counts hide the correlation: files
thinned to a median of 480 counts a cell fell to 0.05, those with 1,000 or more and 3 of each of
these genes stayed above 0.08. So below `LEAST_DEPTH` or `LEAST_MEAN` nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.cells.log_norm import log_norm

GENES = {
    "RPL3": "ENSG00000100316",
    "RPL10": "ENSG00000147403",
    "RPL13": "ENSG00000167526",
    "RPL13A": "ENSG00000142541",
    "RPL32": "ENSG00000144713",
    "RPL34": "ENSG00000109475",
    "RPS3A": "ENSG00000145425",
    "RPS12": "ENSG00000112306",
    "RPS14": "ENSG00000164587",
    "RPS18": "ENSG00000231500",
    "RPS23": "ENSG00000186468",
    "RPS27A": "ENSG00000143947",
}
"""Twelve proteins of the ribosome, six of each part, among the best counted of all genes; symbols
and Ensembl ids as HGNC has them."""
THRESHOLD = 0.05
"""A smaller correlation is warned of: above all shuffled files, below all real ones."""
LEAST_GENES, LEAST_CELLS, LEAST_CLUSTER = 8, 200, 50
LEAST_DEPTH, LEAST_MEAN = 1_000, 3.0
CELLS_A_CLUSTER, MOST_CLUSTERS, COMPONENTS = 200, 10, 20


@dataclass(frozen=True, kw_only=True)
class Coexpression:
    """Mean correlation of ribosomal genes, or why it is not judged."""

    correlation: float | None
    """Mean over pairs and clusters, -1 to 1; None if it is not judged."""
    n_cells: int
    n_genes: int
    reason: str = ""
    """Why it is not judged."""

    @property
    def sentence(self) -> str:
        """The figure, and how it was made."""
        if self.correlation is None:
            return f"Correlation of ribosomal genes: not judged ({self.reason})."
        return (
            f"{self.n_genes} ribosomal genes have a mean correlation of {self.correlation:.2f} "
            f"within clusters of {self.n_cells:,} cells; real files have 0.15 or more, files with "
            "their genes shuffled 0.04 or less."
        )

    @property
    def warning(self) -> str:
        """What to beware of; "" if there is no cause."""
        if self.correlation is None or self.correlation >= THRESHOLD:
            return ""
        return (
            f"Genes may have been shuffled among the cells: {self.n_genes} ribosomal genes, which "
            f"real cells express together, have a mean correlation of {self.correlation:.2f} "
            f"within clusters of {self.n_cells:,} cells (real files: 0.15 or more). Look where the "
            "file is from before you rely on anything made of it."
        )


def coexpression(counts: csr_matrix, ids: Sequence[str]) -> Coexpression:
    """Correlate `GENES` within clusters of cells.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts of some cells, at best 2,000 drawn at random.
    ids
        ``[G]`` Ensembl ids of the genes, without versions; "" where there is none.
    """
    columns = _columns(ids)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    ribosomal = counts[:, columns].toarray().astype(np.float64)
    n_cells = len(totals)

    def unjudged(reason: str) -> Coexpression:
        return Coexpression(correlation=None, n_cells=n_cells, n_genes=len(columns), reason=reason)

    if len(columns) < LEAST_GENES:
        return unjudged(f"the file has {len(columns)} of the {len(GENES)} human genes")
    if n_cells < LEAST_CELLS:
        return unjudged(f"{n_cells:,} cells, and it takes {LEAST_CELLS}")
    depth, mean = float(np.median(totals)), float(ribosomal.mean())
    if depth < LEAST_DEPTH or mean < LEAST_MEAN:
        return unjudged(
            f"a median of {depth:,.0f} counts a cell and {mean:.1f} of each of these genes are too "
            "few"
        )
    values = log_norm(counts)
    found, sizes = _within(values[:, columns].toarray(), _clusters(values))
    if sum(sizes) < LEAST_CELLS:
        return unjudged("the clusters are too small")
    return Coexpression(
        correlation=float(np.average(found, weights=sizes)),
        n_cells=int(sum(sizes)),
        n_genes=len(columns),
    )


def _columns(ids: Sequence[str]) -> list[int]:
    """First column of each of the genes that are there."""
    wanted = set(GENES.values())
    first: dict[str, int] = {}
    for column, gene in enumerate(ids):
        if gene in wanted:
            first.setdefault(gene, column)
    return sorted(first.values())


def _clusters(values: csr_matrix) -> npt.NDArray[np.int32]:
    """``[B]`` cluster of each cell, the same in every run."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD

    n_clusters = max(1, min(MOST_CLUSTERS, values.shape[0] // CELLS_A_CLUSTER))
    size = min(COMPONENTS, min(values.shape) - 1)
    components = TruncatedSVD(size, random_state=0).fit_transform(values)
    clusters: npt.NDArray[np.int32] = KMeans(n_clusters, n_init=2, random_state=0).fit_predict(
        components
    )
    return clusters


def _within(
    values: npt.NDArray[np.float64], clusters: npt.NDArray[np.int32]
) -> tuple[list[float], list[int]]:
    """Mean correlation and size of each cluster that is large enough."""
    found, sizes = [], []
    for cluster in np.unique(clusters):
        rows = values[clusters == cluster]
        rows = rows[:, rows.std(axis=0) > 0]
        n_genes = rows.shape[1]
        if len(rows) < LEAST_CLUSTER or n_genes < LEAST_GENES:
            continue
        matrix = np.corrcoef(rows.T)
        found.append((matrix.sum() - n_genes) / (n_genes * (n_genes - 1)))
        sizes.append(len(rows))
    return found, sizes
