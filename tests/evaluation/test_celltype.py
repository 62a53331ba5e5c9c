"""Cell types: against scikit-learn, against simulated truth, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.simulate import simulate
from support.tiny import real_genes, save_model, some_counts

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells, Data
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.stats.probe import (
    folds_of,
    predict_logistic,
    predict_logistic_cv,
    rotated,
    standardised,
)
from cellscribe.evaluation.tasks import celltype
from cellscribe.evaluation.tasks.celltype import Case, Features, baselines, load, methods, score

OPTIONS = EvaluateOptions(bootstrap=40)


def data_of(obs: pd.DataFrame, counts: np.ndarray | None = None) -> Data:
    if counts is None:
        counts = np.random.default_rng(0).poisson(1.0, (len(obs), 30))
    cells = Cells(
        name="made up", counts=csr_matrix(counts.astype(np.float32)),
        obs=obs.set_index(obs.index.astype(str)),
        var=pd.DataFrame(index=real_genes(counts.shape[1])[0]), gene_key=None, n_in_file=len(obs),
    )  # fmt: skip
    return Data(name="made up", path=Path("made up.h5ad"), cells=cells)


def case_of(options: EvaluateOptions = OPTIONS, **columns: Any) -> Case:
    [case] = load(data_of(pd.DataFrame(columns)), [], options)
    return case


def typed(n: int, n_classes: int) -> np.ndarray:
    return np.array([f"type {i % n_classes}" for i in range(n)], dtype=object)


def noisy(truth: np.ndarray, width: int, distance: float, seed: int = 0) -> np.ndarray:
    middles = np.random.default_rng(99).normal(size=(truth.max() + 1, width)) * distance
    noise = np.random.default_rng(seed).normal(size=(len(truth), width))
    return (middles[truth] + noise).astype(np.float32)


# --- against scikit-learn


def test_figures_are_those_of_scikit_learn() -> None:
    """The same folds, grid and classifiers, put together of scikit-learn's own parts."""
    case = case_of(cell_type=typed(260, 4))
    vectors = noisy(case.truth, 12, 0.5).astype(np.float64)
    got = score(case, Features(vectors=vectors), seed=3)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000, tol=1e-6)),
        {"logisticregression__C": [0.01, 0.1, 1.0]},
        scoring="f1_macro", cv=StratifiedKFold(3, shuffle=True, random_state=3),
    )  # fmt: skip
    predicted = cross_val_predict(search, vectors, case.truth, cv=folds)
    expected = f1_score(case.truth, predicted, average="macro")
    # the grid's mean over inner folds may choose another C than the score of them all together
    assert got.estimates["macro_f1"].value == pytest.approx(expected, abs=0.02)
    assert got.estimates["accuracy"].value == pytest.approx(
        (predicted == case.truth).mean(), abs=0.02
    )


def test_with_one_strength_figures_equal_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_logistic_cv, "__kwdefaults__", {"strengths": (0.1,)})
    case = case_of(cell_type=typed(260, 4))
    vectors = noisy(case.truth, 12, 0.5).astype(np.float64)
    got = score(case, Features(vectors=vectors), seed=3)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000))
    predicted = cross_val_predict(classifier, vectors, case.truth, cv=folds)
    by_class = f1_score(case.truth, predicted, average=None)
    assert 0.5 < by_class.mean() < 0.95
    assert got.estimates["macro_f1"].value == pytest.approx(by_class.mean())
    assert got.estimates["accuracy"].value == pytest.approx((predicted == case.truth).mean())
    assert list(got.breakdowns["F1 by class"].values()) == pytest.approx(list(by_class))
    near = np.empty(260, int)
    for train, test in folds.split(vectors, case.truth):
        middle = vectors[train].mean(axis=0)
        found = KNeighborsClassifier(15, metric="cosine").fit(
            vectors[train] - middle, case.truth[train]
        )
        near[test] = found.predict(vectors[test] - middle)
    assert got.estimates["knn_accuracy"].value == pytest.approx((near == case.truth).mean())
    assert got.estimates["knn_macro_f1"].value == pytest.approx(
        f1_score(case.truth, near, average="macro")
    )


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("centred", [True, False])
def test_rotated_features_predict_the_same(strength: float, centred: bool) -> None:
    """Plain scikit-learn on all 300 features against ours on as many as there are cells."""
    truth = np.arange(40) % 3
    train, test = noisy(truth, 300, 0.2), noisy(np.arange(500) % 3, 300, 0.2, seed=1)
    fit, held = standardised(train, test) if centred else (train + 0.3, test + 0.3)
    fit, held = fit.astype(np.float64), held.astype(np.float64)
    turned, held_turned = rotated(fit, held)
    assert turned.shape == (40, 40)
    plain = LogisticRegression(C=strength, max_iter=5_000, tol=1e-8).fit(fit, truth)
    ours = LogisticRegression(C=strength, max_iter=5_000, tol=1e-8).fit(turned, truth)
    np.testing.assert_allclose(
        ours.predict_proba(held_turned), plain.predict_proba(held), atol=1e-5
    )
    predicted = predict_logistic(fit, held, truth, strength, 1e-8)
    assert (predicted == plain.predict(held)).mean() > 0.995
    assert 0.4 < (predicted == np.arange(500) % 3).mean() < 1.0


def test_more_cells_than_features_are_left_as_they_are() -> None:
    train, test = np.ones((5, 4)), np.ones((2, 4))
    assert rotated(train, test)[0] is train


def test_the_strength_that_inner_folds_favour_is_taken() -> None:
    """Few cells, many features of noise, weak signal: the grid beats its worst member."""
    truth = np.arange(150) % 3
    train, test = noisy(truth, 30, 0.3), noisy(np.arange(600) % 3, 30, 0.3, seed=5)
    inner = folds_of(truth, None, 0, 3)
    grid = (1e-6, 0.1)
    chosen = predict_logistic_cv(train, truth, test, inner, strengths=grid)
    alone = [predict_logistic_cv(train, truth, test, inner, strengths=(c,)) for c in grid]
    assert (chosen == alone[1]).all()
    assert (chosen != alone[0]).any()


# --- folds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_groups", [2, 3, 5, 12])
def test_no_fold_splits_a_group_and_each_cell_is_held_out_once(seed: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    truth, groups = rng.integers(0, 4, 200), rng.integers(0, n_groups, 200)
    folds = folds_of(truth, groups, seed)
    assert len(folds) == min(5, n_groups)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(200))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == 200


def test_folds_are_those_of_the_seed() -> None:
    truth = np.arange(100) % 4
    first, again = folds_of(truth, None, 1), folds_of(truth, None, 1)
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert any((a[1] != b[1]).any() for a, b in zip(first, folds_of(truth, None, 2), strict=True))


def test_groups_are_found_by_name_and_told() -> None:
    n = 200
    donors = np.array([f"d{i // 50}" for i in range(n)])
    found = case_of(cell_type=typed(n, 4), donor=donors, batch=typed(n, 2))
    assert found.about["folds"] == "4, by donor (4)"
    assert found.groups is not None
    assert (np.unique(donors)[found.groups] == donors).all()
    assert case_of(cell_type=typed(n, 4)).about["folds"] == "5, random cells"
    named = case_of(
        EvaluateOptions(group="mouse"), cell_type=typed(n, 4), donor=donors, mouse=typed(n // 1, 5)
    )
    assert named.about["folds"] == "5, by mouse (5)"
    assert named.identity != found.identity


@pytest.mark.parametrize(
    "values", [np.repeat(["a", "b", "c", "d"], 50), np.arange(200), np.full(200, "one"),
               np.where(np.arange(200) < 3, None, np.repeat(["x", "y"], 100))],
    ids=["a type each", "a cell each", "one", "missing"],
)  # fmt: skip
def test_columns_of_no_use_are_not_taken_for_groups(values: np.ndarray) -> None:
    types = np.repeat(["t1", "t2", "t3", "t4"], 50)
    if len(np.unique(values[3:])) == 2:
        types = typed(200, 4)
    assert case_of(cell_type=types, donor=values).about["folds"] == "5, random cells"


def test_a_donors_mark_is_no_type() -> None:
    """Vectors that tell donors and nothing else: random folds are fooled where types follow
    donors, grouped folds are not."""
    rng = np.random.default_rng(0)
    donor = rng.integers(0, 8, 400)
    odd = rng.random(400) < 0.1
    types = np.where(odd, rng.integers(0, 2, 400), donor % 2)
    vectors = np.eye(8)[donor] + rng.normal(size=(400, 8)) * 0.1
    columns = {"cell_type": types.astype(str), "donor": donor.astype(str)}
    grouped = case_of(**columns)
    assert grouped.groups is not None
    apart = score(grouped, Features(vectors=vectors), 0).estimates["accuracy"]
    random = score(case_of(cell_type=columns["cell_type"]), Features(vectors=vectors), 0)
    assert random.estimates["accuracy"].value > 0.9
    assert apart.value < 0.7


def test_classes_of_one_donor_are_left_out_and_counted() -> None:
    types = typed(200, 4).copy()
    donors = np.array([f"d{i // 50}" for i in range(200)], dtype=object)
    types[:20] = "only in d0"
    case = case_of(cell_type=types, donor=donors)
    assert case.classes == [f"type {i}" for i in range(4)]
    assert case.about["left out"] == {"1 classes of one donor alone": 20}
    assert case.rows.tolist() == list(range(20, 200))


# --- simulated truth


def simulated(strength: float) -> Case:
    adata = simulate(
        real_genes(150)[0], cells=360, types=4, donors=3, type_strength=strength, seed=2
    )
    [case] = load(data_of(adata.obs, adata.X.toarray()), [], OPTIONS)
    return case


@pytest.fixture(scope="module")
def strong() -> dict[str, Any]:
    case = simulated(1.5)
    return {m.name: score(case, m.predict(), 0) for m in baselines(case) if "scVI" not in m.name}


def test_baselines_find_types_that_are_there(strong: dict[str, Any]) -> None:
    assert set(strong) == set(celltype.BASELINES)
    for found in strong.values():
        assert found.estimates["macro_f1"].value > 0.9
        for estimate in found.estimates.values():
            assert estimate.low <= estimate.value <= estimate.high


def test_more_shots_help(strong: dict[str, Any]) -> None:
    curve = strong[celltype.PCA_LR].curves["Few-shot"]
    assert curve.x == [1, 5, 10, 50]
    assert curve.log_x
    assert curve.y[-1] > curve.y[0] + 0.05
    assert all(late > early - 0.05 for early, late in zip(curve.y, curve.y[1:], strict=False))


def test_the_forest_has_neither_neighbours_nor_few_shot(strong: dict[str, Any]) -> None:
    assert set(strong[celltype.PCA_FOREST].estimates) == {"macro_f1", "accuracy"}
    assert not strong[celltype.PCA_FOREST].curves


def test_baselines_find_no_types_where_there_are_none() -> None:
    case = simulated(0.0)
    assert case.groups is not None
    share = np.bincount(case.truth).max() / len(case.truth)
    slack = 4 * np.sqrt(0.25 * 0.75 / len(case.truth))
    for method in baselines(case):
        if "scVI" in method.name:
            continue
        found = score(case, method.predict(), 0)
        for name in set(celltype.HEADLINES) & set(found.estimates):
            assert found.estimates[name].value < 0.25 + slack
        assert found.estimates["accuracy"].value < max(share, 0.25) + slack
        for curve in found.curves.values():
            assert max(curve.y) < 0.25 + slack


def test_few_shots_of_noise_stay_at_chance() -> None:
    case = case_of(cell_type=typed(400, 4))
    vectors = np.random.default_rng(8).normal(size=(400, 20))
    curve = score(case, Features(vectors=vectors), 0).curves["Few-shot"]
    assert all(abs(y - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400) for y in curve.y)


def test_intervals_by_donor_are_wider_where_donors_differ() -> None:
    """Half of the donors can be read and half cannot: cells are not what varies."""
    donor = np.arange(600) // 50
    types = typed(600, 2)
    truth = np.arange(600) % 2
    vectors = noisy(truth, 6, 2.0) * np.where(donor % 2 == 0, 1.0, 0.0)[:, None]
    by_donor = case_of(cell_type=types, donor=donor.astype(str))
    assert by_donor.about["intervals resample"] == "donor"
    wide = score(by_donor, Features(vectors=vectors), 0).estimates["accuracy"]
    narrow = score(case_of(cell_type=types), Features(vectors=vectors), 0).estimates["accuracy"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert narrow.high - narrow.low > 0.04


def test_scores_depend_on_the_seed_alone() -> None:
    case = case_of(cell_type=typed(100, 2))
    prediction = Features(vectors=noisy(case.truth, 8, 0.5))
    first = score(case, prediction, 1)
    assert score(case, prediction, 1) == first
    assert score(case, prediction, 2) != first


# --- labels


@pytest.mark.parametrize("missing", [np.nan, None, "", "Unknown", " unassigned ", "NA"])
def test_cells_without_a_label_take_no_part(missing: object) -> None:
    labels = typed(120, 3).copy()
    labels[::10] = missing
    case = case_of(cell_type=labels)
    assert case.classes == ["type 0", "type 1", "type 2"]
    assert case.about["left out"] == {"no label": 12}
    assert not np.isin(case.rows, np.arange(0, 120, 10)).any()
    assert (np.array(case.classes)[case.truth] == labels[case.rows]).all()


def test_categories_with_nan_are_read() -> None:
    labels = pd.Categorical(np.where(np.arange(90) % 9 == 0, None, typed(90, 2)))
    assert case_of(cell_type=labels).about["left out"] == {"no label": 10}


def test_classes_of_nine_cells_are_left_out_and_of_ten_are_not() -> None:
    labels = np.array(["a"] * 40 + ["ten"] * 10 + ["nine"] * 9 + ["one"], dtype=object)
    case = case_of(cell_type=labels)
    assert case.classes == ["a", "ten"]
    assert case.about["left out"] == {"2 classes of fewer than 10 cells": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(case, Features(vectors=noisy(case.truth, 4, 1.0)), 0)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            {"celltype": typed(60, 2), "louvain": typed(60, 3)},
            "made up: obs has no column 'cell_type' (--label); near it: celltype",
        ),
        (
            {"cell_type": np.full(60, "B")},
            "made up: all labelled cells are 'B' (cell_type), and one class cannot be told from "
            "others; name another column with --label",
        ),
        (
            {"cell_type": [None] * 60},
            "made up: no cell has a label in 'cell_type'; name another column with --label",
        ),
        (
            {"cell_type": [f"c{i}" for i in range(60)]},
            "made up: cell_type has 60 classes, but fewer than two of them have 10 cells (the "
            "largest has 1); name another column with --label, or look at "
            "more cells with --max-cells",
        ),
    ],
)
def test_unfit_labels_are_refused_in_a_line(columns: dict[str, Any], line: str) -> None:
    with pytest.raises(UnfitError) as caught:
        case_of(**columns)
    assert str(caught.value) == line


def test_a_corpus_and_unfit_groups_are_refused() -> None:
    with pytest.raises(UnfitError, match=r"^store: a corpus has no cell types; give a file"):
        load(Data(name="store", path=Path("store")), [], OPTIONS)
    with pytest.raises(InputError, match=r"^made up: obs has no column 'mouse' \(--group\)"):
        case_of(EvaluateOptions(group="mouse"), cell_type=typed(60, 2))
    with pytest.raises(InputError, match=r"^made up: fewer than two classes occur in two or more"):
        case_of(EvaluateOptions(group="plate"), cell_type=typed(60, 2), plate=typed(60, 2))


# --- models


def test_a_model_and_its_twin_answer_for_the_labelled_cells(tmp_path: Path) -> None:
    models = read_models([save_model(tmp_path / "tiny")], EvaluateOptions(device="cpu"))
    labels = typed(40, 2).copy()
    labels[5:9] = np.nan
    data = data_of(pd.DataFrame({"cell_type": labels}), some_counts(40))
    [case] = load(data, models, OPTIONS)
    rows = [method for model in case.models for method in methods(case, model)]
    assert [(row.name, row.kind) for row in rows] == [
        ("tiny", "model"), ("tiny, random weights", "random"),
    ]  # fmt: skip
    assert data.cells is not None
    for model, row in zip(models, rows, strict=True):
        assert row.model is model
        expected = np.delete(model.vectors(data.cells), np.arange(5, 9), axis=0)
        np.testing.assert_array_equal(row.predict().vectors, expected)
    assert case.provenance.names == {"made up"}
