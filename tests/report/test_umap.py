"""Where cells lie on the map."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cellscribe.errors import InputError
from cellscribe.report.umap import layout_of, tag_places, to_frame, umap_coordinates


@pytest.fixture(scope="module")
def two_clusters() -> np.ndarray:
    rng = np.random.default_rng(3)
    middles = np.repeat([np.zeros(12), np.full(12, 25.0)], 40, axis=0)
    return (middles + rng.normal(size=(80, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def two_clusters_xy(two_clusters: np.ndarray) -> np.ndarray:
    return umap_coordinates(two_clusters, seed=1)


def test_same_seed_gives_same_coordinates(
    two_clusters: np.ndarray, two_clusters_xy: np.ndarray
) -> None:
    np.testing.assert_array_equal(umap_coordinates(two_clusters, seed=1), two_clusters_xy)
    assert not np.array_equal(umap_coordinates(two_clusters, seed=2), two_clusters_xy)
    assert two_clusters_xy.dtype == np.float32


def test_far_clusters_lie_apart(two_clusters_xy: np.ndarray) -> None:
    gaps = np.linalg.norm(two_clusters_xy[:, None] - two_clusters_xy[None], axis=-1)
    same = np.repeat([0, 1], 40)[:, None] == np.repeat([0, 1], 40)
    nearest = np.where(np.eye(80, dtype=bool), np.inf, gaps).argmin(axis=1)
    assert (nearest // 40 == np.arange(80) // 40).all()
    assert gaps[~same].min() > gaps[same].mean()


def test_rows_that_are_not_finite_get_nan_and_change_nothing(
    two_clusters: np.ndarray, two_clusters_xy: np.ndarray
) -> None:
    broken = np.insert(two_clusters, [5, 60], [[np.nan] * 12, [np.inf] * 12], axis=0)
    xy = umap_coordinates(broken, seed=1)
    bad = ~np.isfinite(broken).all(axis=1)
    assert bad.sum() == 2
    assert np.isnan(xy[bad]).all()
    np.testing.assert_array_equal(xy[~bad], two_clusters_xy)


def test_few_cells_get_principal_components() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    xy = umap_coordinates(rows)
    assert layout_of(6) == "PCA"
    # independent: principal components are uncorrelated, and carry the two largest eigenvalues
    covariance = np.cov(rows.astype(np.float64).T)
    largest = np.sort(np.linalg.eigvalsh(covariance))[::-1][:2]
    np.testing.assert_allclose(np.cov(xy.astype(np.float64).T), np.diag(largest), atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_next_to_no_cells(n: int) -> None:
    xy = umap_coordinates(np.ones((n, 5)))
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()


def test_all_cells_alike_are_one_point() -> None:
    assert np.unique(umap_coordinates(np.ones((30, 5))), axis=0).shape == (1, 2)


def test_repeated_zero_vectors_are_laid_out() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5))
    rows[:20] = 0
    assert np.isfinite(umap_coordinates(rows)).all()


def test_missing_umap_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r'pip install "cellscribe\[report\]"'):
        umap_coordinates(np.random.default_rng(0).normal(size=(20, 3)))


def test_frame_keeps_one_scale_and_flips_y() -> None:
    placed = to_frame(np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0], [np.nan, 1.0]]), aspect=2.0)
    assert np.isnan(placed[3, 0])
    inside = placed[:3]
    assert ((inside >= 0) & (inside <= 1)).all()
    width = inside[1, 0] - inside[0, 0]
    height = inside[0, 1] - inside[2, 1]  # up on the map is down in the frame
    assert height > 0
    assert width * 2.0 == pytest.approx(height * 2)  # 10 wide, 5 high, on paper twice as wide


def test_tags_sit_on_their_class_and_keep_apart() -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[0.2, 0.2], [0.8, 0.8], [0.8, 0.8]])
    placed = np.repeat(middles, 50, axis=0) + rng.normal(scale=0.01, size=(150, 2))
    codes = np.repeat([0, 1, 2], 50)
    tags = tag_places(placed, codes, 4, aspect=1.0, apart=0.1)
    np.testing.assert_allclose(tags[0], [0.2, 0.2], atol=0.03)
    assert np.linalg.norm(tags[1] - tags[2]) >= 0.1 - 1e-5
    np.testing.assert_allclose(tags[1:3].mean(axis=0), [0.8, 0.8], atol=0.03)
    assert np.isnan(tags[3]).all()
