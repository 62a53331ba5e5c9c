"""Cells of known types get their labels back, and cells of a type that nobody taught do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.tiny import WIDTH, save_model
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.annotation.calls import caller_of_reference
from cellscribe.annotation.domain import domain_of
from cellscribe.annotation.labels import Labelled
from cellscribe.annotation.neighbors import search_cells, vote
from cellscribe.annotation.reference import fit_reference
from cellscribe.errors import InputError
from cellscribe.model.heads import UNKNOWN, load_head

pytestmark = pytest.mark.usefixtures("one_thread")
FLAT = {"device": "cpu", "precision": "float32", "threads": 1}
COLUMNS = [f"cellscribe_{name}" for name in ("label", "probability", "best", "second", "distance")]


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head for three types, the fourth withheld."""
    out = tmp_path_factory.mktemp("tuned") / "ft"
    words: dict[str, Any] = {"label": "cell_type", "group": "donor", "accuracy": 0.9}
    cellscribe.finetune(tiny_model, typed_cells(360), out, log=quiet, **words, **FLAT)
    return out


def test_labels_come_back(tuned: Path) -> None:
    query = typed_cells(150, seed=1)
    assert cellscribe.annotate(query, model=tuned, log=quiet, **FLAT) is None
    found, head = query.obs, load_head(tuned)
    called = found["cellscribe_label"] != UNKNOWN
    assert (called == (found["cellscribe_probability"] >= head.threshold)).all()
    assert (found["cellscribe_label"][called] == found["cellscribe_best"][called]).all()
    assert called.mean() > 0.5
    assert (found["cellscribe_best"] == query.obs["cell_type"])[called].mean() >= 0.85
    assert query.uns["cellscribe"]["annotation"]["model_hash"] == cellscribe.load(tuned).hash


def test_probabilities_are_those_of_the_head_on_what_embed_gives(tuned: Path) -> None:
    query = typed_cells(40, seed=2)
    table = cellscribe.annotate(query, model=tuned, copy=True, log=quiet, **FLAT).obs
    vectors = cellscribe.load(tuned, **FLAT).embed(query)
    head = load_head(tuned)
    domain = domain_of(head.tensors, 3, WIDTH)
    assert domain is not None
    distance, _ = domain.distance(domain.standardise(vectors))
    known = domain.known_type(distance)
    each = head.probabilities(vectors)
    np.testing.assert_allclose(table["cellscribe_probability"], each.max(1) * known, atol=1e-5)
    np.testing.assert_allclose(table["cellscribe_distance"], distance / domain.limit, rtol=1e-4)
    assert list(table["cellscribe_second"]) == [head.labels[c] for c in each.argsort(1)[:, -2]]
    assert "cellscribe_label" not in query.obs


def test_a_tuned_model_is_a_model_like_any_other(tuned: Path, tiny_model: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from cellscribe.model.checkpoint import load_checkpoint

    names = ["README.md", "SHA256SUMS", "config.json", "genes.tsv", "head.json"]
    names += ["head.safetensors", "metrics.json", "report.html"]
    assert sorted(p.name for p in tuned.iterdir()) == sorted([*names, "model.safetensors"])
    # only a head was trained
    assert load_checkpoint(tuned).hash == load_checkpoint(tiny_model).hash
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tuned)
    ours = load_checkpoint(tuned).model.encoder.genes.weight
    assert np.array_equal(theirs.get_input_embeddings().weight.detach(), ours.detach())
    assert cellscribe.info(tuned)["labels"] == ["type 0", "type 1", "type 2"]
    card = (tuned / "README.md").read_text()
    accuracy = load_head(tuned).about["calibration"]["held_out"]["accuracy"]
    assert f"| accuracy of the best label | {accuracy:.3f} |" in card
    assert "| type 0 | 120 |" in card


@pytest.mark.parametrize(("mode", "cell_vector_size"), [("last", 0), ("all", 0), ("last", 24)])
def test_trained_layers_are_saved_as_they_were_measured(
    mode: Any, cell_vector_size: int, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", cell_vector_size=cell_vector_size)
    words: dict[str, Any] = {"mode": mode, "layers": 1, "epochs": 3, "learning_rate": 1e-3}
    said: list[str] = []
    done = cellscribe.finetune(
        model, typed_cells(135), tmp_path / "ft", label="cell_type", group="donor",
        min_cells=5, log=said.append, **words, **FLAT,
    )  # fmt: skip
    about = load_head(tmp_path / "ft").about
    assert about["mode"] == mode
    assert "training stopped by another" in about["calibration"]["held_out_by"]
    assert about["calibration"]["held_out"]["cells"] == 45
    query = typed_cells(60, seed=3)
    cellscribe.annotate(query, model=tmp_path / "ft", log=quiet, **FLAT)
    best = query.obs["cellscribe_best"].to_numpy()
    assert (best == query.obs["cell_type"].to_numpy()).mean() > 0.6
    assert done.epochs == about["epochs"]
    # the head of labels reads the vectors that `embed` gives
    head = load_head(tmp_path / "ft")
    assert head.weight.shape[1] == (cell_vector_size or WIDTH)
    # what it keeps to compare with is measured in the vectors that `embed` gives
    domain = domain_of(head.tensors, 3, head.weight.shape[1])
    assert domain is not None
    assert len(domain.held_out) == 45
    vectors = cellscribe.load(tmp_path / "ft", **FLAT).embed(typed_cells(135))
    np.testing.assert_allclose(domain.mean, vectors.mean(0), rtol=0.02, atol=1e-3)


def test_runs_are_the_same_again(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        cellscribe.finetune(
            tiny_model, typed_cells(90), tmp_path / name, label="cell_type", mode="all", epochs=1,
            log=quiet, **FLAT,
        )  # fmt: skip
    for part in ("head.safetensors", "model.safetensors", "head.json"):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


@pytest.mark.parametrize("group", ["donor", None])
def test_nearest_neighbours_give_labels_back(group: str | None, tiny_model: Path) -> None:
    reference, query = typed_cells(240), typed_cells(90, seed=1)
    said: list[str] = []
    words: dict[str, Any] = {"reference": reference, "label": "cell_type", "group": group}
    words |= {"model": tiny_model, "accuracy": 0.85}
    cellscribe.annotate(query, log=said.append, **words, **FLAT)
    called = query.obs["cellscribe_label"] != UNKNOWN
    right = query.obs["cellscribe_best"].to_numpy() == query.obs["cell_type"].to_numpy()
    assert called.mean() > 0.25
    assert right[called].mean() > 0.75
    assert any("no --group" in line for line in said) == (group is None)


def test_how_a_file_lies_next_to_the_reference_is_said_and_kept(
    tuned: Path, tmp_path: Path
) -> None:
    query = typed_cells(90, seed=1)
    said: list[str] = []
    cellscribe.annotate(query, model=tuned, log=said.append, **FLAT)
    kept = query.uns["cellscribe"]["annotation"]
    assert kept["shift"]["sentence"] in said[0]
    assert kept["shift"]["verdict"] == "inside"
    assert kept["shift"]["cells"] == 90
    assert kept["align"] == "none"
    query.write_h5ad(tmp_path / "kept.h5ad")
    again = ad.read_h5ad(tmp_path / "kept.h5ad").uns["cellscribe"]["annotation"]["shift"]
    assert again["far"] == kept["shift"]["far"]


def test_a_query_of_other_genes_is_told(tiny_model: Path) -> None:
    reference = typed_cells(240)
    query = typed_cells(60, seed=1)[:, :60].copy()
    said: list[str] = []
    words: dict[str, Any] = {"reference": reference, "label": "cell_type", "group": "donor"}
    cellscribe.annotate(query, model=tiny_model, log=said.append, **words, **FLAT)
    assert any("has 60 of the" in line and "genes of the reference" in line for line in said)
    assert query.uns["cellscribe"]["annotation"]["genes_shared"] == 60


def test_probabilities_of_all_labels_are_kept(tuned: Path) -> None:
    query = typed_cells(40, seed=2)
    found = cellscribe.annotate(
        query, model=tuned, probabilities=True, copy=True, log=quiet, **FLAT
    )
    each = found.obsm["cellscribe_probabilities"]
    labels = np.array(found.uns["cellscribe"]["annotation"]["labels"])
    assert each.shape == (40, 3)
    assert (labels[each.argmax(1)] == found.obs["cellscribe_best"].astype(str)).all()
    np.testing.assert_allclose(each.max(1), found.obs["cellscribe_probability"])
    assert (each.sum(1) <= 1 + 1e-6).all()


def test_a_reference_may_be_of_another_species(tiny_model: Path) -> None:
    reference, query = typed_cells(240), typed_cells(60, seed=1)
    words: dict[str, Any] = {"reference": reference, "label": "cell_type", "log": quiet}
    with pytest.raises(InputError, match="mouse"):
        cellscribe.annotate(query, model=tiny_model, reference_species="mouse", **words, **FLAT)
    with pytest.raises(InputError, match="--reference-species is the reference's"):
        cellscribe.AnnotateOptions(reference_species="mouse")


def clusters(n: int, middles: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around some of ten axes, and which."""
    rng = np.random.default_rng(seed)
    kind = np.array(middles)[np.arange(n) % len(middles)]
    return rng.normal(0, 0.3, (n, 10)) + 3 * np.eye(10)[kind], kind


def labelled_clusters(n: int, middles: list[int], donors: int = 4) -> tuple[np.ndarray, Labelled]:
    vectors, kind = clusters(n, middles, 0)
    groups = np.array([f"d{i // len(middles) % donors}" for i in range(n)], dtype=object)
    return vectors, Labelled(
        rows=[np.arange(n)], labels=[f"type {m}" for m in middles],
        truth=np.searchsorted(middles, kind), groups=groups, sources=[], left_out={},
    )  # fmt: skip


@pytest.mark.parametrize("n", [60, 300])
def test_a_type_that_the_reference_lacks_is_unknown(n: int) -> None:
    vectors, labelled = labelled_clusters(n, [0, 1, 2])
    fitted = fit_reference(vectors, labelled, n_neighbors=15, folds=4, accuracy=0.95, seed=0)
    caller = caller_of_reference(fitted)
    known = caller.call(clusters(150, [0, 1, 2], 1)[0])
    assert (known.best == np.arange(150) % 3).all()
    assert known.probability.mean() > 0.9
    assert known.called.mean() > 0.9
    assert (known.distance <= 1).mean() > 0.8
    strange = caller.call(clusters(100, [7], 2)[0])
    assert strange.called.mean() < 0.2
    assert strange.distance.min() > 1
    assert (known.each.sum(1) <= 1 + 1e-9).all()


def test_labels_of_few_cells_are_called() -> None:
    """Fifteen neighbours of a type of eight cells cannot all be of it; a classifier knows it."""
    vectors, kind = clusters(240, [0, 1, 2, 3] * 7 + [4, 5], 0)
    truth = kind.astype(np.int64)
    labelled = Labelled(
        rows=[np.arange(240)], labels=list("abcdef"), truth=truth, groups=None, sources=[],
        left_out={},
    )  # fmt: skip
    assert np.bincount(truth).min() == 8
    fitted = fit_reference(vectors, labelled, n_neighbors=15, folds=5, accuracy=0.9, seed=0)
    new, _ = clusters(60, [4, 5], 3)
    found = caller_of_reference(fitted).call(new)
    assert (found.best == 4 + np.arange(60) % 2).all()
    assert found.called.mean() > 0.8


def test_votes_are_weighted_by_inverse_distance() -> None:
    """Against scikit-learn's classifier, but for the one vote that is spread over all labels."""
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    vectors, truth = rng.normal(size=(80, 5)), rng.integers(0, 3, 80)
    theirs = KNeighborsClassifier(7, weights="distance", metric="cosine").fit(vectors, truth)
    query = rng.normal(size=(30, 5))
    spread = np.bincount(truth) / 80
    expected = (7 * theirs.predict_proba(query) + spread) / 8
    np.testing.assert_allclose(vote(search_cells(vectors, 7), truth, 3, query), expected)


def test_contradictions_are_counted() -> None:
    vectors, labelled = labelled_clusters(300, [0, 1, 2])
    truth = labelled.truth.copy()
    swapped = np.flatnonzero(truth == 0)[:30]
    truth[swapped] = 1
    given = Labelled(
        rows=labelled.rows, labels=labelled.labels, truth=truth, groups=labelled.groups,
        sources=[], left_out={},
    )  # fmt: skip
    fitted = fit_reference(vectors, given, n_neighbors=15, folds=4, accuracy=0.9, seed=0)
    found = fitted.contradictions
    assert found.share == pytest.approx(0.1, abs=0.02)
    assert found.pairs[0][:2] == ("type 1", "type 0")
    assert found.pairs[0][2] == pytest.approx(30, abs=3)
    assert f"'type 1' among 'type 0' ({found.pairs[0][2]})" in found.sentence()


@pytest.mark.parametrize("form", [".csv", ".parquet", ".h5ad"])
def test_files_hold_what_python_gives(form: str, tuned: Path, tmp_path: Path) -> None:
    adata = typed_cells(50, seed=4)
    adata.X = csr_matrix(adata.X.toarray() * (np.arange(50) != 7)[:, None])
    adata.obs["cellscribe_label"] = "old"
    source, out = saved(tmp_path / "in.h5ad", adata), tmp_path / f"out{form}"
    expected = cellscribe.annotate(source, model=tuned, log=quiet, **FLAT)
    options = cellscribe.AnnotateOptions(model=str(tuned), probabilities=True, **FLAT)
    done = cellscribe.annotate_file(source, out, options, log=quiet)
    assert done.n_empty == 1
    assert sum(done.counts().values()) == 50
    if form == ".h5ad":
        written = ad.read_h5ad(out)
        assert (written.X != adata.X).nnz == 0
        assert list(written.obs) == ["cell_type", "donor", *COLUMNS]
        assert written.uns["cellscribe"]["annotation"]["by"] == "head"
        table = written.obs[COLUMNS].rename(columns=lambda name: name.split("_")[1])
        each = written.obsm["cellscribe_probabilities"]
        names = list(written.uns["cellscribe"]["annotation"]["labels"])
    else:
        read = pd.read_csv if form == ".csv" else pd.read_parquet
        table = read(out).set_index("cell_id")
        names = [f"type {number}" for number in range(3)]
        each = table[[f"probability of {name}" for name in names]].to_numpy()
        table = table[["label", "probability", "best", "second", "distance"]]
        assert out.with_name(f"{out.name}.json").exists()
    assert list(table.index) == list(adata.obs_names)
    assert names == ["type 0", "type 1", "type 2"]
    np.testing.assert_allclose(each.max(1), table["probability"], rtol=1e-4)
    filled = np.arange(50) != 7
    best = [names[c] for c in each[filled].argmax(1)]
    assert list(table["best"].astype(str)[filled]) == best
    for name in ("label", "best", "second"):
        assert list(table[name].astype(str)) == list(expected[name].astype(str))
    np.testing.assert_allclose(table["probability"], expected["probability"], rtol=1e-5)
    assert tuple(table.iloc[7])[:4] == (UNKNOWN, 0.0, UNKNOWN, UNKNOWN)
    assert np.isnan(table.iloc[7]["distance"])


def test_an_input_of_another_form_becomes_an_h5ad(tuned: Path, tmp_path: Path) -> None:
    adata = typed_cells(30, seed=5)
    options = cellscribe.AnnotateOptions(model=str(tuned), **FLAT)
    cellscribe.annotate_file(adata, tmp_path / "out.h5ad", options, log=quiet)
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(written.obs) == ["cell_type", "donor", *COLUMNS]
    assert (written.X != adata.X).nnz == 0


def test_blocks_do_not_matter(tuned: Path, small_blocks: None) -> None:
    query = typed_cells(50, seed=6)
    here = cellscribe.annotate(query, model=tuned, copy=True, log=quiet, **FLAT)
    one = cellscribe.annotate(query[40:].copy(), model=tuned, copy=True, log=quiet, **FLAT)
    np.testing.assert_allclose(
        here.obs["cellscribe_probability"][40:], one.obs["cellscribe_probability"], atol=1e-5
    )


@pytest.mark.parametrize("part", ["head.json", "head.safetensors"])
def test_a_damaged_head_is_refused(part: str, tuned: Path, tmp_path: Path) -> None:
    import shutil

    copied = shutil.copytree(tuned, tmp_path / "ft")
    (copied / part).write_bytes(b"{")
    with pytest.raises(InputError, match=r"head.*damaged"):
        cellscribe.annotate(typed_cells(30), model=copied, log=quiet)
    (copied / part).unlink()
    with pytest.raises(InputError, match=r"without a head|damaged"):
        cellscribe.annotate(typed_cells(30), model=copied, log=quiet)


def test_ctrl_c_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cellscribe.finetune(
            tiny_model, typed_cells(90), tmp_path / "ft", label="cell_type", mode="all",
            progress=stop, log=quiet, **FLAT,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
