"""Coordinates of the cells on the map: a UMAP, or two principal components for few cells.

UMAP is fitted with fixed settings (15 neighbours, Euclidean, spread as in scanpy, initialised with
the principal components), so that a seed gives the same picture. Rows that are not finite are left
out and get NaN coordinates, so that a few broken vectors do not spoil the map.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.errors import InputError

Layout = Literal["UMAP", "PCA"]

MIN_CELLS = 10
"""Number of cells below which the map shows principal components."""
NEIGHBOURS = 15
MIN_DISTANCE = 0.5
"""umap-learn's own 0.1 packs classes so tightly that a map of many shows little of each."""
EXTRA = 'install the report extra: pip install "cellscribe[report]"'


def layout_of(n_cells: int) -> Layout:
    """Return the layout that `umap_coordinates` uses for `n_cells` finite rows."""
    return "UMAP" if n_cells >= MIN_CELLS else "PCA"


def finite_rows(values: npt.NDArray) -> npt.NDArray[np.bool_]:
    """Tell which rows of a matrix hold neither NaN nor infinity."""
    return np.asarray(np.isfinite(values).all(axis=1))


def umap_coordinates(
    embeddings: npt.NDArray, seed: int = 0, *, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """Compute coordinates of the cells in the plane.

    Parameters
    ----------
    embeddings
        ``[n, D]``, any float type.
    seed
        The same seed and rows give the same coordinates.
    progress
        Called with (epochs done, epochs in all), once the neighbors are found.

    Returns
    -------
    ``[n, 2]`` float32. UMAP (McInnes et al. 2018, umap-learn); the first two principal components
    for fewer than `MIN_CELLS` finite rows; NaN where a row is not finite.

    Raises
    ------
    InputError
        umap-learn is not installed.
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    coordinates = np.full((len(embeddings), 2), np.nan, dtype=np.float32)
    finite = finite_rows(embeddings)
    rows = embeddings[finite]
    if layout_of(len(rows)) == "PCA":
        coordinates[finite] = _principal_components(rows)
    elif not np.ptp(rows, axis=0).any():
        coordinates[finite] = 0  # all cells have the same vector: one point is correct
    else:
        coordinates[finite] = _umap(rows, seed, progress)
    return coordinates


class _Epochs(io.TextIOBase):
    """Takes the bar that umap-learn prints, and reports what stands on it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def write(self, text: str) -> int:
        if found := re.search(r"(\d+)/(\d+)", text):
            self.progress(int(found[1]), int(found[2]))
        return len(text)


def _umap(
    rows: npt.NDArray[np.float32], seed: int, progress: Progress | None
) -> npt.NDArray[np.float32]:
    with warnings.catch_warnings():
        # umap-learn warns when its optional TensorFlow is missing
        warnings.filterwarnings("ignore", message=".*Tensorflow not installed.*")
        try:
            import umap
        except ModuleNotFoundError as error:
            raise InputError(f"the map needs {error.name}; {EXTRA}") from None
    fit = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(rows) - 1),
        min_dist=MIN_DISTANCE,
        init="pca",
        random_state=seed,
        n_jobs=1,
        tqdm_kwds=None if progress is None else _bar(progress),
    )
    return np.asarray(fit.fit_transform(rows), dtype=np.float32)


def _bar(progress: Progress) -> dict[str, object]:
    bar = {"file": _Epochs(progress), "disable": False, "bar_format": "{n_fmt}/{total_fmt}"}
    return bar | {"mininterval": 0.5}


def _principal_components(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    plane = np.zeros((len(rows), 2), dtype=np.float32)
    if len(rows) > 1:
        u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        n = min(2, len(s))
        plane[:, :n] = u[:, :n] * s[:n]
    return plane


def to_frame(
    coordinates: npt.NDArray, aspect: float, margin: float = 0.035
) -> npt.NDArray[np.float64]:
    """Fit coordinates into a frame of width 1 and height 1, y pointing down, for drawing.

    Parameters
    ----------
    coordinates
        ``[n, 2]``; rows with NaN stay NaN.
    aspect
        Width over height of the frame on paper: both axes keep one scale there.
    margin
        Share of the frame's width left free on each side.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    finite = finite_rows(points)
    if not finite.any():
        return points.copy()
    low, high = points[finite].min(axis=0), points[finite].max(axis=0)
    frame = np.array([1.0, 1.0 / aspect])
    span = np.maximum(high - low, 1e-9)
    scale = ((frame - 2 * margin) / span).min() if (high > low).any() else 0.0
    placed = frame / 2 + (points - (low + high) / 2) * scale * np.array([1, -1])
    return placed / frame


def tag_places(
    placed: npt.NDArray[np.float64],
    codes: npt.NDArray[np.int64],
    n_tags: int,
    aspect: float,
    apart: float = 0.05,
) -> npt.NDArray[np.float64]:
    """Place a tag at the densest spot of each class, and separate overlapping tags.

    Parameters
    ----------
    placed
        ``[n, 2]`` from `to_frame`.
    codes
        ``[n]`` class of each cell; classes from `n_tags` on get no tag.
    n_tags
        Number of classes that get a tag.
    aspect
        Width over height of the frame.
    apart
        Smallest distance of two tags, as a share of the frame's width.

    Returns
    -------
    ``[n_tags, 2]`` in the frame; NaN for a class without a finite point.
    """
    tags = np.full((n_tags, 2), np.nan)
    stretch = np.array([1.0, 1.0 / aspect])
    for code in range(n_tags):
        points = placed[codes == code]
        points = points[finite_rows(points)]
        if len(points):
            cell = np.clip((points * 16).astype(int), 0, 15) @ np.array([16, 1])
            tags[code] = points[cell == np.bincount(cell).argmax()].mean(axis=0)
    return _push_apart(tags * stretch, apart, limit=stretch - apart / 2) / stretch


def _push_apart(
    tags: npt.NDArray[np.float64], apart: float, limit: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    tags = tags.copy()
    pairs = [(a, b) for a in range(len(tags)) for b in range(a)]
    for _ in range(200):
        moved = False
        for a, b in pairs:
            gap = tags[a] - tags[b]
            length = float(np.hypot(*gap))
            short = apart - length
            if short > 1e-6:  # False for NaN
                direction = gap / length if length > 0 else np.array([1.0, 0.0])
                tags[a] += direction * short / 2
                tags[b] -= direction * short / 2
                moved = True
        if not moved:
            break
        tags = np.clip(tags, apart / 2, limit)
    return tags
