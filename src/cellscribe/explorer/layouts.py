"""The maps of a page: coordinates that are there, or a UMAP of vectors or of a PCA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.config import ExploreOptions
from cellscribe.config.explore import COUNTS_PCA
from cellscribe.errors import InputError
from cellscribe.explorer.vectors import OURS, UMAP, Vectors
from cellscribe.report.umap import finite_rows, layout_of, umap_coordinates

SLOW_CELLS = 20_000
"""Cells from which on a user is told how long a UMAP takes."""
SECONDS_PER_CELL = 0.001
"""Of a UMAP, neighbors included, on one core: benchmarks/results/explore.json."""
COMPONENTS = 50
FULL = 65_534
"""Largest stored coordinate; one more means that a cell has no place."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A map."""

    name: str
    """What it shows, such as "X_cellscribe (UMAP)"."""
    xy: Matrix
    """``[n, 2]``; NaN for a cell without a place."""
    off: int = 0
    """Cells without a place."""


def choose_basis(vectors: Vectors, options: ExploreOptions, *, has_counts: bool) -> list[str]:
    """Choose the maps, where the user names none: the model's vectors next to a PCA.

    Parameters
    ----------
    vectors
        The cells.
    options
        Maps and representation that are named.
    has_counts
        Whether the source has a matrix that a PCA could be made of.

    Returns
    -------
    list of str
        Keys of obsm, or `COUNTS_PCA`; one or two.

    Raises
    ------
    InputError
        There is neither a key of that name nor anything to draw.
    """
    if options.basis:
        for key in options.basis:
            if key != COUNTS_PCA or key in vectors.obsm:
                vectors.columns(key)
        return list(options.basis)
    first = rep = choose_rep(vectors, options)
    others = [key for key in (UMAP, "X_pca") if key in vectors.obsm and key != first]
    if first is None and not others:
        raise InputError(
            f"{vectors.name}: obsm holds no vectors to draw; run cellscribe embed first, with an "
            ".h5ad as output"
        )
    if first is None:
        return others[:1]
    if UMAP in others and vectors.umap_of == first:
        others.remove(UMAP)
        first = UMAP
    second = others[:1] or ([COUNTS_PCA] if has_counts and rep != "X_pca" else [])
    return [first, *second]


def choose_rep(vectors: Vectors, options: ExploreOptions) -> str | None:
    """Choose the vectors that neighbors are found in; None if there are none.

    Raises
    ------
    InputError
        The key that is named is not there, or holds coordinates only.
    """
    if options.use_rep is not None:
        if vectors.columns(options.use_rep) < 3:
            raise InputError(
                f"{vectors.name}: obsm {options.use_rep!r} holds two columns, which are no vectors "
                "(--use-rep); name another key"
            )
        return options.use_rep
    named = [key for key in options.basis if key in vectors.obsm]
    for key in [OURS, *named, *sorted(vectors.obsm, key=lambda key: (key == "X_pca", key))]:
        if vectors.holds_vectors(key):
            return key
    return None


def draw_layouts(
    vectors: Vectors,
    basis: list[str],
    rows: npt.NDArray[np.int64],
    counts: Callable[[], csr_matrix],
    *,
    seed: int,
    progress: Progress | None,
    log: Log,
) -> list[Layout]:
    """Draw maps.

    Parameters
    ----------
    vectors, basis
        The cells, and the maps of `choose_basis`.
    rows
        The cells on the page, ascending.
    counts
        Reads the raw counts of those cells.
    seed
        Of UMAP and PCA.
    progress, log
        Called while a UMAP is made.
    """
    found = []
    for key in basis:
        if key == COUNTS_PCA and key not in vectors.obsm:
            name, points = "PCA of the counts", principal_components(counts(), seed=seed)
        else:
            name, points = key, vectors.rows(key, rows)
        if points.shape[1] == 2:
            found.append(_layout(name, points))
            continue
        kind = layout_of(int(finite_rows(points).sum()))
        if kind == "UMAP" and len(points) >= SLOW_CELLS:
            minutes = max(1, round(len(points) * SECONDS_PER_CELL / 60))
            log(f"UMAP of {name}: about {minutes} minutes where it was measured, on one core")
        step = in_step(progress, f"UMAP of {name}")
        found.append(_layout(f"{name} ({kind})", umap_coordinates(points, seed, progress=step)))
    return found


def _layout(name: str, xy: Matrix) -> Layout:
    placed = finite_rows(xy)
    if not placed.any():
        raise InputError(f"{name}: no cell has finite numbers; there is nothing to draw")
    return Layout(name=name, xy=np.where(placed[:, None], xy, np.nan), off=int((~placed).sum()))


def principal_components(counts: csr_matrix, n: int = COMPONENTS, *, seed: int = 0) -> Matrix:
    """Compute principal components the standard way, without a dense table of cells and genes.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts; log-normalised, and of their most variable genes, see
        `evaluation.stats.features.pca`.
    n
        Components; no more than cells or genes.
    seed
        Of the randomised solver.

    Returns
    -------
    ``[B, n]`` float32.

    Raises
    ------
    InputError
        There are fewer than two cells or genes.
    """
    from sklearn.utils.extmath import randomized_svd

    from cellscribe.cells.log_norm import log_norm
    from cellscribe.evaluation.stats.features import most_variable

    logs = log_norm(counts)
    chosen = logs[:, most_variable(logs)].astype(np.float32)
    n = min(n, *chosen.shape)
    if n < 2:
        raise InputError("a PCA needs two cells and two genes; name a key of obsm (--basis)")
    # a product with the centred matrix is that with the sparse one less that with its mean
    mean = np.asarray(chosen.mean(axis=0), np.float32).ravel()
    covariance = (chosen.T @ chosen).toarray() / chosen.shape[0] - np.outer(mean, mean)
    axes, _, _ = randomized_svd(covariance, n, n_iter=7, random_state=seed)
    return np.asarray(chosen @ axes - mean @ axes, np.float32)


def stored_places(xy: Matrix) -> npt.NDArray[np.uint16]:
    """Fit a map into 16 bits, both axes with one scale; `FULL` + 1 for a cell without a place."""
    placed = finite_rows(xy)
    points = xy[placed].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    found = np.full(xy.shape, FULL + 1, np.uint16)
    found[placed] = np.rint(((points - (low + high) / 2) / span + 0.5) * FULL).astype(np.uint16)
    return found
