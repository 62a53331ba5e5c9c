"""What vectors give away of depth, and how thinned cells fare: against scikit-learn and truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.simulate import simulate
from support.tiny import CONTEXT, N_GENES, real_genes, some_counts

from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.data import Cells, Data, read_cells
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.scores import Scores, UnfitError
from cellscribe.evaluation.stats import features, ridge
from cellscribe.evaluation.tasks import confounding

OPTIONS = EvaluateOptions(bootstrap=20, threads=1)
Vectors = Callable[[Cells], np.ndarray]


def case_of(adata: Any, **options: Any) -> confounding.Case:
    settings = EvaluateOptions(bootstrap=20, threads=1, **options)
    cells = read_cells(adata, settings)
    [case] = confounding.load(Data(name="made", path=Path(), cells=cells), [], settings)
    return case


def told_by(case: confounding.Case, vectors: Vectors, seed: int = 0) -> Scores:
    """Scores of a way to make a cell's vector."""
    prediction = confounding.CellVectors(
        vectors=vectors(case.cells)[case.filled],
        lengths=np.asarray((case.cells.counts > 0).sum(1)).ravel()[case.filled] * 1.0,
        downsampled={
            share: vectors(downsampled.cells) for share, downsampled in case.downsampled.items()
        },
    )
    return confounding.score(case, prediction, seed)


def totals(cells: Cells) -> np.ndarray:
    return np.asarray(cells.counts.sum(1), np.float64).ravel()


def noise(cells: Cells) -> np.ndarray:
    """Says nothing of a cell, but is another for other counts."""
    return np.random.default_rng(int(cells.hash, 16)).normal(size=(cells.n_cells, 8))


@pytest.fixture(scope="module")
def simulated() -> confounding.Case:
    """200 cells of very different depth."""
    genes = real_genes(N_GENES)[0]
    return case_of(simulate(genes, cells=200, depth_spread=1.0, seed=1))


def test_ridge_is_that_of_scikit_learn() -> None:
    """More columns than cells, fewer, constant ones; a penalty for each target."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    for width in (3, 30, 90):
        vectors = rng.normal(size=(60, width)) * rng.gamma(1, 5, width) + 3
        vectors[:, 1] = 7.5
        clear = vectors[:, 0] + rng.normal(scale=0.01, size=60)
        targets = np.stack([clear, rng.normal(size=60), vectors[:, 2] ** 2], axis=1)
        ours = ridge.ridge(vectors[:40], targets[:40], vectors[40:])
        theirs = make_pipeline(StandardScaler(), RidgeCV(ridge.ALPHAS, alpha_per_target=True)).fit(
            vectors[:40], targets[:40]
        )
        np.testing.assert_allclose(ours, theirs.predict(vectors[40:]), rtol=1e-7, atol=1e-8)
        assert len(set(theirs[-1].alpha_)) > 1


def test_r2_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    truth = rng.normal(size=50)
    for guess in (truth + rng.normal(size=50), -truth, np.full(50, truth.mean())):
        assert ridge.r2(truth, guess) == pytest.approx(r2_score(truth, guess), abs=1e-12)


def test_no_cell_helps_to_predict_itself() -> None:
    """Another target of one cell changes what is said of the others' folds, not of its own."""
    rng = np.random.default_rng(2)
    vectors, targets = rng.normal(size=(50, 4)), rng.normal(size=(50, 1))
    before = ridge.out_of_fold(vectors, targets, seed=3)
    targets[7] += 100
    changed = ridge.out_of_fold(vectors, targets, seed=3) != before
    assert not changed[7]
    assert changed.sum() == 40
    assert (ridge.out_of_fold(vectors, targets, seed=4) != before).any()


def test_vectors_of_depth_give_all_away(simulated: confounding.Case) -> None:
    def depth(cells: Cells) -> np.ndarray:
        return np.log(totals(cells))[:, None] * np.array([[1.0, -2.0]]) + 5

    scores = told_by(simulated, depth)
    figure = scores.estimates["depth_r2"]
    assert figure.value > 0.999
    assert figure.low <= figure.value <= figure.high


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_gives_nothing_away(simulated: confounding.Case, seed: int) -> None:
    scores = told_by(simulated, noise, seed)
    for name in confounding.TARGETS:
        assert -0.5 < scores.estimates[name].value < 0.05
    for name in (*(f"stays_{share}" for share in confounding.SHARES), "stays_50_25"):
        assert scores.estimates[name].value < 0.03


def test_constant_vectors_come_to_chance(simulated: confounding.Case) -> None:
    """R2 of the training mean is just below 0, and one cell in 200 is found."""
    scores = told_by(simulated, lambda cells: np.full((cells.n_cells, 6), 0.1))
    for name in confounding.TARGETS:
        assert -0.05 < scores.estimates[name].value <= 0
    for name in ("stays_50", "stays_50_25"):
        assert scores.estimates[name].value == pytest.approx(1 / 200)
    assert all(np.isnan(list(scores.breakdowns[confounding.MOVED].values())))


def test_types_without_depth_are_told_from_depth(simulated: confounding.Case) -> None:
    """The same vectors, of types alone: R2 of a depth that types do not decide is about 0."""
    kinds = pd.get_dummies(simulated.cells.obs["cell_type"]).to_numpy(float)
    known = {simulated.cells: kinds}
    plain = told_by(simulated, lambda cells: known.get(cells, np.ones((cells.n_cells, 4))))
    mixed = np.column_stack([kinds, np.log(totals(simulated.cells))])
    known = {simulated.cells: mixed}
    given = told_by(simulated, lambda cells: known.get(cells, np.ones((cells.n_cells, 5))))
    assert plain.estimates["depth_r2"].value < 0.1
    assert given.estimates["depth_r2"].value > 0.99


def test_deep_differences_are_in_normalised_counts(simulated: confounding.Case) -> None:
    """The standard workflow keeps depth where it is there to keep."""
    genes = real_genes(N_GENES)[0]
    even = case_of(simulate(genes, cells=200, depth_spread=0.0, seed=1))
    figures = []
    for case in (simulated, even):
        method = confounding.baselines(case)[0]
        scores = confounding.score(case, method.predict(), 0)
        figures.append(scores.estimates["depth_r2"])
    # totals of "even" vary by what types and chance make of them alone
    assert figures[0].value > 0.5
    assert figures[1].value < 0.1
    assert figures[1].high < figures[0].low


def test_what_is_constant_has_no_figure() -> None:
    """Each gene in each cell: only depth varies."""
    counts = np.arange(1, 31)[:, None] * np.arange(1, 26)[None]
    case = case_of(ad.AnnData(csr_matrix(counts), var=pd.DataFrame(index=real_genes(25)[0])))
    scores = told_by(case, lambda cells: cells.counts.toarray().astype(float))
    assert "depth_r2" in scores.estimates
    assert not {"genes_r2", "length_r2"} & set(scores.estimates)


def test_thinning_is_binomial(simulated: confounding.Case) -> None:
    whole = simulated.cells
    for share in confounding.SHARES:
        downsampled = confounding.downsample(whole, share, seed=5)
        counts = whole.counts[downsampled.own]
        assert downsampled.cells.counts.dtype == np.float32
        assert (counts - downsampled.cells.counts).min() >= 0
        assert (downsampled.cells.counts.data > 0).all()
        n, keep = totals(whole).sum(), share / 100
        error = np.sqrt(n * keep * (1 - keep))
        assert abs(totals(downsampled.cells).sum() - n * keep) < 5 * error
        again = confounding.downsample(whole, share, seed=5)
        assert again.cells.hash == downsampled.cells.hash
        assert confounding.downsample(whole, share, seed=6).cells.hash != downsampled.cells.hash


def test_all_counts_kept_is_the_cell_itself(simulated: confounding.Case) -> None:
    downsampled = confounding.downsample(simulated.cells, 100, seed=0)
    assert downsampled.cells.hash == simulated.cells.hash
    vectors = downsampled.cells.counts.toarray().astype(float)
    found = confounding.nearest_is_own(vectors, vectors.copy(), downsampled.own)
    np.testing.assert_array_equal(found, 1.0)


def test_random_vectors_are_found_by_chance() -> None:
    rng = np.random.default_rng(6)
    n = 400
    found = confounding.nearest_is_own(
        rng.normal(size=(n, 20)), rng.normal(size=(n, 20)), np.arange(n)
    )
    assert found.sum() < 8  # one is expected
    assert set(found) <= {0.0, 1.0}


def test_the_nearest_is_that_of_scikit_learn() -> None:
    from sklearn.metrics.pairwise import cosine_distances
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(7)
    whole = rng.normal(size=(60, 5)) + 2
    own = rng.permutation(60)[:40]
    downsampled = whole[own] * rng.gamma(2, size=(40, 1)) + rng.normal(scale=0.3, size=(40, 5))
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(whole)
    expected = nearest.kneighbors(downsampled, return_distance=False).ravel() == own
    assert 0 < expected.sum() < 40
    np.testing.assert_array_equal(confounding.nearest_is_own(whole, downsampled, own), expected)
    distances = cosine_distances(whole)
    expected = distances[~np.eye(60, dtype=bool)].mean()
    assert confounding.distance_between(whole) == pytest.approx(expected)


def test_copies_of_a_quarter_are_searched_among_those_of_a_half() -> None:
    """By scikit-learn, with cells of few counts: some have no copy of a half or of a quarter."""
    from sklearn.neighbors import NearestNeighbors

    case = case_of(simulate(real_genes(N_GENES)[0], cells=80, depth=8, depth_spread=1.5, seed=3))
    scores = told_by(case, lambda cells: np.log1p(cells.counts.toarray().astype(float)))
    half, quarter = (case.downsampled[share] for share in (50, 25))
    assert set(quarter.own) - set(half.own)
    vectors = [np.log1p(each.cells.counts.toarray().astype(float)) for each in (half, quarter)]
    centre = vectors[0].mean(axis=0)
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectors[0] - centre)
    found = half.own[nearest.kneighbors(vectors[1] - centre, return_distance=False).ravel()]
    expected = (found == quarter.own)[np.isin(quarter.own, half.own)].mean()
    assert 0.1 < expected < 0.9
    # ties among cells of a count or two are shared out here, and not by scikit-learn
    assert scores.estimates["stays_50_25"].value == pytest.approx(expected, abs=0.05)


def test_distances_are_told_as_shares() -> None:
    """Each cell on an axis of its own; thinned ones half way to another: 1 - cos 45 degrees."""
    case = case_of(simulate(real_genes(40)[0], cells=40, depth_spread=1.0))
    where = {cells.cells: cells.own for cells in case.downsampled.values()}

    def vectors(cells: Cells) -> np.ndarray:
        axes = np.concatenate([np.eye(20), -np.eye(20)])  # around 0: nothing is taken off
        return axes if cells is case.cells else (axes + np.roll(axes, 1, 1))[where[cells]]

    scores = told_by(case, vectors)
    row = scores.breakdowns[confounding.MOVED]
    assert row == pytest.approx(
        dict.fromkeys(("50 %", "25 %", "10 %"), (1 - np.sqrt(0.5)) * 39 / 40)
    )
    # as near to a neighbour as to itself
    assert scores.estimates["stays_10"].value == pytest.approx(0.5)
    curve = scores.curves[confounding.MOVED]
    assert (curve.x, curve.y) == ([50, 25, 10], list(row.values()))


def test_empty_cells_are_left_out() -> None:
    """Cells without a count, and those of which thinning leaves nothing."""
    counts = np.ones((60, 5), int)
    counts[:20] = 0
    counts[20:40, 1:] = 0
    case = case_of(ad.AnnData(csr_matrix(counts), var=pd.DataFrame(index=real_genes(5)[0])))
    assert case.filled.tolist() == list(range(20, 60)) == case.some.tolist()
    downsampled = case.downsampled[10]
    assert 0 < len(downsampled.own) < 40
    assert (totals(downsampled.cells) > 0).all()
    scores = told_by(case, lambda cells: cells.counts.toarray().astype(float))
    assert np.isfinite(scores.estimates["stays_10"].value)


def test_baselines_are_the_usual_features(simulated: confounding.Case) -> None:
    """On whole cells; of cells by themselves they do not depend on which others are there."""
    counts = simulated.cells.counts
    methods = confounding.baselines(simulated)
    assert tuple(method.name for method in methods) == confounding.BASELINES
    pca, hvg = (method.predict() for method in methods)
    usual = features.pca(counts)
    np.testing.assert_allclose(np.abs(pca.vectors), np.abs(usual), atol=1e-6)
    np.testing.assert_array_equal(hvg.vectors, features.hvg(counts))
    project = confounding.fit_features(counts, components=50, seed=0)
    np.testing.assert_allclose(project(counts[5:6])[0], pca.vectors[5], atol=1e-9)
    np.testing.assert_array_equal(pca.lengths, (counts.toarray() > 0).sum(1))
    for share, downsampled in simulated.downsampled.items():
        assert len(pca.downsampled[share]) == downsampled.cells.n_cells


def test_a_model_answers(tiny_model: Path, tmp_path: Path) -> None:
    """Vectors of whole and thinned cells, made once; lengths as the model cuts them."""
    dense = some_counts(40)
    var = pd.DataFrame(index=real_genes(N_GENES)[0])
    cells = read_cells(ad.AnnData(csr_matrix(dense), var=var), OPTIONS, name="made")
    models = read_models([tiny_model], OPTIONS, tmp_path / "vectors")
    [case] = confounding.load(Data(name="made", path=Path(), cells=cells), models, OPTIONS)
    kinds = []
    for model in models:
        [method] = confounding.methods(case, model)
        kinds.append(method.kind)
        prediction = method.predict()
        assert len(prediction.vectors) == 39
        expected = np.minimum((dense > 0).sum(1), CONTEXT)[case.filled]
        np.testing.assert_array_equal(prediction.lengths, expected)
        assert {0 < length < CONTEXT for length in expected} == {True, False}
        scores = confounding.score(case, prediction, 0)
        assert set(scores.estimates) == set(confounding.METRICS)
    assert kinds == ["model", "random"]
    # whole cells and three shares, of the model and of its twin
    assert len(list((tmp_path / "vectors").iterdir())) == 8


def test_what_decides_the_figures_is_in_the_identity(simulated: confounding.Case) -> None:
    other = case_of(simulated.cells.adata, seed=1)
    assert other.cells.hash == simulated.cells.hash
    assert other.identity != simulated.identity
    assert other.downsampled[50].cells.hash != simulated.downsampled[50].cells.hash


def test_what_does_not_fit_is_refused() -> None:
    corpus = Data(name="c", path=Path(), corpus=cast(Any, SimpleNamespace()))
    with pytest.raises(UnfitError, match="give a file of cells"):
        confounding.load(corpus, [], OPTIONS)
    var = pd.DataFrame(index=real_genes(4)[0])
    few = np.zeros((60, 4), int)
    few[:19] = np.arange(19)[:, None] + 1
    with pytest.raises(UnfitError, match="19 cells with counts are too few"):
        case_of(ad.AnnData(csr_matrix(few), var=var))
    same = np.random.default_rng(0).permuted(np.tile([5, 3, 2, 0], (60, 1)), axis=1)
    with pytest.raises(UnfitError, match="all cells have 10 counts"):
        case_of(ad.AnnData(csr_matrix(same), var=var))
