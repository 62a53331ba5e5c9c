"""How well vectors of cells keep types apart and batches together.

All of it is light: one matrix of distances, then scikit-learn's scores or a few lines of numpy. The
lines are written from the published definitions and give the figures of scib-metrics 0.5, which the
tests hold them to; so a table reads the same whether or not that package (and JAX) is here.

Most figures are a mean or median of one number a cell, and those numbers are what the functions
give: whoever wants an interval resamples them, and no neighbour is searched for twice.

Letters: ``B`` cells, ``D`` width, ``K`` neighbours, the cell itself being the first of them.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LISI_NEIGHBOURS, CONNECTED_NEIGHBOURS = 90, 15
"""As in the benchmark of scib-metrics."""
STARTS = 10
"""Of k-means."""
SEARCH_STEPS, SEARCH_TOLERANCE = 50, 1e-5


def distances(vectors: npt.NDArray[np.floating]) -> Floats:
    """Euclidean distances of all pairs, ``[B, B]``, exactly 0 on the diagonal."""
    from sklearn.metrics.pairwise import euclidean_distances

    # A common offset, large in many models, would cost digits of small distances.
    centred = np.asarray(vectors, np.float64)
    return euclidean_distances(centred - centred.mean(axis=0))


def nearest(apart: Floats, k: int) -> tuple[Integers, Floats]:
    """Nearest `k` of each cell, itself first, by ascending distance.

    Parameters
    ----------
    apart
        ``[B, B]``, see `distances`.
    k
        Cut to ``B``.

    Returns
    -------
    tuple
        Cell numbers and distances, both ``[B, K]``.
    """
    k = min(k, len(apart))
    found = apart.copy()
    np.fill_diagonal(found, -1.0)
    rows = np.argpartition(found, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(found, rows, axis=1), axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    return rows, np.take_along_axis(apart, rows, axis=1)


def cluster(
    vectors: npt.NDArray[np.floating], clusters: int, seed: int, *, starts: int = STARTS
) -> Integers:
    """Cluster of each cell, ``[B]``, by k-means; the best of some starts counts."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Vectors that do not tell cells apart have fewer clusters: the scores will say so.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(clusters, n_init=starts, random_state=seed).fit_predict(vectors)
    return found.astype(np.int64)


def nmi(labels: Integers, clusters: Integers) -> float:
    """Mutual information of labels and clusters over the mean of their entropies, 0..1."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, clusters))


def ari(labels: Integers, clusters: Integers) -> float:
    """Rand index, 0 by chance and 1 at best (Hubert and Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels, clusters))


def label_silhouettes(apart: Floats, labels: Integers) -> Floats:
    """Silhouette of each cell among labels (Rousseeuw 1987), scaled to 0..1, ``[B]``."""
    from sklearn.metrics import silhouette_samples

    return (silhouette_samples(apart, labels, metric="precomputed") + 1) / 2


def mean_of_labels(values: Floats, labels: Integers) -> float:
    """Mean over labels of their cells' mean; NaN values do not count, NaN if there is no other."""
    counted = ~np.isnan(values)
    if not counted.any():
        return float("nan")
    sizes = np.bincount(labels[counted])
    sums = np.bincount(labels[counted], weights=values[counted])
    return float(np.mean(sums[sizes > 0] / sizes[sizes > 0]))


def lisi(apart: Floats, batches: Integers, k: int = LISI_NEIGHBOURS) -> Floats:
    """Local inverse Simpson index of batches, 1 to their number (Korsunsky 2019).

    Neighbours are weighted by a Gaussian-like kernel whose width gives them, cell by cell, a
    perplexity of a third of `k`; the index is the effective number of batches among them.

    Parameters
    ----------
    apart
        ``[B, B]``.
    batches
        ``[B]``, 0 and up.
    k
        Neighbours, the cell itself counted, though it has no weight.

    Returns
    -------
    numpy.ndarray
        ``[B]``.
    """
    rows, near = nearest(apart, k)
    others, near = rows[:, 1:], near[:, 1:]
    # Taking the least distance off changes no weight, and keeps the exponential from vanishing.
    near = near - near[:, :1]
    wanted = np.log(max(rows.shape[1] // 3, 1))
    weights = _weights(near, wanted)
    shares = np.stack(
        [(weights * (batches[others] == batch)).sum(axis=1) for batch in np.unique(batches)]
    )
    return np.asarray(1 / (shares**2).sum(axis=0))


def _weights(near: Floats, wanted: float) -> Floats:
    """Weights ``exp(-beta d)`` of neighbours, sum 1, of the wanted entropy (bisection)."""
    beta = np.ones(len(near))
    low, high = np.full(len(near), -np.inf), np.full(len(near), np.inf)
    for _ in range(SEARCH_STEPS):
        weights = np.exp(-beta[:, None] * near)
        total = weights.sum(axis=1)
        entropy = np.log(total) + beta * (near * weights).sum(axis=1) / total
        over = entropy - wanted
        if (np.abs(over) < SEARCH_TOLERANCE).all():
            break
        low, high = np.where(over > 0, beta, low), np.where(over > 0, high, beta)
        wider = np.where(np.isinf(low), beta / 2, (low + beta) / 2)
        closer = np.where(np.isinf(high), beta * 2, (high + beta) / 2)
        moved = np.where(over > 0, closer, wider)
        beta = np.where(np.abs(over) < SEARCH_TOLERANCE, beta, moved)
    weights = np.exp(-beta[:, None] * near)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def ilisi(found: Floats, batches: int) -> float:
    """Median of `lisi`, scaled to 0..1 (Luecken 2022): 1 where all batches are met everywhere."""
    return float((np.median(found) - 1) / (batches - 1))


def kbet(rows: Integers, batches: Integers, alpha: float = 0.05) -> npt.NDArray[np.bool_]:
    """Whether a cell's neighbours are a fair draw of the batches (kBET, Büttner 2019).

    Parameters
    ----------
    rows
        ``[B, K]`` neighbours.
    batches
        ``[B]``.
    alpha
        Level of the chi-square test of their batches against those of all cells.

    Returns
    -------
    numpy.ndarray
        ``[B]``: the test did not reject. Its mean is the acceptance rate.
    """
    from scipy.stats import chi2

    _, batches, sizes = np.unique(batches, return_inverse=True, return_counts=True)
    expected = sizes / sizes.sum() * rows.shape[1]
    met = batches[rows]
    counts = np.stack([(met == batch).sum(axis=1) for batch in range(len(sizes))], axis=1)
    statistic = ((counts - expected) ** 2 / expected).sum(axis=1)
    return np.asarray(chi2.sf(statistic, len(sizes) - 1) >= alpha)


def kbet_by_label(apart: Floats, labels: Integers, batches: Integers) -> Floats:
    """Give `kbet` of each cell among the cells of its label, ``[B]`` of 0, 1 and NaN.

    Types that are rarer in one batch are no fault of the vectors, so each is tested by itself
    (Luecken 2022), among a quarter of a batch's mean size of neighbours, 10 at least and 70 at
    most. scib walks the graph to find them; here they are the nearest ones. NaN where a label is
    of one batch, or of fewer than 10 cells.
    """
    found = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        own = batches[rows]
        n_batches = len(np.unique(own))
        if n_batches > 1 and len(rows) >= 10:
            k = min(70, max(10, len(rows) // n_batches // 4))
            found[rows] = kbet(nearest(apart[np.ix_(rows, rows)], k)[0], own)
    return found


def connected(rows: Integers, labels: Integers) -> npt.NDArray[np.bool_]:
    """Whether a cell is in the largest connected part of its label (Luecken 2022), ``[B]``.

    Parameters
    ----------
    rows
        ``[B, K]`` neighbours. Parts are strongly connected ones of this directed graph cut to the
        label's cells, as scib-metrics takes them: a cell that is nobody's neighbour is alone.
    labels
        ``[B]``.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n, k = rows.shape
    graph = csr_matrix((np.ones(n * k), rows.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    found = np.zeros(n, bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        part = connected_components(graph[own][:, own], connection="strong")[1]
        found[own] = part == np.bincount(part).argmax()
    return found


def batch_silhouettes(
    vectors: npt.NDArray[np.floating], labels: Integers, batches: Integers
) -> Floats:
    """Batch-removal-adapted silhouette of each cell, ``[B]``: BRAS is their `mean_of_labels`.

    One minus the absolute silhouette of batches among the cells of a label, by cosine distance; a
    cell's other batches are taken as one, not the nearest of them alone, which hides batches that
    overlap with one other (Rautenstrauch and Ohler 2025). 1 where batches lie on each other. NaN
    where a label is of one batch, or of as many batches as cells.
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float64).tiny)
    directions = vectors / lengths[:, None]
    found = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        _, own, sizes = np.unique(batches[rows], return_inverse=True, return_counts=True)
        if len(sizes) in (1, len(rows)):
            continue
        # Sums of cosine distances to a batch need its summed direction only, not all pairs.
        sums = np.stack([directions[rows[own == batch]].sum(axis=0) for batch in range(len(sizes))])
        apart = np.maximum(sizes - directions[rows] @ sums.T, 0.0)
        inside = apart[np.arange(len(rows)), own]
        outside = (apart.sum(axis=1) - inside) / (len(rows) - sizes[own])
        inside = inside / np.maximum(sizes[own] - 1, 1)
        larger = np.maximum(inside, outside)
        width = np.divide(outside - inside, larger, out=np.zeros(len(rows)), where=larger > 0)
        # A cell without a fellow has no silhouette; as in scikit-learn it counts as 0.
        found[rows] = 1 - np.abs(np.where(sizes[own] > 1, width, 0.0))
    return found


def explained_by_batch(
    vectors: npt.NDArray[np.floating], batches: Integers, weights: Floats | None = None
) -> float:
    """Share of the vectors' variance that batches explain, 0..1: principal component regression.

    Variance-weighted R² of all principal components regressed on batches (Büttner 2019). With all
    of them the rotation cancels: what is left is the variance between batches over the total, and
    no component needs to be found.

    Parameters
    ----------
    vectors
        ``[B, D]``.
    batches
        ``[B]``.
    weights
        ``[B]`` how often each cell counts; once, if not given.

    Returns
    -------
    float
        NaN where vectors do not vary.
    """
    weights = np.ones(len(batches)) if weights is None else weights
    member = (batches == np.unique(batches)[:, None]) * weights
    sizes = np.maximum(member.sum(axis=1), 1e-9)
    sums = member @ vectors
    whole = sums.sum(axis=0)
    middle = whole @ whole / weights.sum()
    total = weights @ np.einsum("ij,ij->i", vectors, vectors) - middle
    between = ((sums * sums).sum(axis=1) / sizes).sum() - middle
    return float(between / total) if total > 1e-9 * abs(middle) else float("nan")
