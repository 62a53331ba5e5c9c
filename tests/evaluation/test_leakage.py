"""Data leakage: names and hashes of cells, from the corpus to the evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support.sources import Made, some_sources
from support.tiny import save_model
from support.training import planted_corpus, run_training

from cellscribe.config import BuildOptions, EvaluateOptions, SplitOptions
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.store import Corpus
from cellscribe.errors import InputError
from cellscribe.evaluation.data import CellProvenance, provenance_of, read_cells
from cellscribe.evaluation.leakage import seen
from cellscribe.evaluation.models import Model, read_models
from cellscribe.families.registry import read_model
from cellscribe.model.checkpoint import load_checkpoint
from cellscribe.model.checksums import seal
from cellscribe.model.heads import Head, save_head
from cellscribe.model.metadata import bundled_models
from cellscribe.training import trained_cells as kept
from cellscribe.training.trained_cells import (
    TRAINED_CELLS,
    read_trained_cells,
    trained_cells,
    write_trained_cells,
)

OPTIONS = EvaluateOptions()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    return some_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def corpus(sources: list[Made], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_corpus(
        [source.path for source in sources],
        tmp_path_factory.mktemp("corpus") / "out",
        BuildOptions(context=48, shard_cells=64),
        SplitOptions(holdout=0.1),
        log=lambda line: None,
    )


def told_hashes(corpus: Corpus) -> dict[str, int]:
    """Cell id -> hash, of all splits."""
    found: dict[str, int] = {}
    for split in corpus.splits:
        for table in corpus.cells(split, ["cell_id", "cell_hash"]):
            found |= dict(
                zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
            )
    return found


def test_hashes_are_those_of_the_corpus(sources: list[Made], corpus: Corpus) -> None:
    """Other genes, reversed columns, symbols for ids: all as the build had them, and permuted."""
    told = told_hashes(corpus)
    rng = np.random.default_rng(0)
    for source in sources:
        adata = ad.read_h5ad(source.path)
        expected = [told[name] for name in adata.obs_names]
        assert provenance_of(read_cells(adata, OPTIONS)).hashes.tolist() == expected
        shuffled = adata[:, rng.permutation(adata.n_vars)].copy()
        assert provenance_of(read_cells(shuffled, OPTIONS)).hashes.tolist() == expected
        # one molecule more is another cell
        one_more = adata.copy()
        one_more.X.data[0] += 1
        assert provenance_of(read_cells(one_more, OPTIONS)).hashes.tolist()[1:] == expected[1:]
        assert provenance_of(read_cells(one_more, OPTIONS)).hashes[0] != expected[0]


def test_an_empty_cell_has_no_hash(sources: list[Made]) -> None:
    adata = ad.read_h5ad(sources[0].path)
    adata.X.data[adata.X.indptr[4] : adata.X.indptr[5]] = 0
    assert len(provenance_of(read_cells(adata, OPTIONS)).hashes) == adata.n_obs - 1


def test_names_are_the_files_and_what_obs_says(sources: list[Made]) -> None:
    assert provenance_of(read_cells(sources[0].path, OPTIONS)).names == {"a", "A"}
    adata = ad.read_h5ad(sources[0].path)
    adata.obs["source_dataset"] = pd.Categorical(["x", None] * (adata.n_obs // 2))
    assert provenance_of(read_cells(adata, OPTIONS, name="n")).names == {"n", "A", "x"}


def model_of(folder: Path, trained: Any = (), **more: Any) -> Any:
    """As much of a model as `seen` looks at."""
    header = SimpleNamespace(directory=folder, provenance={"trained on": trained, **more})
    return SimpleNamespace(random=False, header=header)


def origin(*names: str, hashes: Any = None) -> CellProvenance:
    hashes = None if hashes is None else np.array(hashes, np.uint64)
    return CellProvenance(names=frozenset(names), hashes=hashes)


@pytest.mark.parametrize(
    ("known", "of", "told"),
    [
        (0, 1_000, ""),
        (1, 1_000, ""),
        (10, 10_000, ""),
        (11, 10_000, "less than 1 % of these cells were in its training"),
        (1, 100, "1 % of these cells were in its training"),
        (27, 100, "27 % of these cells were in its training"),
        (50, 50, "100 % of these cells were in its training"),
    ],
)
def test_share_of_known_cells(tmp_path: Path, known: int, of: int, told: str) -> None:
    trained = np.arange(0, 4_000_000, 7, dtype=np.uint64)
    write_trained_cells(tmp_path, trained)
    cells = np.concatenate([trained[-known:] if known else trained[:0], trained[: of - known] + 1])
    shuffled = np.random.default_rng(1).permutation(cells)
    assert seen(model_of(tmp_path), origin("x", hashes=shuffled)) == told


def test_hashes_beyond_all_of_the_training_are_unknown(tmp_path: Path) -> None:
    write_trained_cells(tmp_path, np.array([5, 9], np.uint64))
    high = np.full(50, 2**64 - 1, np.uint64)
    assert seen(model_of(tmp_path), origin(hashes=high)) == ""
    write_trained_cells(tmp_path, np.array([], np.uint64))
    assert seen(model_of(tmp_path), origin(hashes=high)) == ""


def test_names_of_datasets(tmp_path: Path) -> None:
    listed = ["pbmc 3k (2,700 cells)", "a (b) (1 cells)", "other"]
    assert seen(model_of(tmp_path, listed), origin("pbmc 3k")) == "trained on pbmc 3k"
    found = seen(model_of(tmp_path, listed), origin("other", "a (b)"))
    assert found == "trained on a (b), other"
    assert seen(model_of(tmp_path, listed), origin("pbmc", "3k", "a")) == ""
    # a sentence is no list of letters
    assert seen(model_of(tmp_path, "nothing"), origin("n", "o")) == ""
    earlier = {"trained before on": ["old (3 cells)"]}
    assert seen(model_of(tmp_path, (), **earlier), origin("old")) == "trained on old"


def test_names_of_the_files_a_head_learnt_from(tmp_path: Path) -> None:
    about = {"sources": [{"name": "labelled.h5ad", "cells": 3}]}
    head = Head(
        labels=["a", "b"], weight=np.ones((2, 3), np.float32), bias=np.ones(2, np.float32),
        temperature=1.0, threshold=0.5, about=about,
    )  # fmt: skip
    save_head(tmp_path, head)
    assert seen(model_of(tmp_path), origin("labelled")) == "trained on labelled"


def test_both_reasons_are_told(tmp_path: Path) -> None:
    write_trained_cells(tmp_path, np.array([1, 2], np.uint64))
    found = seen(model_of(tmp_path, ["d"]), origin("d", hashes=[1, 2, 3, 4]))
    assert found == "trained on d; 50 % of these cells were in its training"


def test_a_twin_of_random_weights_has_seen_nothing(tmp_path: Path, sources: list[Made]) -> None:
    folder = save_model(tmp_path / "m")
    cells = read_cells(sources[0].path, OPTIONS)
    write_trained_cells(folder, provenance_of(cells).hashes)
    seal(folder)
    model, twin = read_models([folder], OPTIONS)
    assert seen(model, provenance_of(cells)).startswith("100 %")
    assert seen(twin, provenance_of(cells)) == ""
    # the file beside the weights is nothing to those who read the model
    assert load_checkpoint(folder).name == read_model(folder).name == "m"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write_trained_cells(tmp_path, np.arange(900, dtype=np.uint64))
    for content in (b"", b"no array", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"training_cells\.npy: damaged"):
            read_trained_cells(tmp_path)
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(InputError, match="not hashes"):
        read_trained_cells(tmp_path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        read_trained_cells(tmp_path)


def test_a_trained_model_carries_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellscribe.corpus.store import open_corpus

    first = planted_corpus(tmp_path / "first")
    model = run_training(
        first, tmp_path / "run", schedule_steps=2, warmup_steps=1, full_length_steps=1
    )
    train = [t["cell_hash"].to_numpy() for t in open_corpus(first).cells("train", ["cell_hash"])]
    expected = np.unique(np.concatenate(train))
    found = read_trained_cells(model)
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, expected)
    assert len(expected) == 200
    names = {"README.md", "SHA256SUMS", "config.json", "genes.tsv", "model.safetensors"}
    names |= {TRAINED_CELLS}
    assert {path.name for path in model.iterdir()} == names
    assert "training cells" not in load_checkpoint(model).provenance

    # what is trained on from there knows these cells too, and their datasets
    shutil.rmtree(tmp_path / "run/checkpoints")
    second = planted_corpus(tmp_path / "second", train=[64], val=[24])
    again = run_training(
        second,
        tmp_path / "again",
        schedule_steps=2,
        warmup_steps=1,
        full_length_steps=1,
        init_from=model,
    )
    (other,) = [
        t["cell_hash"].to_numpy() for t in open_corpus(second).cells("train", ["cell_hash"])
    ]
    np.testing.assert_array_equal(read_trained_cells(again), np.union1d(expected, other))
    told = load_checkpoint(again).provenance
    assert told["trained before on"] == load_checkpoint(model).provenance["trained on"]

    # too many: names alone, and the model says so
    monkeypatch.setattr(kept, "MOST", 63)
    assert trained_cells(open_corpus(second)) is None
    many = run_training(
        second, tmp_path / "many", schedule_steps=2, warmup_steps=1, full_length_steps=1
    )
    assert read_trained_cells(many) is None
    assert "names alone" in load_checkpoint(many).provenance["training cells"]


@pytest.mark.skipif(not bundled_models(), reason="this checkout has no bundled model")
def test_the_bundled_model_knows_its_cells(shared_data: Path) -> None:
    """As many as its provenance says; held-out files are unknown, a training file is known."""
    (mini, _) = read_models(["mini"], OPTIONS)
    listed = mini.header.provenance["trained on"]
    n = sum(int(entry.rpartition(" (")[2].split()[0].replace(",", "")) for entry in listed)
    assert len(read_trained_cells(mini.header.directory)) == n

    def told(model: Model, name: str) -> str:
        cells = read_cells(shared_data / f"{name}.h5ad", EvaluateOptions(max_cells=300))
        # under another name, hashes alone can tell
        return seen(model, CellProvenance(names=frozenset(), hashes=provenance_of(cells).hashes))

    assert told(mini, "pbmc3k_10x") == ""
    assert told(mini, "pbmc1k_v2_10x") == "100 % of these cells were in its training"
