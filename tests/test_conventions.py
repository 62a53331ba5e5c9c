"""One convention for every verb: models, settings, provenance and former names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support.command import Cli
from support.typed_cells import typed_cells

import cellscribe
from cellscribe import InputError
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.inference.session import choose_model

FLAT: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1}
VERBS: dict[str, Callable[..., Any]] = {
    name: getattr(cellscribe, name)
    for name in cellscribe.__all__
    if name[0].islower() and inspect.isfunction(getattr(cellscribe, name))
}
OPTIONS: dict[str, tuple[type, dict[str, Any]]] = {
    "embed": (cellscribe.EmbedOptions, {"layer": "counts"}),
    "embed_file": (cellscribe.EmbedOptions, {"overwrite": True}),
    "tokenize": (cellscribe.TokenizeOptions, {"overwrite": True}),
    "embed_genes": (cellscribe.GenesOptions, {"threads": 1}),
    "gene_importance": (cellscribe.GenesOptions, {"device": "cpu"}),
    "enhance": (cellscribe.EnhanceOptions, {"target_depth": "t4"}),
    "annotate": (cellscribe.AnnotateOptions, {"n_neighbors": 3}),
    "annotate_file": (cellscribe.AnnotateOptions, {"overwrite": True}),
    "finetune": (cellscribe.FinetuneOptions, {"mode": "all"}),
    "perturb": (cellscribe.PerturbOptions, {"top": 3}),
    "evaluate": (cellscribe.EvaluateOptions, {"seeds": 7}),
    "build_index": (cellscribe.IndexOptions, {"deduplicate": True}),
    "add_to_index": (cellscribe.AddOptions, {"deduplicate": True}),
    "search": (cellscribe.QueryOptions, {"use_rep": "X_cellscribe"}),
    "explore": (cellscribe.ExploreOptions, {"gene": ("CD3E",)}),
    "import_model": (cellscribe.ImportOptions, {"overwrite": True}),
    "export_model": (cellscribe.ExportOptions, {"overwrite": True}),
}
"""Verb -> its class of options, and a keyword that says again what options say."""


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> cellscribe.Embedder:
    return cellscribe.load(tiny_model, **FLAT)


def arguments(verb: str) -> dict[str, Any]:
    """Something for each parameter without a default."""
    need = [
        name
        for name, parameter in inspect.signature(VERBS[verb]).parameters.items()
        if parameter.default is parameter.empty
    ]
    return dict.fromkeys(need, "nowhere")


def test_every_verb_with_options_is_looked_at() -> None:
    takes = {
        name for name, verb in VERBS.items() if "options" in inspect.signature(verb).parameters
    }
    others = {"load", "train", "build_corpus", "download_census"}  # see below, or no keywords
    files = {"embed_genes_file", "enhance_file", "perturb_file", "embed_files", "tokenize_files"}
    files |= {"search_file"}
    assert takes == OPTIONS.keys() | others | files


@pytest.mark.parametrize("name", sorted(VERBS))
def test_editors_complete_every_keyword(name: str) -> None:
    kinds = {each.kind for each in inspect.signature(VERBS[name]).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_settings_beside_options_are_refused(name: str) -> None:
    kind, keyword = OPTIONS[name]
    fields = {"label": "cell_type"} if name == "finetune" else {}
    words = arguments(name)
    with pytest.raises(InputError, match=f"{next(iter(keyword))} given together with options"):
        VERBS[name](**words, options=kind(**fields), **keyword)
    with pytest.raises(InputError, match=f"options must be {kind.__name__}, not dict"):
        VERBS[name](**words, options={})
    with pytest.raises(TypeError, match="nonsense"):
        VERBS[name](**words, nonsense=1)


def test_settings_of_training_are_refused_beside_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steps given together with options"):
        cellscribe.train("nowhere", tmp_path / "run", options={"steps": 3}, steps=4)
    with pytest.raises(InputError, match="unknown key 'stepps'"):
        cellscribe.train("nowhere", tmp_path / "run", options={"stepps": 3})


def test_all_holds_every_class_that_a_function_takes() -> None:
    taken = set()
    for name, verb in VERBS.items():
        for parameter in inspect.signature(verb).parameters.values():
            words = str(parameter.annotation).replace("|", " ").replace("[", " ").replace("]", " ")
            taken |= {
                word.strip(",")
                for word in words.split()
                if word.endswith(("Options,", "Options", "Config"))
            }
        assert name in cellscribe.__all__
    assert {"EmbedOptions", "TrainOptions", "ModelConfig", "ModelOptions"} <= taken
    assert taken <= set(cellscribe.__all__)


def test_a_loaded_model_gives_what_its_name_gives(
    loaded: cellscribe.Embedder, tiny_model: Path, tmp_path: Path
) -> None:
    cells, named = typed_cells(60), typed_cells(60)
    cellscribe.embed(cells, model=loaded, log=silent)
    cellscribe.embed(named, model=tiny_model, log=silent, **FLAT)
    assert np.array_equal(cells.obsm["X_cellscribe"], named.obsm["X_cellscribe"])
    genes = cellscribe.embed_genes(cells, model=loaded, log=silent)
    assert np.array_equal(
        genes.X, cellscribe.embed_genes(cells, model=tiny_model, log=silent, **FLAT).X
    )
    table = cellscribe.perturb(cells, model=loaded, top=2, log=silent)
    again = cellscribe.perturb(cells, model=tiny_model, top=2, log=silent, **FLAT)
    pd.testing.assert_frame_equal(table, again)
    words: dict[str, Any] = {"reference": typed_cells(120), "label": "cell_type", "min_cells": 5}
    cellscribe.annotate(cells, model=loaded, **words, log=silent)
    cellscribe.annotate(named, model=tiny_model, **words, log=silent, **FLAT)
    pd.testing.assert_frame_equal(cells.obs, named.obs)
    assert cellscribe.info(loaded) == cellscribe.info(tiny_model)
    cellscribe.tokenize(cells, tmp_path / "a.parquet", model=loaded)
    cellscribe.tokenize(cells, tmp_path / "b.parquet", model=tiny_model)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet")
    )
    cellscribe.finetune(loaded, typed_cells(120), tmp_path / "ft", label="cell_type", log=silent)
    assert (tmp_path / "ft/head.json").exists()


def test_what_was_settled_at_loading_is_not_taken_again(loaded: cellscribe.Embedder) -> None:
    for words in ({"precision": "bf16"}, {"pool": "cls"}, {"hidden_layer": -2}, {"threads": 3}):
        with pytest.raises(InputError, match=f"{next(iter(words))} is settled when a model"):
            cellscribe.embed(typed_cells(20), model=loaded, log=silent, **words)
    with pytest.raises(InputError, match="a model is given by itself and in options"):
        choose_model("mini", cellscribe.EmbedOptions(model="other"))
    with pytest.raises(InputError, match="not a int"):
        cellscribe.embed(typed_cells(20), model=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [{"pool": "cls"}, {"hidden_layer": -2}])
def test_pool_and_layer_reach_every_verb(
    words: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    plain, other = typed_cells(60), typed_cells(60)
    model = cellscribe.load(tiny_model, **words, **FLAT)
    cellscribe.embed(other, model=tiny_model, log=silent, **words, **FLAT)
    assert np.array_equal(other.obsm["X_cellscribe"], model.embed(plain))
    assert not np.array_equal(
        other.obsm["X_cellscribe"], cellscribe.load(tiny_model, **FLAT).embed(plain)
    )
    assert model.pooling == other.uns["cellscribe"]["X_cellscribe"]["pooling"]
    table = cellscribe.perturb(plain, model=tiny_model, top=2, log=silent, **words, **FLAT)
    assert table.attrs["cellscribe"]["pooling"] == model.pooling
    cellscribe.finetune(
        tiny_model,
        typed_cells(120),
        tmp_path / "ft",
        label="cell_type",
        log=silent,
        **words,
        **FLAT,
    )
    tuned = cellscribe.load(tmp_path / "ft", **FLAT)
    assert tuned.pooling == model.pooling
    assert np.array_equal(tuned.embed(plain), model.embed(plain))
    with pytest.raises(InputError, match="the head reads the vectors that it was trained on"):
        cellscribe.annotate(plain, model=tmp_path / "ft", log=silent, **words, **FLAT)


def test_provenance_has_the_same_keys_from_python_and_command_line(
    tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    adata = typed_cells(60)
    adata.write_h5ad(tmp_path / "in.h5ad")
    flat = [word for name, value in FLAT.items() for word in (f"--{name}", str(value))]
    words = ["--model", tiny_model, *flat]

    cellscribe.embed(adata, model=tiny_model, log=silent, **FLAT)
    assert run("embed", tmp_path / "in.h5ad", "-o", tmp_path / "e.h5ad", *words).status == 0
    there = ad.read_h5ad(tmp_path / "e.h5ad").uns["cellscribe"]["X_cellscribe"]
    here = adata.uns["cellscribe"]["X_cellscribe"]
    assert here.keys() == there.keys()
    assert {name: here[name] for name in here if name != "source"} == {
        name: there[name] for name in there if name != "source"
    }
    assert run("embed", tmp_path / "in.h5ad", "-o", tmp_path / "e.npy", *words).status == 0
    assert json.loads((tmp_path / "e.npy.json").read_text()).keys() == here.keys()

    reference: dict[str, Any] = {"reference": str(tmp_path / "in.h5ad"), "label": "cell_type"}
    cellscribe.annotate(adata, model=tiny_model, **reference, log=silent, **FLAT)
    more = ["--reference", tmp_path / "in.h5ad", "--label", "cell_type"]
    assert (
        run("annotate", tmp_path / "in.h5ad", "-o", tmp_path / "a.csv", *words, *more).status == 0
    )
    record = json.loads((tmp_path / "a.csv.json").read_text())
    assert adata.uns["cellscribe"]["annotation"].keys() == record.keys()

    table = cellscribe.perturb(adata, model=tiny_model, top=2, log=silent, **FLAT)
    assert (
        run("perturb", tmp_path / "in.h5ad", "-o", tmp_path / "p.csv", *words, "--top", 2).status
        == 0
    )
    record = json.loads((tmp_path / "p.csv.json").read_text())
    assert table.attrs["cellscribe"].keys() == record.keys()

    genes = cellscribe.embed_genes(adata, model=tiny_model, log=silent, **FLAT)
    assert run("genes", tmp_path / "in.h5ad", "-o", tmp_path / "g.h5ad", *words).status == 0
    there = ad.read_h5ad(tmp_path / "g.h5ad").uns["cellscribe"]
    assert genes.uns["cellscribe"].keys() == there.keys()
    # what every verb tells
    assert set.intersection(set(here), set(record), set(there)) >= {
        "cellscribe", "model", "model_hash", "vocabulary_hash", "pooling", "context", "precision",
        "device", "source", "layer", "gene_key", "n_cells", "n_genes", "n_genes_known",
    }  # fmt: skip


def test_a_verb_reads_the_gene_table_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = Vocabulary.read.__func__, []  # type: ignore[attr-defined]

    def counted(cls: Any, path: Path) -> Any:
        calls.append(path)
        return read(cls, path)

    monkeypatch.setattr(Vocabulary, "read", classmethod(counted))
    cells = typed_cells(60)
    verbs: list[Callable[[], Any]] = [
        lambda: cellscribe.embed(cells, model=tiny_model, log=silent, **FLAT),
        lambda: cellscribe.embed_genes(cells, model=tiny_model, log=silent, **FLAT),
        lambda: cellscribe.perturb(cells, model=tiny_model, top=1, log=silent, **FLAT),
        lambda: cellscribe.finetune(
            tiny_model, typed_cells(90), tmp_path / "ft", label="cell_type", log=silent, **FLAT
        ),
        lambda: cellscribe.annotate(cells, model=tmp_path / "ft", log=silent, **FLAT),
    ]
    for verb in verbs:
        calls.clear()
        verb()
        assert len(calls) == 1


def test_columns_are_named_as_asked(tiny_model: Path) -> None:
    cells = typed_cells(60)
    words: dict[str, Any] = {"reference": typed_cells(120), "label": "cell_type", "min_cells": 5}
    cellscribe.annotate(cells, model=tiny_model, key_added="mine", **words, log=silent, **FLAT)
    assert {"mine_label", "mine_probability", "mine_best"} <= set(cells.obs)


def test_from_pretrained_is_load(tiny_model: Path) -> None:
    ours = cellscribe.Embedder.from_pretrained(tiny_model, **FLAT)
    assert ours.hash == cellscribe.load(tiny_model, **FLAT).hash


def test_former_names_work_with_a_warning(tiny_model: Path, tmp_path: Path, run: Cli) -> None:
    with pytest.warns(FutureWarning, match="fewest_cells is now called min_cells"):
        options = cellscribe.FinetuneOptions(label="x", fewest_cells=3)  # type: ignore[call-arg]
    assert options.min_cells == 3
    with pytest.raises(TypeError, match="one setting"), pytest.warns(FutureWarning):
        cellscribe.FinetuneOptions(label="x", fewest_cells=3, min_cells=4)  # type: ignore[call-arg]
    lines: list[str] = []
    with pytest.warns(FutureWarning, match="say is now called log"):
        cellscribe.perturb(typed_cells(30), model=tiny_model, top=1, say=lines.append, **FLAT)  # type: ignore[call-arg]
    typed_cells(30).write_h5ad(tmp_path / "in.h5ad")
    words = ("perturb", tmp_path / "in.h5ad", "-o", tmp_path / "p.csv", "--model", tiny_model)
    ran = run(*words, "--top", 1, "--cells=9")
    assert ran.status == 0
    assert "--cells is now called --max-cells" in ran.err
    config = tmp_path / "c.toml"
    config.write_text("[perturb]\ncells = 9\ntop = 1\noverwrite = true\n")
    again = run("--config", config, *words)
    assert again.status == 0, again.err
    assert "cells is now called max_cells" in again.err
    config.write_text("[perturb]\ncells = 9\nmax_cells = 9\n")
    assert run("--config", config, *words).status == 2


def test_an_anndata_and_a_loaded_model_are_evaluated(
    loaded: cellscribe.Embedder, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"task": "celltype", "seeds": 1, "bootstrap": 20, "log": silent}
    results = cellscribe.evaluate(loaded, typed_cells(120), tmp_path / "one", **words)
    cells = tmp_path / "one/data/adata1.h5ad"
    again = cellscribe.evaluate(loaded, cells, tmp_path / "two", **words)
    assert [each.scores for each in results] == [each.scores for each in again]
    assert {each.data for each in results} == {"adata1"}
    assert loaded.header.name in {each.method for each in results}
    assert (tmp_path / "one/report.md").exists()
