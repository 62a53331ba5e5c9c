"""The task deletion: on moves whose truth is known, on a simulated screen, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from support.simulate import simulate
from support.tiny import N_GENES, real_genes

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells, Data, read_cells
from cellscribe.evaluation.models import Model, read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks import deletion
from cellscribe.evaluation.tasks.deletion import (
    Case,
    Moves,
    auroc,
    centred_cosines,
    own_ranks,
)

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = EvaluateOptions(device="cpu", precision="float32", threads=1, bootstrap=50)


def screen(**more: Any) -> Cells:
    words: dict[str, Any] = {"cells": 600, "types": 1, "knockdowns": 8, "depth": 2000.0} | more
    return read_cells(simulate(real_genes(N_GENES)[0], **words), OPTIONS, name="screen")


def case_of(cells: Cells, models: list[Model] | None = None) -> Case:
    (case,) = deletion.load(
        Data(name=cells.name, path=Path("x"), cells=cells), models or [], OPTIONS
    )
    return case


def scores_of(case: Case, moves: Moves, seed: int = 0) -> dict[str, float]:
    found = deletion.score(case, moves, seed).estimates
    return {name: each.value for name, each in found.items()}


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(screen())


@settings(max_examples=100)
@given(st.integers(0, 2**20), st.integers(2, 9))
def test_areas_are_scikit_learn_s(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (n, n)) / 5
    same = np.eye(n, dtype=int)
    assert auroc(scores) == pytest.approx(roc_auc_score(same.ravel(), scores.ravel()))
    drawn = np.bincount(rng.integers(0, n, n), minlength=n)
    if (drawn > 0).sum() < 2:
        assert np.isnan(auroc(scores, drawn))
        return
    weights = np.where(same, np.diag(drawn), np.outer(drawn, drawn)).ravel()
    weighted = roc_auc_score(same.ravel(), scores.ravel(), sample_weight=weights)
    assert auroc(scores, drawn) == pytest.approx(weighted)


def test_ranks_of_the_own_knock_down() -> None:
    scores = np.array([[9, 1, 2, 3], [5, 4, 3, 2], [1, 2, 0, 3], [7, 7, 7, 7.0]])
    np.testing.assert_allclose(own_ranks(scores), [1, 2 / 3, 0, 1 / 2])


def test_what_all_share_does_not_count() -> None:
    rng = np.random.default_rng(0)
    deleted, real = rng.normal(size=(2, 7, 20))
    found = centred_cosines(deleted, real)
    shifted = centred_cosines(deleted + 50 * rng.normal(size=20), real - 30 * rng.normal(size=20))
    np.testing.assert_allclose(found, shifted, atol=1e-10)
    centred = deleted - deleted.mean(0), real - real.mean(0)
    wanted = centred[0][2] @ centred[1][5]
    wanted /= np.linalg.norm(centred[0][2]) * np.linalg.norm(centred[1][5])
    assert found[2, 5] == pytest.approx(wanted)


def test_constructed_moves(case: Case) -> None:
    """Own directions give 1, unrelated ones a half, opposite ones 0."""
    rng = np.random.default_rng(3)
    n = len(case.targets)
    sizes = np.arange(1, n + 1)[:, None]
    real = rng.normal(size=(n, 64)) * sizes
    perfect = Moves(deleted=real / 9, real=real, real_others=-real)
    found = scores_of(case, perfect)
    assert found == {
        "auroc": 1, "auroc_others": 0, "own_rank": 1, "size_correlation": pytest.approx(1),
    }  # fmt: skip
    areas, ranks = [], []
    for _ in range(60):
        noise = rng.normal(size=(n, 64))
        found = scores_of(case, Moves(deleted=noise, real=real, real_others=real))
        areas.append(found["auroc"])
        ranks.append(found["own_rank"])
        assert found["auroc_others"] == found["auroc"]
        assert found["size_correlation"] == pytest.approx(
            spearmanr(*(np.linalg.norm(each, axis=1) for each in (noise, real))).statistic
        )
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.05)


def test_intervals_hold_the_figure_and_depend_on_the_seed_alone(case: Case) -> None:
    rng = np.random.default_rng(5)
    n = len(case.targets)
    real = rng.normal(size=(n, 16))
    moves = Moves(deleted=real + 2 * rng.normal(size=(n, 16)), real=real, real_others=real)
    first, again = (deletion.score(case, moves, 1) for _ in range(2))
    assert first == again
    other = deletion.score(case, moves, 2)
    for name, estimate in first.estimates.items():
        assert name in deletion.METRICS
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.value == other.estimates[name].value
    assert first.estimates["auroc"] != other.estimates["auroc"]
    assert list(first.breakdowns["rank of the own knock-down"]) == list(case.targets)


def test_the_baseline_finds_real_knock_downs_and_nothing_in_none() -> None:
    found = {}
    for effect in (1.0, 0.0):
        areas = []
        for seed in range(3):
            case = case_of(screen(knockdown_effect=effect, seed=seed))
            (method,) = deletion.baselines(case)
            assert (method.name,) == deletion.BASELINES
            areas.append(scores_of(case, method.predict())["auroc"])
        found[effect] = np.mean(areas)
    assert found[1.0] > 0.9
    assert 0.3 < found[0.0] < 0.7


def test_moves_of_the_baseline_by_hand(case: Case) -> None:
    """With as many components as genes, cosines are those of log-normalised profiles."""
    (method,) = deletion.baselines(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deletion, "PCA_COMPONENTS", N_GENES)
        moves = method.predict()
    dense = case.cells.counts.toarray().astype(float)

    def log_norm(x: np.ndarray) -> np.ndarray:
        return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))

    deleted, real, others = [], [], []
    for name, column in case.targets.items():
        without = dense.copy()
        without[:, column] = 0
        rows, knocked = case.deleted[name], case.knocked[name]
        deleted.append((log_norm(without[rows]) - log_norm(dense[rows])).mean(axis=0))
        for found, x in ((real, dense), (others, without)):
            found.append(log_norm(x[knocked]).mean(0) - log_norm(x[case.controls]).mean(0))
    np.testing.assert_allclose(
        centred_cosines(moves.deleted, moves.real),
        centred_cosines(np.array(deleted), np.array(real)), atol=1e-6,
    )  # fmt: skip
    # controls are more than are deleted from: the mean of those stands for all that show the gene
    found = centred_cosines(moves.deleted, moves.real_others)
    wanted = centred_cosines(np.array(deleted), np.array(others))
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_models_delete_at_the_tokens(tiny_model: Path) -> None:
    """Moves of a tiny model against embeddings of cells without the gene."""
    models = read_models([tiny_model], OPTIONS)
    assert [model.random for model in models] == [False, True]
    case = case_of(screen(cells=400, knockdowns=4), models)
    (method,) = deletion.methods(case, models[0])
    assert (method.kind, method.name, method.model) == ("model", "tiny", models[0])
    assert deletion.methods(case, models[1])[0].kind == "random"
    moves = method.predict()
    vectors = models[0].vectors(case.cells)
    for place, (name, column) in enumerate(case.targets.items()):
        rows = case.deleted[name]
        assert (case.cells.counts[rows][:, [column]].toarray() > 0).all()
        assert set(rows) <= set(case.controls)
        dense = case.cells.counts[rows].toarray()
        dense[:, column] = 0
        cells = replace(case.cells.take(rows), counts=csr_matrix(dense))
        away = models[0].vectors(cells) - vectors[rows]
        np.testing.assert_allclose(moves.deleted[place], away.mean(axis=0), atol=1e-5)
        far = vectors[case.knocked[name]].mean(0) - vectors[case.controls].mean(0)
        np.testing.assert_allclose(moves.real[place], far, atol=1e-5)
    assert np.isfinite(list(scores_of(case, moves).values())).all()


def test_cells_are_drawn_by_the_seed_and_bounded(case: Case) -> None:
    assert all(20 <= len(rows) <= deletion.MOST_CELLS for rows in case.deleted.values())
    again = case_of(case.cells)
    assert again.identity == case.identity
    assert case.about["perturbations"] == 8 == len(case.targets)
    (other,) = deletion.load(
        Data(name="screen", path=Path("x"), cells=case.cells), [], replace(OPTIONS, seed=1)
    )
    assert other.identity != case.identity


def test_unmeasured_and_unknown_targets_are_left_out(tiny_model: Path) -> None:
    cells = screen()
    gone = [name.removesuffix("+ctrl") for name in np.unique(cells.obs["condition"])]
    column = list(cells.var.index).index(gone[0])
    kept = np.delete(np.arange(N_GENES), column)
    cells = replace(cells, counts=cells.counts[:, kept], var=cells.var.iloc[kept])
    case = case_of(cells, read_models([tiny_model], OPTIONS))
    assert gone[0] not in case.targets
    assert case.about["perturbations left out"] == 1


def test_data_that_do_not_fit() -> None:
    with pytest.raises(UnfitError, match="a corpus"):
        deletion.load(Data(name="c", path=Path("c")), [], OPTIONS)
    cells = screen()
    with pytest.raises(UnfitError):
        case_of(replace(cells, obs=cells.obs.drop(columns="condition")))
    without = np.flatnonzero(cells.obs["condition"] != "ctrl")
    with pytest.raises(InputError, match="control"):
        case_of(cells.take(without))
    silent = cells.counts.toarray()
    silent[np.ix_((cells.obs["condition"] == "ctrl").to_numpy(), np.arange(N_GENES) >= 0)] = 0
    with pytest.raises(UnfitError, match="0 of 8 perturbations of one gene"):
        case_of(replace(cells, counts=csr_matrix(silent)))
