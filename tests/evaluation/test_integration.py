"""Zero-shot integration: what is refused and left out, and figures that tell truth from none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.simulate import simulate
from support.tiny import N_GENES, WIDTH, every_gene, real_genes, save_model

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Data, read_cells
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.stats import features, metrics
from cellscribe.evaluation.tasks import integration

GENES = every_gene()[0][:300]
BIO = ["avg_bio", "nmi", "ari", "label_asw"]
BATCH = ["ilisi", "kbet", "graph_connectivity", "pcr", "bras"]
OPTIONS = EvaluateOptions(bootstrap=40)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Keep scib-metrics, where it is installed, to the test that is about it: it compiles long."""
    monkeypatch.setattr(integration, "_reference_is_here", lambda: False)


def data_of(adata, options=OPTIONS):
    return Data(
        name="cells", path=Path("cells.h5ad"), cells=read_cells(adata, options, name="cells")
    )


def case_of(adata, **options):
    options = EvaluateOptions(bootstrap=40, **options)
    (case,) = integration.load(data_of(adata, options), [], options)
    return case


def scored(case, name=integration.PCA, seed=0):
    (method,) = [each for each in integration.baselines(case) if each.name == name]
    return integration.score(case, method.predict(), seed)


def values(scores):
    return {name: estimate.value for name, estimate in scores.estimates.items()}


@pytest.fixture(scope="module")
def typed():
    return simulate(GENES, cells=400, batches=2)


@pytest.fixture(scope="module")
def case(typed):
    return case_of(typed)


@pytest.fixture(scope="module")
def prediction(case):
    return features.pca(case.cells.counts)


def test_types_are_told_from_none(case, prediction):
    none = values(scored(case_of(simulate(GENES, cells=400, batches=2, type_strength=0.0))))
    strong = values(integration.score(case, prediction, 0))
    assert list(strong) == BIO + BATCH == list(integration.METRICS)
    assert strong["avg_bio"] > 0.8
    assert none["avg_bio"] < 0.25
    assert strong["avg_bio"] == pytest.approx(np.mean([strong[name] for name in BIO[1:]]))


def test_batches_are_told_from_none(case, prediction):
    mixed = values(integration.score(case, prediction, 0))
    strong = simulate(GENES, cells=400, batches=2, batch_strength=1.5)
    apart = values(scored(case_of(strong)))
    for name in ("ilisi", "kbet", "bras"):
        assert apart[name] + 0.15 < mixed[name]
    assert mixed["pcr"] < 0.02 < 0.1 < apart["pcr"]


def test_both_baselines_are_there_and_read_the_cells_of_the_case(typed):
    adata = typed.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).replace("type 3", np.nan)
    case = case_of(adata)
    made = {each.name: each for each in integration.baselines(case)}
    assert set(integration.BASELINES) <= set(made)
    assert {each.kind for each in made.values()} == {"baseline"}
    known = typed.X[adata.obs["cell_type"].notna().to_numpy()]
    np.testing.assert_allclose(made[integration.HVG].predict(), features.hvg(known))
    assert made[integration.PCA].predict().shape == (300, 50)


def test_same_seed_same_scores_and_intervals_hold_the_figures():
    # Weak types and batches, so that no figure is at its bound.
    case = case_of(simulate(GENES, cells=400, batches=2, type_strength=0.2, batch_strength=0.3))
    prediction = features.pca(case.cells.counts)
    first, second = (integration.score(case, prediction, 5) for _ in range(2))
    assert first == second
    for name, each in first.estimates.items():
        assert 0 <= each.low < each.high <= 1, name
        assert each.low - 0.05 <= each.value <= each.high + 0.05, name


def test_interval_of_the_silhouette_is_that_of_a_mean():
    case = case_of(simulate(GENES, cells=400, type_strength=0.3))
    prediction = features.pca(case.cells.counts)
    found = integration.score(case, prediction, 0).estimates["label_asw"]
    _, labels = np.unique(case.labels, return_inverse=True)
    each = metrics.label_silhouettes(metrics.distances(prediction), labels)
    error = each.std() / np.sqrt(len(each))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.35)


def test_no_more_than_so_many_cells_are_scored(case, prediction, monkeypatch):
    monkeypatch.setattr(integration, "MOST", 150)
    rows = np.sort(np.random.default_rng(2).permutation(400)[:150])
    found = integration.score(case, prediction, 2)
    expected = metrics.explained_by_batch(
        prediction[rows], np.unique(case.batches[rows], return_inverse=True)[1]
    )
    assert found.estimates["pcr"].value == pytest.approx(expected)
    assert values(found) != values(integration.score(case, prediction, 3))


def test_silhouettes_of_labels_are_broken_down(case, prediction):
    scores = integration.score(case, prediction, 0)
    row = scores.breakdowns[integration.BY_LABEL]
    assert set(row) == {f"type {number}" for number in range(4)}
    # As many cells of each.
    assert np.mean(list(row.values())) == pytest.approx(scores.estimates["label_asw"].value)


def test_without_batches_their_figures_are_left_out(typed):
    adata = typed.copy()
    adata.obs = adata.obs[["cell_type"]]
    case = case_of(adata)
    assert list(scored(case).estimates) == BIO
    assert "left out" in case.about["batch column"]
    assert integration.HARMONY not in [each.name for each in integration.baselines(case)]


def test_batches_of_one_label_each_say_nothing_of_mixing_within_labels(typed):
    adata = typed.copy()
    adata.obs["batch"] = adata.obs["cell_type"].astype(str)
    case = case_of(adata)
    assert case.about["labels in two batches or more"] == 0
    assert list(scored(case).estimates) == [*BIO, "ilisi", "graph_connectivity", "pcr"]


def test_batches_are_found_by_name_and_fitness(typed):
    adata = typed.copy()
    n = adata.n_obs
    adata.obs["batch"] = "all"
    adata.obs["donor"] = [f"donor of cell {number}" for number in range(n)]
    adata.obs["sample"] = np.where(np.arange(n) < n / 2, "a", None)
    adata.obs["plate"] = ["p", "q"] * (n // 2)
    adata.obs["chip"] = ["r", "s", "t", "u"] * (n // 4)
    assert case_of(adata).about["batch column"] == "plate"
    named = case_of(adata, batch="chip")
    assert named.about["batches"] == 4
    assert named.identity != case_of(adata).identity
    # A column of labels is none of batches.
    adata.obs["donor"] = adata.obs["cell_type"]
    assert case_of(adata, label="donor").about["batch column"] == "plate"


def test_cells_without_label_or_batch_and_small_groups_are_left_out(typed):
    adata = typed.copy()
    types = adata.obs["cell_type"].astype(object).to_numpy()
    types[:6] = ["", "Unassigned", "unknown", "nan", np.nan, None]
    types[6:10] = "rare"
    adata.obs["cell_type"] = types
    batches = adata.obs["batch"].astype(object).to_numpy()
    batches[10:15] = [None, np.nan, "tiny", "tiny", ""]
    adata.obs["batch"] = batches
    case = case_of(adata)
    assert case.rows.tolist() == list(range(15, 400))
    assert sorted(case.about["left out"].values()) == [4, 5, 6]
    assert case.about["labels"] == 4
    assert (case.labels == types[15:]).all()
    assert (case.batches == batches[15:]).all()


def test_identity_knows_labels_and_batches(typed):
    case = case_of(typed)
    assert case_of(typed.copy()).identity == case.identity
    for column in ("cell_type", "batch"):
        adata = typed.copy()
        adata.obs[column] = adata.obs[column].to_numpy()[::-1]
        assert case_of(adata).identity != case.identity


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"label": "type"}, UnfitError, "--label"),
        ({"cell_type": "T"}, {}, UnfitError, "only 'T'"),
        ({"cell_type": np.nan}, {}, UnfitError, "has none"),
        ({"cell_type": np.arange(400)}, {}, UnfitError, "two labels of 10 cells"),
        ({}, {"batch": "chip"}, InputError, "--batch"),
        ({"chip": "one"}, {"batch": "chip"}, InputError, "chip has 1"),
        ({"chip": np.arange(400)}, {"batch": "chip"}, InputError, "chip has 0"),
    ],
)
def test_data_that_do_not_do_are_refused_in_a_line(typed, change, options, error, words):
    adata = typed.copy()
    for name, value in change.items():
        adata.obs[name] = value
    with pytest.raises(error, match=words) as found:
        case_of(adata, **options)
    assert "\n" not in str(found.value)


def test_batches_that_only_rare_labels_have_are_refused(typed):
    adata = typed.copy()
    adata.obs["cell_type"] = np.where(np.arange(400) % 2, "T", "B").astype(object)
    adata.obs.loc[adata.obs_names[:12], "cell_type"] = [f"rare {number}" for number in range(12)]
    adata.obs["chip"] = np.where(np.arange(400) < 12, "first", "second")
    with pytest.raises(InputError, match="all cells of labels that count are of one chip"):
        case_of(adata, batch="chip")


def test_a_corpus_is_passed_over():
    with pytest.raises(UnfitError, match="corpus"):
        integration.load(Data(name="c", path=Path("c")), [], OPTIONS)


def test_vectors_of_no_numbers_are_refused(case, prediction):
    prediction = prediction.copy()
    prediction[3, 0] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        integration.score(case, prediction, 0)


def test_vectors_that_are_all_one_score_nothing(case):
    found = values(integration.score(case, np.ones((400, 8), np.float32), 0))
    assert found["nmi"] == found["ari"] == 0
    assert found["label_asw"] == 0.5
    assert "pcr" not in found


def test_models_embed_all_cells_and_return_those_of_the_case(tmp_path):
    save_model(tmp_path / "model")
    adata = simulate(real_genes(N_GENES)[0], cells=120)
    types = adata.obs["cell_type"].astype(object).to_numpy()
    types[::10] = np.nan
    adata.obs["cell_type"] = types
    options = EvaluateOptions(bootstrap=20, device="cpu", threads=1)
    models = read_models([tmp_path / "model"], options, tmp_path / "vectors")
    (case,) = integration.load(data_of(adata, options), models, options)
    methods = [method for model in models for method in integration.methods(case, model)]
    assert [method.kind for method in methods] == ["model", "random"]
    for method in methods:
        vectors = method.predict()
        assert vectors.shape == (108, WIDTH)
        np.testing.assert_array_equal(vectors, method.model.vectors(case.whole)[pd.notna(types)])
        assert list(integration.score(case, vectors, 0).estimates) == BIO
    assert case.provenance.names == {"cells"}


@pytest.mark.filterwarnings("default")
def test_scib_metrics_stands_beside_our_figures(monkeypatch):
    pytest.importorskip("scib_metrics")
    monkeypatch.undo()
    adata = simulate(GENES, cells=400, batches=2, batch_strength=0.5)
    case = case_of(adata)
    scores = scored(case)
    reference = scores.breakdowns[integration.BY_REFERENCE]
    own = {integration.METRICS[name].title.lower(): each for name, each in values(scores).items()}
    for name in ("iLISI", "graph connectivity", "PCR"):
        assert reference[name] == pytest.approx(own[name.lower()], abs=1e-4)
    assert reference["kBET, all cells"] == pytest.approx(own["kbet"], abs=0.3)
    assert case.identity["scib-metrics"]


@pytest.mark.filterwarnings("default")
def test_harmony_mixes_batches_that_principal_components_keep_apart():
    pytest.importorskip("harmonypy")
    case = case_of(simulate(GENES, cells=400, batches=2, batch_strength=1.0))
    before, after = values(scored(case)), values(scored(case, integration.HARMONY))
    assert after["ilisi"] > before["ilisi"] + 0.3
    assert after["kbet"] > before["kbet"] + 0.3
    assert after["pcr"] < before["pcr"]


@pytest.mark.filterwarnings("default")
def test_scvi_is_asked_where_it_is_installed(monkeypatch):
    pytest.importorskip("scvi")
    monkeypatch.setattr(features, "SCVI_EPOCHS", 2)
    case = case_of(simulate(GENES, cells=100, batches=2))
    (method,) = [each for each in integration.baselines(case) if each.name == integration.SCVI]
    assert method.predict().shape == (100, 10)
