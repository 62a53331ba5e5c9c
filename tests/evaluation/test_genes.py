"""The task genes: lists read or refused, the same genes for all, probes that find what is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score, roc_auc_score
from support.tiny import real_genes

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Data, read_cells
from cellscribe.evaluation.models import Model, read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks import genes
from cellscribe.evaluation.tasks.gene_probe import (
    area,
    average_precision,
    coexpression,
    expression_features,
    probe_genes,
    roc,
)

N_CELLS, N = 60, 120
OPTIONS = EvaluateOptions(bootstrap=40, seeds=1, threads=1)
MODULES, LEVELS = "module", "level"


def two_modules() -> np.ndarray:
    """``[cells, genes]``: even genes rise where odd ones fall; the last 60 are highly expressed."""
    rng = np.random.default_rng(0)
    swing = np.exp(np.outer(rng.normal(size=N_CELLS), np.where(np.arange(N) % 2, 1, -1)))
    level = np.where(np.arange(N) < 60, 0.5, 4.0)
    return rng.poisson(swing * level).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> Data:
    ids, symbols = real_genes(N)
    cells = ad.AnnData(
        csr_matrix(two_modules()),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame({"symbol": symbols}, index=ids),
    )
    return Data(name="made", path=Path("made"), cells=read_cells(cells, OPTIONS, name="made"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Model]:
    return read_models([tiny_model], OPTIONS, tmp_path_factory.mktemp("cache"))


def gene_list(folder: Path, labels: list[str], *, n: int = N, sep: str = ",") -> Path:
    """Every other gene by its symbol, the others by Ensembl id."""
    ids, symbols = real_genes(n)
    rows = [
        f"{symbol if i % 4 < 2 else name}{sep}{label}"
        for i, (name, symbol, label) in enumerate(zip(ids, symbols, labels, strict=True))
    ]
    path = folder / "list.csv"
    path.write_text("\n".join([f"gene{sep}label", *rows]) + "\n")
    return path


def labels_by(what: str) -> list[str]:
    return [
        ("up" if i % 2 else "down") if what == MODULES else ("low" if i < 60 else "high")
        for i in range(N)
    ]


def case_of(data: Data, models: list[Model], path: Path) -> genes.Case:
    (case,) = genes.load(data, models, replace(OPTIONS, gene_list=path))
    return case


@pytest.mark.parametrize("sep", [",", "\t"])
def test_a_list_of_ids_and_symbols_is_read(tmp_path: Path, sep: str) -> None:
    from cellscribe.corpus.build.gene_space import all_genes

    ids, _ = real_genes(N)
    found = genes.read_gene_list(gene_list(tmp_path, labels_by(MODULES), sep=sep))
    table = all_genes()
    assert {table.ids[k]: v for k, v in found.items()} == dict(
        zip(ids, labels_by(MODULES), strict=True)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "columns gene and label, comma or tab between; it has nothing"),
        ("gene,class\nTP53,a\n", "it has gene, class"),
        ("gene,label\nTP53,a\nMYC,a\n", "one class (a)"),
        ("gene,label\nTP53,a\nMYC,b\nTP53,b\n", "TP53 has two labels, a and b"),
        ("gene,label\nTP53,a\nENSG00000141510,b\n", "ENSG00000141510 has two labels"),
        ("gene,label\nTP53,a\nMYC,\n", "row 3 has no label"),
        ("gene,label\nxx1,a\nxx2,b\n", "few of its genes are known (xx1, xx2)"),
        ("gene,label\nTP53,a,b,c\nMYC,b\n", "row 2 has 4 fields, not 2"),
        ("gene,label\nTP53,a\nMYC\n", "row 3 has 1 fields, not 2"),
    ],
)
def test_bad_lists_are_refused_in_a_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        genes.read_gene_list(path)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_list_no_file_and_too_few_genes(tmp_path: Path, data: Data, models: list[Model]) -> None:
    with pytest.raises(UnfitError, match="--gene-list"):
        genes.load(data, models, OPTIONS)
    with pytest.raises(InputError, match="no such file"):
        case_of(data, models, tmp_path / "none.csv")
    few = ["a"] * 9 + ["b"] * (N - 9)
    with pytest.raises(InputError, match="9 genes of class a") as refusal:
        case_of(data, models, gene_list(tmp_path, few))
    assert not isinstance(refusal.value, UnfitError)
    with pytest.raises(UnfitError, match="corpus"):
        genes.load(
            Data(name="c", path=tmp_path), models, replace(OPTIONS, gene_list=tmp_path / "x")
        )


def test_all_methods_are_scored_on_genes_that_all_know(
    tmp_path: Path, data: Data, models: list[Model]
) -> None:
    """Genes that under three cells show are no one's; rows are the genes that `ids` names."""
    assert data.cells is not None
    dense = data.cells.counts.toarray()
    dense[:, 4] = 0
    dense[2:, 5] = 0
    cells = replace(data.cells, counts=csr_matrix(dense))
    case = case_of(replace(data, cells=cells), models, gene_list(tmp_path, labels_by(MODULES)))
    ids, _ = real_genes(N)
    shown = {name for name, n in zip(ids, (dense > 0).sum(axis=0), strict=True) if n >= 3}
    known = {
        models[0].header.table.ids[token] for token in models[0].gene_vectors(case.cells).tokens
    }
    # the context of 48 genes leaves out what no cell ranks high
    assert set(case.ids) == shown & known
    assert case.about["genes of the list left out"] == N - len(case.ids)
    assert sum(case.about["genes"].values()) == len(case.ids)
    methods = [*(m for model in models for m in genes.methods(case, model))]
    methods += genes.baselines(case)
    assert [method.kind for method in methods] == ["model", "random", "baseline", "baseline"]
    assert tuple(method.name for method in methods[2:]) == genes.BASELINES
    predictions = [method.predict() for method in methods]
    assert {len(prediction) for prediction in predictions} == {len(case.ids)}
    # by hand: the mean counts per 10,000 of each gene of the case
    share = dense / dense.sum(axis=1, keepdims=True) * 1e4
    rows = [ids.index(name) for name in case.ids]
    np.testing.assert_allclose(predictions[2][:, 0], np.log(share.mean(axis=0)[rows]))
    # and the model's own vectors, gene by gene
    found = models[0].gene_vectors(case.cells)
    token_of = models[0].header.table.token_of
    for name, vector in zip(case.ids, predictions[0], strict=True):
        (at,) = np.flatnonzero(found.tokens == token_of[name])
        np.testing.assert_array_equal(vector, found.vectors[at])


def test_probes_find_what_is_planted_and_nothing_else(
    tmp_path: Path, data: Data, models: list[Model]
) -> None:
    """Co-expression tells modules, the level of expression tells levels, and not the other way."""
    auc = {}
    for what in (MODULES, LEVELS):
        case = case_of(data, models, gene_list(tmp_path, labels_by(what)))
        for method in genes.baselines(case):
            auc[what, method.name] = genes.score(case, method.predict(), 0).estimates["auc"]
    assert auc[MODULES, genes.COEXPRESSION].low > 0.95
    assert auc[LEVELS, genes.EXPRESSION].low > 0.95
    assert auc[MODULES, genes.EXPRESSION].value < 0.7


def test_scores_of_shuffled_labels_are_chance(
    tmp_path: Path, data: Data, models: list[Model]
) -> None:
    labels = np.random.default_rng(1).permutation(labels_by(MODULES)).tolist()
    case = case_of(data, models, gene_list(tmp_path, labels))
    prediction = genes.baselines(case)[1].predict()
    found = [genes.score(case, prediction, seed).estimates["auc"] for seed in range(4)]
    assert 0.35 < np.mean([each.value for each in found]) < 0.65
    assert all(each.low < 0.6 and each.high > 0.4 for each in found)


def test_a_score_depends_on_the_seed_alone_and_tells_its_folds(
    tmp_path: Path, data: Data, models: list[Model]
) -> None:
    case = case_of(data, models, gene_list(tmp_path, labels_by(LEVELS)))
    prediction = np.random.default_rng(2).normal(size=(len(case.ids), 4))
    prediction[:, 0] += case.truth
    first = genes.score(case, prediction, 3)
    assert first == genes.score(case, prediction, 3)
    assert first != genes.score(case, prediction, 4)
    folds = first.breakdowns["AUC over folds"]
    assert folds["mean"] == pytest.approx(first.estimates["auc"].value, abs=0.03)
    assert 0 < folds["standard deviation"] < 0.2
    curve = first.curves["ROC curve"]
    # trapezoids under the curve
    under = np.trapezoid(curve.y, curve.x)
    assert under == pytest.approx(first.estimates["auc"].value, abs=0.01)
    assert set(first.estimates) == set(genes.METRICS)


def test_three_classes(tmp_path: Path, data: Data, models: list[Model]) -> None:
    labels = [("low", "middle", "high")[min(i // 40, 2)] for i in range(N)]
    case = case_of(data, models, gene_list(tmp_path, labels))
    prediction = np.eye(3)[case.truth] + np.random.default_rng(3).normal(size=(len(labels), 3)) / 9
    scores = genes.score(case, prediction, 0)
    assert scores.estimates["auc"].value == 1.0
    assert scores.estimates["average_precision"].value == 1.0
    assert scores.curves == {}


def test_identity_follows_labels_and_cells(tmp_path: Path, data: Data, models: list[Model]) -> None:
    one = case_of(data, models, gene_list(tmp_path, labels_by(LEVELS))).identity
    assert one == case_of(data, models, gene_list(tmp_path, labels_by(LEVELS), sep="\t")).identity
    assert one != case_of(data, models, gene_list(tmp_path, labels_by(MODULES))).identity


@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(70) < 0.3
    scores = np.round(rng.normal(size=70) + positive, seed)  # seed 0 and 1: many ties
    assert area(positive, scores) == pytest.approx(roc_auc_score(positive, scores))
    expected = average_precision_score(positive, scores)
    assert average_precision(positive, scores) == pytest.approx(expected)
    x, y = roc(positive, scores)
    assert (x[0], y[0], x[-1], y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()


def test_areas_without_a_class_are_not_numbers() -> None:
    nobody = np.zeros(5, dtype=bool)
    assert np.isnan(area(nobody, np.arange(5.0)))
    assert np.isnan(area(~nobody, np.arange(5.0)))
    assert np.isnan(average_precision(nobody, np.arange(5.0)))


def test_no_gene_is_scored_by_a_probe_that_saw_it() -> None:
    """With more features than genes a probe knows all that it has seen, and nothing of the rest."""
    rng = np.random.default_rng(5)
    truth = np.arange(200) % 2
    ranks, fold = probe_genes(rng.normal(size=(200, 300)), truth, 2, seed=0)
    assert abs(roc_auc_score(truth, ranks[:, 1]) - 0.5) < 4 * np.sqrt(1 / 12 / 100 * 2)
    assert np.bincount(fold).tolist() == [40] * 5
    assert all(truth[fold == k].sum() == 20 for k in range(5))
    np.testing.assert_allclose(ranks.sum(axis=1), 1)


def test_features_of_expression_by_hand() -> None:
    dense = np.array([[0.0, 4.0], [2.0, 4.0], [0.0, 1.0], [6.0, 0.0]])
    found = expression_features(csr_matrix(dense))
    expected = [[np.log(2), 0.5, np.log(4)], [np.log(2.25), 0.75, np.log(3)]]
    np.testing.assert_allclose(found, expected)


def test_coexpression_keeps_the_distances_of_genes() -> None:
    """With as many components as cells nothing is lost: distances are of standardised logs."""
    rng = np.random.default_rng(6)
    dense = rng.gamma(1, 2, (30, 80))
    logs = np.log1p(dense).T
    logs = (logs - logs.mean(axis=1, keepdims=True)) / logs.std(axis=1, keepdims=True)
    found = coexpression(csr_matrix(dense))
    assert found.shape == (80, 30)
    expected = np.linalg.norm(logs[:, None] - logs[None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(found[:, None] - found[None], axis=2), expected, atol=1e-6
    )
