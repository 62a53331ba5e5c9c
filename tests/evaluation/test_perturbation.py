"""The task `perturbation`: its baselines, and what it finds in screens of known truth."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from support.simulate import simulate
from support.tiny import real_genes, save_model

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Data, read_cells
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks.perturbation import baselines as predictors
from cellscribe.evaluation.tasks.perturbation import task as task
from cellscribe.evaluation.tasks.perturbation.splits import split_perturbations

OPTIONS = EvaluateOptions(seeds=1, bootstrap=50, device="cpu", threads=1)


def training(n: int = 30, n_genes: int = 80, seed: int = 0) -> predictors.Training:
    rng = np.random.default_rng(seed)
    return predictors.Training(
        targets=tuple((f"g{number}",) for number in range(n)),
        deltas=rng.normal(size=(n, n_genes)),
        control=rng.gamma(1.0, 1.0, n_genes),
    )


def test_simple_predictions() -> None:
    seen = training(3)
    asked = [("g1",), ("new",), ("g0", "g2"), ("g0", "new"), ("new", "newer")]
    mean, (g0, g1, g2) = seen.deltas.mean(axis=0), seen.deltas
    assert not predictors.no_change(seen, asked).deltas.any()
    assert np.allclose(predictors.training_mean(seen, asked).deltas, mean)
    found = predictors.additive(seen, asked)
    np.testing.assert_allclose(found.deltas, [g1, mean, g0 + g2, g0 + mean, 2 * mean])
    assert found.n_fallback == 2


def test_the_linear_model_is_two_ridge_regressions() -> None:
    """Profiles on genes' vectors, then those weights on perturbations' vectors."""
    seen = training()
    rng = np.random.default_rng(1)
    vectors = {f"g{number}": rng.normal(size=5) for number in range(35)}
    genes = predictors.gene_components(seen, 4)
    asked = [("g31",), ("g3", "g33")]
    mean = seen.deltas.mean(axis=0)
    first = Ridge(alpha=0.1, fit_intercept=False).fit(genes, (seen.deltas - mean).T)
    rows = np.array([vectors[name] for (name,) in seen.targets])
    second = Ridge(alpha=0.1, fit_intercept=False).fit(rows, first.coef_)
    expected = [
        mean + genes @ second.predict(vector[None])[0]
        for vector in (vectors["g31"], vectors["g3"] + vectors["g33"])
    ]
    np.testing.assert_allclose(
        predictors.linear(seen, asked, genes, vectors).deltas, expected, rtol=1e-8
    )


def test_the_linear_model_finds_what_vectors_of_perturbations_tell() -> None:
    rng = np.random.default_rng(2)
    hidden, loadings = rng.normal(size=(60, 3)), rng.normal(size=(200, 3))
    deltas = hidden @ loadings.T + 0.1 * rng.normal(size=(60, 200))
    names = [f"g{number}" for number in range(60)]
    seen = predictors.Training(
        targets=tuple((name,) for name in names[:45]),
        deltas=deltas[:45],
        control=rng.gamma(1.0, 1.0, 200),
    )
    asked = [(name,) for name in names[45:]]
    genes = predictors.gene_components(seen)
    told = predictors.linear(seen, asked, genes, dict(zip(names, hidden, strict=True)))
    scrambled = dict(zip(names, rng.permutation(hidden), strict=True))
    untold = predictors.linear(seen, asked, genes, scrambled)
    correlation = [
        np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(deltas[45:], each.deltas, strict=True)])
        for each in (told, untold)
    ]
    assert correlation[0] > 0.97
    assert correlation[1] < 0.5


def test_genes_without_a_vector_are_predicted_as_the_mean_and_counted() -> None:
    seen = training()
    genes = predictors.gene_components(seen)
    vectors = {f"g{number}": np.arange(3.0) + number for number in range(20)}
    found = predictors.linear(seen, [("g5",), ("g25",), ("g5", "g25")], genes, vectors)
    assert found.n_fallback == 2
    assert not np.allclose(found.deltas[0], seen.mean)
    np.testing.assert_allclose(found.deltas[1:], [seen.mean, seen.mean])
    nothing = predictors.linear(seen, [("g5",)], genes, {"g5": np.ones(3)})
    np.testing.assert_allclose(nothing.deltas, [seen.mean])
    assert nothing.n_fallback == 1


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(3).normal(size=(40, 12))
    np.testing.assert_allclose(
        np.abs(predictors.principal(rows, 5)), np.abs(PCA(5).fit_transform(rows)), atol=1e-9
    )
    assert predictors.principal(rows[:, :3], 5).shape == (40, 3)


@cache
def screen(effect: float, seed: int = 0) -> task.Case:
    """12 knock-downs of some 33 cells each, and 400 control cells, of 200 genes."""
    adata = simulate(
        real_genes(200)[0], cells=800, types=1, knockdowns=12, knockdown_effect=effect, seed=seed
    )
    return case_of(adata)


def case_of(adata, models=(), name: str = "screen") -> task.Case:
    cells = read_cells(adata, OPTIONS, name=name)
    [case] = task.load(Data(name=name, path=Path(name), cells=cells), models, OPTIONS)
    return case


def scores_of(case: task.Case, seed: int = 0) -> dict[str, dict[str, float]]:
    return {
        method.name: {
            metric: estimate.value
            for metric, estimate in task.score(case, method.predict(), seed).estimates.items()
        }
        for method in task.baselines(case)
    }


def test_every_baseline_has_a_row_of_known_metrics() -> None:
    found = scores_of(screen(1.0))
    assert tuple(found) == task.BASELINES
    assert set(task.HEADLINES) <= set(task.METRICS)
    *foretelling, by_pca = found.values()
    assert set(by_pca) == {"separation"}
    for row in foretelling:
        assert list(row) == [metric for metric in task.METRICS if metric != "separation"]
    assert found["additive"] == found["training mean"], "of single genes alone"


def test_strong_knock_downs_are_told_apart_and_foretold_and_absent_ones_are_not() -> None:
    strong, absent = (
        [scores_of(screen(effect, seed), seed) for seed in range(3)] for effect in (1.0, 0.0)
    )

    def mean(rows: list, method: str, metric: str) -> float:
        return float(np.mean([row[method][metric] for row in rows]))

    assert mean(strong, task.PCA_ROW, "separation") > 0.75
    assert abs(mean(absent, task.PCA_ROW, "separation") - 0.5) < 0.05
    for method in ("training mean", "linear model"):
        assert mean(strong, method, "pearson_delta") > 0.1, "no change has 0"
        assert abs(mean(absent, method, "pearson_delta")) < 0.1
    assert mean(strong, "linear model", "mse_top20") < mean(strong, "no change", "mse_top20")
    for method in ("no change", "training mean"):
        assert mean(strong, method, "pds") == pytest.approx(0.5, abs=0.15)


def test_who_knows_the_truth_scores_best() -> None:
    """The simulator's own log fold changes, applied to counts per 10,000 of control cells."""
    adata = simulate(real_genes(200)[0], cells=1200, types=1, knockdowns=12, seed=0)
    case = case_of(adata)
    known = adata.uns["truth"]["knockdowns"]

    def predict(training: predictors.Training, targets: predictors.Targets):
        counts = np.expm1(training.control)
        changed = np.array([counts * np.exp(known[gene]) for (gene,) in targets])
        changed *= counts.sum() / changed.sum(axis=1, keepdims=True)
        return predictors.Predicted(deltas=np.log1p(changed) - training.control)

    split = split_perturbations(case.conditions.targets, seed=0, validation=False)
    found, _ = task.response(case, predict, split, seed=0)
    means = {metric: float(values.mean()) for metric, values in found.items()}
    baseline = scores_of(case)["training mean"]
    assert means["pds"] == 1
    assert means["pearson_delta"] > 0.5 > baseline["pearson_delta"]
    assert means["pearson_delta_top20"] > 0.9
    assert means["weighted_r2"] > 0.5 > 0.1 > baseline["weighted_r2"]
    for metric in ("mse_top20", "weighted_mse"):
        assert means[metric] < baseline[metric] / 3


def test_predictors_see_nothing_of_what_is_tested() -> None:
    case = screen(1.0)
    split = split_perturbations(case.conditions.targets, seed=0, validation=False)
    shown = []

    def predict(training: predictors.Training, targets: predictors.Targets):
        shown.append(training)
        return predictors.training_mean(training, targets)

    task.response(case, predict, split, seed=0)
    tested = {gene for name in split.test for gene in case.conditions.targets[name]}
    assert not tested & {gene for genes in shown[0].targets for gene in genes}
    seen = case.profiles(0)
    assert np.array_equal(shown[0].control, seen.start)
    assert not np.allclose(seen.start, seen.control)


def test_scores_depend_on_the_seed_alone() -> None:
    case, again = screen(1.0), case_of(
        simulate(
            real_genes(200)[0], cells=800, types=1, knockdowns=12, knockdown_effect=1.0, seed=0
        )
    )  # fmt: skip
    assert case.identity == again.identity
    method, same = task.baselines(case)[3], task.baselines(again)[3]
    first = task.score(case, method.predict(), 4)
    assert first == task.score(again, same.predict(), 4)
    assert first != task.score(case, method.predict(), 5)
    estimate = first.estimates["mse_top20"]
    assert estimate.low < estimate.value < estimate.high


def test_models_answer_both_questions(tmp_path: Path) -> None:
    models = read_models([save_model(tmp_path / "tiny")], OPTIONS)
    adata = simulate(real_genes(120)[0], cells=480, types=1, knockdowns=8, seed=1)
    case = case_of(adata, models)
    rows = [method for model in models for method in task.methods(case, model)]
    assert [(row.name, row.kind) for row in rows] == [
        ("tiny", "model"), ("tiny, random weights", "random"),
    ]  # fmt: skip
    found = [task.score(case, row.predict(), 0) for row in rows]
    linear = task.score(case, task.baselines(case)[3].predict(), 0)
    for scores in found:
        assert list(scores.estimates) == list(task.METRICS)
        assert scores.estimates["mse_top20"] != linear.estimates["mse_top20"]
        assert set(scores.breakdowns["separation by perturbation"]) == set(case.conditions.targets)
    told = "unseen perturbations, of them predicted as the training mean"
    assert found[0].breakdowns[told] == {"unseen": 2.0, "as the mean": 0.0}


def test_unmeasured_genes_are_counted(tmp_path: Path) -> None:
    adata = simulate(real_genes(200)[0], cells=800, types=1, knockdowns=12, seed=0)
    case = screen(1.0)
    split = split_perturbations(case.conditions.targets, seed=0, validation=False)
    gone = case.conditions.targets[split.test[0]][0]
    fewer = case_of(adata[:, adata.var_names != gone].copy())
    assert fewer.about["of them measured"] == fewer.about["perturbed genes"] - 1 == 11
    scores = task.score(fewer, task.baselines(fewer)[3].predict(), 0)
    told = "unseen perturbations, of them predicted as the training mean"
    assert scores.breakdowns[told] == {"unseen": 3.0, "as the mean": 1.0}


def test_combinations_are_scored_by_what_was_seen_of_them() -> None:
    adata = simulate(real_genes(200)[0], cells=1200, types=1, knockdowns=12, seed=0)
    labels = adata.obs["condition"].astype(str).to_numpy(dtype=object)
    genes = sorted(set(labels) - {"ctrl"})
    random = np.random.default_rng(0)
    for name, partner in zip(genes, [*genes[1:], genes[0]], strict=True):
        both = f"{name.removesuffix('+ctrl')}+{partner.removesuffix('+ctrl')}"
        labels[random.permutation(np.flatnonzero(labels == name))[:25]] = both
    adata.obs["condition"] = labels
    case = case_of(adata)
    assert len(case.conditions.targets) == 24
    scores = task.score(case, task.baselines(case)[2].predict(), 0)
    assert "unseen_single" in scores.breakdowns["Pearson delta by what was seen"]
    assert len(scores.breakdowns["Pearson delta by what was seen"]) > 2


def test_data_that_do_not_fit_are_refused() -> None:
    adata = simulate(real_genes(60)[0], cells=120, types=1, knockdowns=0)
    with pytest.raises(UnfitError, match="no column of obs tells perturbations"):
        case_of(adata)
    adata = simulate(real_genes(60)[0], cells=300, types=1, knockdowns=4)
    with pytest.raises(InputError, match="has no controls"):
        case_of(adata[adata.obs["condition"] != "ctrl"].copy())
    with pytest.raises(UnfitError, match="a corpus tells no perturbations"):
        task.load(Data(name="corpus", path=Path("corpus")), [], OPTIONS)
