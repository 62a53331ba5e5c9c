"""Models that are evaluated, and their twins with random weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from families import every
from scipy.sparse import csr_matrix
from support.tiny import real_genes, save_model, some_counts

from cellscribe.config import EvaluateOptions, ImportOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.evaluation import models as module
from cellscribe.evaluation.data import Cells, read_cells
from cellscribe.evaluation.models import (
    RANDOM,
    SPREAD,
    Model,
    model_options,
    randomise,
    read_models,
)
from cellscribe.families.importing import import_model
from cellscribe.inference.embedder import Embedder, load

OPTIONS = EvaluateOptions(threads=1, precision="float32")


@pytest.fixture(scope="module")
def cells() -> Cells:
    import pandas as pd

    var = pd.DataFrame(index=real_genes(200)[0])
    return read_cells(ad.AnnData(csr_matrix(some_counts(60)), var=var), OPTIONS)


def test_every_shape_has_one_twin(tmp_path: Path) -> None:
    one, two = save_model(tmp_path / "one"), save_model(tmp_path / "two", seed=1)
    other = save_model(tmp_path / "other", all_genes=True)
    found = read_models([one, two, other], OPTIONS)
    names = ["one", "two", "other", f"one, {RANDOM}", f"other, {RANDOM}"]
    assert [model.name for model in found] == names
    assert [model.random for model in found] == [False] * 3 + [True] * 2


def test_models_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    one, two = save_model(tmp_path / "a/model"), save_model(tmp_path / "b/model")
    found = read_models([one, two], OPTIONS)
    assert [model.name for model in found[:2]] == ["model", str(two)]
    with pytest.raises(InputError, match="is given twice"):
        read_models([one, two, two], OPTIONS)
    with pytest.raises(InputError, match="no model 'none'"):
        read_models(["none"], OPTIONS)


@pytest.mark.parametrize("family", every.FAMILIES)
def test_twins_of_every_family(family: str, tmp_path: Path) -> None:
    """All weights are drawn anew, the same for a seed, and cells still differ in their vectors."""
    source, genes = every.write(family, tmp_path / "published")
    folder = tmp_path / "model"
    import_model(source, folder, ImportOptions(genes=genes), log=lambda line: None)
    adata = every.cells_of(folder)
    before = load(folder, device="cpu", precision="float32", threads=1)
    shapes = {name: p.shape for name, p in before.cells.network.named_parameters()}
    twins = [load(folder, device="cpu", precision="float32", threads=1) for _ in range(3)]
    for twin, seed in zip(twins, (5, 5, 6), strict=True):
        randomise(twin.cells.network, seed)
        assert {n: p.shape for n, p in twin.cells.network.named_parameters()} == shapes
    one, same, other = (dict(twin.cells.network.named_parameters()) for twin in twins)
    for name, old in before.cells.network.named_parameters():
        assert torch.equal(one[name], same[name]), name
        if old.numel() == 0:
            continue
        if old.ndim > 1:
            assert not torch.equal(one[name], old), name
            assert not torch.equal(one[name], other[name]), name
            error = SPREAD / np.sqrt(2 * old.numel())
            assert abs(one[name].std().item() - SPREAD) < 5 * error, name
        else:
            assert one[name].unique().tolist() in ([0.0], [1.0]), name
    vectors = [each.embed(adata) for each in (before, *twins)]
    assert all(v.shape == vectors[0].shape and np.isfinite(v).all() for v in vectors)
    assert not np.allclose(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert not np.allclose(vectors[1], vectors[3])
    filled = vectors[1][:-1]
    assert (np.ptp(filled, axis=0) > 0).any(), "all cells have one vector"


def test_a_twin_is_its_model_with_other_weights(tiny_model: Path, cells: Cells) -> None:
    model, twin = read_models([tiny_model], OPTIONS)
    np.testing.assert_array_equal(model.vectors(cells), model.embedder.embed(cells.adata))
    assert twin.vectors(cells).shape == model.vectors(cells).shape
    assert not np.allclose(twin.vectors(cells), model.vectors(cells))
    again = read_models([tiny_model], OPTIONS)[1]
    np.testing.assert_array_equal(again.vectors(cells), twin.vectors(cells))
    # the cell without a gene is nothing to either
    assert not twin.vectors(cells)[3].any()


def test_vectors_are_made_once(
    tmp_path: Path, tiny_model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, twin = read_models([tiny_model], OPTIONS, tmp_path / "cache")
    first = [each.vectors(cells) for each in (model, twin)]
    genes = [each.gene_vectors(cells) for each in (model, twin)]
    assert len(list((tmp_path / "cache").iterdir())) == 4

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed anew")

    monkeypatch.setattr(Embedder, "embed", refuse)
    monkeypatch.setattr(Embedder, "each_batch", refuse)
    for kept, vectors, found in zip(
        read_models([tiny_model], OPTIONS, tmp_path / "cache"), first, genes, strict=True
    ):
        np.testing.assert_array_equal(kept.vectors(cells), vectors)
        for name, values in vars(kept.gene_vectors(cells)).items():
            np.testing.assert_array_equal(values, getattr(found, name))
    with pytest.raises(AssertionError, match="computed anew"):
        model.vectors(cells.take(np.arange(9)))


def changed_copy(source: Path, folder: Path) -> Path:
    """The same weights, read at the layer before the last."""
    import json
    import shutil

    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["cellscribe"]["pooling"]["hidden_layer"] = -2
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_decides_vectors_is_in_the_fingerprint(tmp_path: Path, tiny_model: Path) -> None:
    def fingerprints(path: Path, **changes: int) -> list[str]:
        return [model.fingerprint for model in read_models([path], replace(OPTIONS, **changes))]

    model, twin = fingerprints(tiny_model)
    assert fingerprints(tiny_model) == [model, twin]
    other = save_model(tmp_path / "other", seed=9)
    elsewhere = changed_copy(tiny_model, tmp_path / "layer")
    medians = save_model(tmp_path / "medians", changed_medians=True)
    seeded = fingerprints(tiny_model, seed=1)
    assert seeded[0] == model, "a trained model has no seed"
    others = [seeded[1], *fingerprints(other)[:1], *fingerprints(elsewhere), *fingerprints(medians)]
    assert len({model, twin, *others}) == 2 + len(others)


def test_facts_are_json(tiny_model: Path) -> None:
    import json

    model, twin = read_models([tiny_model], OPTIONS)
    assert json.loads(json.dumps(model.facts)) == model.facts
    parameters = sum(p.numel() for p in model.embedder.cells.network.parameters())
    assert model.facts["parameters"] == parameters
    assert twin.facts["hash"] == model.facts["hash"]


def test_reading_models_loads_no_weights(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(module, "randomise", refuse)
    assert all(isinstance(model, Model) for model in read_models([tiny_model], OPTIONS))


@dataclass(frozen=True, kw_only=True)
class Pooled(EvaluateOptions):
    """Options with the fields of `ModelOptions`."""

    pool: str | None = None
    hidden_layer: int | None = None
    target_depth: str | None = None


POOLED = Pooled(threads=1, precision="float32")


def test_the_pooling_that_is_asked_for_is_loaded(tiny_model: Path, cells: Cells) -> None:
    options = replace(POOLED, hidden_layer=-2)
    assert model_options(options) == ModelOptions(hidden_layer=-2)
    assert model_options(OPTIONS) == ModelOptions()
    model, twin = read_models([tiny_model], options)
    given = load(
        tiny_model, device="cpu", precision="float32", threads=1, options=model_options(options)
    )
    np.testing.assert_array_equal(model.vectors(cells), given.embed(cells.adata))
    plain = read_models([tiny_model], OPTIONS)
    assert model.embedder.pooling == twin.embedder.pooling != plain[0].embedder.pooling
    for ours, theirs in zip((model, twin), plain, strict=True):
        assert not np.allclose(ours.vectors(cells), theirs.vectors(cells))
    with pytest.raises(InputError, match="pool"):
        read_models([tiny_model], replace(POOLED, pool="no such"))[0].vectors(cells)


def test_the_pooling_is_in_the_fingerprint_only_if_it_is_asked_for(
    tmp_path: Path, tiny_model: Path, cells: Cells
) -> None:
    def fingerprints(options: EvaluateOptions) -> list[str]:
        models = read_models([tiny_model], options, tmp_path / "cache")
        for model in models:
            model.vectors(cells)
        return [model.fingerprint for model in models]

    plain = fingerprints(OPTIONS)
    facts = read_models([tiny_model], OPTIONS)[0].facts
    parts = [facts[name] for name in ("hash", "config", "pooling", "genes", "random", "precision")]
    # written down here, for stored results and vectors are found by it
    assert plain[0] == hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    assert fingerprints(POOLED) == plain
    layers = [fingerprints(replace(POOLED, hidden_layer=layer)) for layer in (-1, -2)]
    pool = fingerprints(replace(POOLED, pool="genes"))
    assert len({*plain, *layers[0], *layers[1], *pool}) == 8
    assert len(list((tmp_path / "cache").iterdir())) == 8


def test_a_loaded_model_is_used_as_it_is(
    tmp_path: Path, tiny_model: Path, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ModelOptions(hidden_layer=-2)
    loaded = load(tiny_model, device="cpu", precision="float32", threads=1, options=options)
    other = save_model(tmp_path / "other", all_genes=True)
    models = read_models([loaded, other], replace(OPTIONS, precision="auto"))
    model, _, twin, _ = models
    assert [m.name for m in models] == ["tiny", "other", f"tiny, {RANDOM}", f"other, {RANDOM}"]
    assert model.embedder is loaded
    assert Path(model.path) == model.header.directory == loaded.header.directory
    np.testing.assert_array_equal(model.vectors(cells), loaded.embed(cells.adata))
    # its twin reads cells as it does, and leaves its weights alone
    by_name = read_models([tiny_model], replace(POOLED, hidden_layer=-2))[1]
    np.testing.assert_array_equal(twin.vectors(cells), by_name.vectors(cells))
    np.testing.assert_array_equal(model.vectors(cells), loaded.embed(cells.adata))
    assert twin.embedder is not loaded
    assert (twin.embedder.threads, twin.embedder.precision) == (1, "float32")


def test_a_loaded_model_has_the_fingerprint_of_its_directory(tiny_model: Path) -> None:
    loaded = load(tiny_model, device="cpu", precision="float32", threads=1)
    ours = [model.fingerprint for model in read_models([loaded], OPTIONS)]
    assert ours == [model.fingerprint for model in read_models([tiny_model], OPTIONS)]


def test_a_loaded_model_is_refused_twice_or_with_a_pooling(tiny_model: Path) -> None:
    loaded = load(tiny_model, device="cpu", precision="float32", threads=1)
    for pair in ([loaded, tiny_model], [tiny_model, loaded], [loaded, loaded]):
        with pytest.raises(InputError, match="tiny is given twice"):
            read_models(pair, OPTIONS)
    with pytest.raises(InputError, match="tiny is loaded already, so that hidden_layer cannot"):
        read_models([loaded], replace(POOLED, hidden_layer=-2))


@pytest.mark.parametrize("family", every.FAMILIES)
def test_loaded_models_of_every_family_have_twins(family: str, tmp_path: Path) -> None:
    """The same twin as of the directory, though the model has been at work before."""
    source, genes = every.write(family, tmp_path / "published")
    folder = tmp_path / "model"
    import_model(source, folder, ImportOptions(genes=genes), log=lambda line: None)
    loaded = load(folder, device="cpu", precision="float32", threads=1)
    adata = every.cells_of(folder)
    before = loaded.embed(adata)
    twins = [read_models([each], OPTIONS)[1].embedder for each in (loaded, folder)]
    np.testing.assert_array_equal(twins[0].embed(adata), twins[1].embed(adata))
    np.testing.assert_array_equal(loaded.embed(adata), before)
