"""`bench embed` of imported models: both sides compute the same, or there is no result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks import families, family_side, real_cells, references
from benchmarks.family_side import OURS, OURS_FLOAT32, THEIRS
from families import (
    every,
    published_bionemo,
    published_geneformer,
    published_scbert,
    published_scfoundation,
    published_scgpt,
)
from scipy.sparse import csr_matrix
from support.command import Cli, nothing_new, refused
from support.tiny import real_genes

from cellscribe import import_model
from cellscribe.errors import InputError
from cellscribe.families.registry import read_model

pytestmark = pytest.mark.usefixtures("one_thread")

N_GENES = 150
CELLS = 7


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cells of real genes, and of those that BioNeMo's small checkpoint has."""
    monkeypatch.setattr(real_cells, "FEWEST_GENES", 100)
    genes = [*real_genes(N_GENES)[0], *published_bionemo.MADE_GENES[:60]]
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(0.4, 3.0, (20, len(genes)))).astype(np.int32)
    obs = pd.DataFrame(index=[str(i) for i in range(20)])
    folder = tmp_path / "data"
    folder.mkdir()
    var = pd.DataFrame({"ensembl_id": genes}, index=genes)
    ad.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "some.h5ad")
    return folder


def publish(family: str, folder: Path) -> tuple[Path, Path | None]:
    """A small published checkpoint over real genes, and the gene list to import it with."""
    symbols = real_genes(N_GENES)[1]
    if family == "scgpt":
        return published_scgpt.write_published(folder, names=symbols), None
    if family == "scbert":
        n_genes = published_scbert.SHAPES["small"].genes
        return published_scbert.write_published(folder, genes=symbols[:n_genes])
    if family == "scfoundation":
        return published_scfoundation.write_published(folder, names=symbols), None
    return every.write(family, folder)


def imported(family: str, folder: Path) -> tuple[Path, Path]:
    """An imported model, and the checkpoint that it comes from."""
    source, genes = publish(family, folder / "published")
    return import_model(source, folder / "model", genes=genes, log=lambda line: None), source


def turn_here(settings: dict[str, Any]) -> dict[str, Any]:
    """A side in this process."""
    return json.loads(json.dumps(family_side.measure(settings)))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_turn", turn_here)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.usefixtures("in_this_process")
def test_geneformer_against_transformers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    pytest.importorskip("transformers", reason="needs the dependency group bench")
    about = references.ABOUT["geneformer"]
    monkeypatch.setitem(references.ABOUT, "geneformer", replace(about, batch=3))
    source = published_geneformer.write_published(tmp_path / "published", version)
    model = import_model(source, tmp_path / "model", log=lambda line: None)
    path = families.bench_family(data, model, source, None, CELLS, 2, tmp_path / "results")
    assert path == tmp_path / "results" / "embed-model-cpu.json"
    found = json.loads(path.read_text())
    assert found["bench"] == "families"
    # Padding, batches, special tokens and pooling of the peer are other code than ours.
    assert found["largest_difference"] < 1e-5
    assert found["published"]["repository"] is None
    for what in ("seconds", "seconds_to_load", "peak_mb"):
        assert {side: len(each) for side, each in found[what].items()} == {
            OURS: 2,
            OURS_FLOAT32: 2,
            THEIRS: 2,
        }
    assert set(found["ratio_of_medians"]) == {OURS, OURS_FLOAT32}
    assert found["settings"]["cells"] == CELLS
    assert found["settings"]["precision"][OURS_FLOAT32] == "float32"
    assert str(tmp_path) not in path.read_text()


@pytest.mark.usefixtures("in_this_process")
def test_a_peer_that_reads_another_layer_is_seen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the dependency group bench")
    model, source = imported("geneformer", tmp_path)
    describe = families.describe

    def other(header: Any) -> dict[str, Any]:
        about = describe(header)
        assert about["pooling"]["hidden_layer"] == -2
        return about | {"pooling": about["pooling"] | {"hidden_layer": -1}}

    monkeypatch.setattr(families, "describe", other)
    path = families.bench_family(data, model, source, None, CELLS, 1, tmp_path)
    assert json.loads(path.read_text())["largest_difference"] > 0.01


@pytest.mark.parametrize("family", ["bionemo", "scgpt", "scbert", "scfoundation"])
@pytest.mark.usefixtures("in_this_process")
def test_ours_alone(bench: Cli, data: Path, tmp_path: Path, family: str) -> None:
    model, _ = imported(family, tmp_path)
    out = tmp_path / "results"
    words = ["--model", model, "--data", data, "--cells", CELLS, "--repeats", 1, "--out", out]
    ran = bench("embed", *words)
    assert ran.status == 0, ran.err
    found = json.loads((out / "embed-model-cpu.json").read_text())
    assert found["settings"]["family"] == family
    assert set(found["cells_per_second"]) == {OURS, OURS_FLOAT32}
    assert found["largest_difference"] is None
    assert found["published"] is None
    # Of the same cells, none of them zeros: two precisions are close, and in general not equal.
    assert found["difference_of_default"] < 0.1
    weights = model / "model.safetensors"
    assert 0.9 * weights.stat().st_size < 4 * found["parameters"] < weights.stat().st_size


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_tokens_reach_the_peer(data: Path, tmp_path: Path, family: str) -> None:
    """The tokens that are kept are those of each cell, in order."""
    model, _ = imported(family, tmp_path)
    families._write_cells(data, CELLS, tmp_path)
    settings = {
        "side": OURS_FLOAT32,
        "model": str(model),
        "small": str(tmp_path / "small.h5ad"),
        "cells": str(tmp_path / "cells.h5ad"),
        "tokens": str(tmp_path / "tokens.npz"),
        "vectors": str(tmp_path / "vectors.npy"),
        "keep": True,
    }
    family_side.measure(settings)
    adata, table = ad.read_h5ad(tmp_path / "cells.h5ad"), read_model(model).table
    assert adata.n_obs == CELLS
    names = adata.var_names if family == "geneformer" else adata.var[references.SYMBOLS]
    of_table = table.ids if family == "geneformer" else table.symbols
    counts, cells = adata.X.toarray(), references.our_tokens(tmp_path / "tokens.npz")
    assert len(cells) == CELLS
    for row, (tokens, values) in zip(counts, cells, strict=True):
        expressed = {name for name, count in zip(names, row, strict=True) if count}
        assert {of_table[token] for token in tokens} == expressed & set(of_table)
        assert values.any() == (family == "scgpt")


def test_differences_are_shares_of_the_largest_value() -> None:
    theirs = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    ours = theirs + np.array([[0.0, 0.02], [-0.01, 0.0]], np.float32)
    assert families.difference(ours, theirs) == pytest.approx(0.005, rel=1e-4)
    for wrong in (ours[:1], np.where(ours > 1.5, np.nan, ours)):
        with pytest.raises(RuntimeError, match="do not compute the same"):
            families.difference(wrong, theirs)


def test_figures_follow_from_raw_seconds() -> None:
    def turns(load: list[float], embed: list[float], peaks: list[float]) -> list[dict[str, Any]]:
        rows = zip(load, embed, peaks, strict=True)
        return [{"load": a, "embed": b, "peak_mb": c} for a, b, c in rows]

    told = {
        OURS: turns([1.0, 3.0, 2.0], [2.0, 5.0, 1.0], [900.0, 1_100.0, 1_000.0]),
        OURS_FLOAT32: turns([1.0, 1.0, 1.0], [4.0, 4.0, 4.0], [1.0, 1.0, 1.0]),
    }
    assert "ratio_of_medians" not in families.rates(told, 10)
    told[THEIRS] = turns([9.0, 8.0, 7.0], [10.0, 8.0, 6.0], [3_000.0, 2_000.0, 2_500.0])
    found = families.rates(told, 10)
    assert found["cells_per_second"] == {OURS: 5, OURS_FLOAT32: 2.5, THEIRS: 1.25}
    assert found["ratio_of_medians"] == {OURS: 4, OURS_FLOAT32: 2}
    assert found["median_seconds_to_load"] == {OURS: 2, OURS_FLOAT32: 1, THEIRS: 8}
    assert found["highest_peak_gb"] == {OURS: 1.1, OURS_FLOAT32: 0.001, THEIRS: 3}
    assert found["seconds"][OURS] == [2.0, 5.0, 1.0]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import sys; sys.exit('out of memory')", "published ended: out of memory; .*--cells"),
        ("raise SystemExit(9)", "ended: status 9, not a word"),
        (
            "import os; os.write(2, b'99%'); os.kill(os.getpid(), 9)",
            "ended: killed by signal 9; .*--cells",
        ),
        ('print(\'{"refused": "give the archive"}\')', "^give the archive$"),
    ],
)
def test_a_side_that_fails(monkeypatch: pytest.MonkeyPatch, script: str, told: str) -> None:
    monkeypatch.setattr(families, "SIDE", ("-c", script))
    with pytest.raises(InputError, match=told):
        families._turn({"side": THEIRS})


def test_nothing_is_written_where_a_side_fails(
    bench: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = imported("scgpt", tmp_path)
    clone = tmp_path / "clone"
    (clone / references.ABOUT["scgpt"].file).parent.mkdir(parents=True)
    (clone / references.ABOUT["scgpt"].file).write_text("")
    monkeypatch.setattr(references, "find_spec", lambda name: "there")  # scanpy may be missing
    monkeypatch.setattr(families, "SIDE", ("-c", "import scgpt_of_another_version"))
    there = sorted(path.name for path in tmp_path.iterdir())
    words = ["--model", model, "--source", source, "--reference", clone, "--data", data]
    line = refused(bench("embed", *words, "--out", tmp_path / "results"))
    assert "No module named 'scgpt_of_another_version'" in line
    nothing_new(tmp_path, *there)


@pytest.mark.parametrize(
    ("family", "words", "told"),
    [
        ("scgpt", ["--reference", "DIR"], "name it with --source"),
        ("scgpt", ["--source", "SRC", "--reference", "DIR"], "give a clone of https://github.com/"),
        ("geneformer", ["--source", "SRC", "--reference", "DIR"], "no --reference"),
        ("geneformer", [], "name it with --source"),
        ("geneformer", ["--source", "nowhere"], "--source nowhere"),
        ("scgpt", ["--device", "cuda"], "measured on the CPU"),
        ("scgpt", ["--cells", "0"], "must be positive"),
        (None, ["--source", "SRC"], "go with an imported model; mini is none"),
    ],
)
def test_refusals(
    bench: Cli, data: Path, tmp_path: Path, family: str | None, words: list[str], told: str
) -> None:
    model, source = imported(family, tmp_path) if family else ("mini", tmp_path)
    given = {"DIR": str(tmp_path), "SRC": str(source)}
    there = sorted(path.name for path in tmp_path.iterdir())
    out = ["--data", data, "--out", tmp_path / "results"]
    words = [given.get(word, word) for word in words]
    assert told in refused(bench("embed", "--model", model, *out, *words))
    nothing_new(tmp_path, *there)


@pytest.mark.parametrize("family", ["geneformer", "bionemo", "scbert", "scfoundation"])
def test_what_the_peer_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    about = references.ABOUT[family]
    if about.file:
        (tmp_path / about.file).parent.mkdir(parents=True)
        (tmp_path / about.file).write_text("")
    monkeypatch.setattr(references, "find_spec", lambda name: None)
    package, _ = about.packages[0]
    with pytest.raises(InputError, match=f"needs {package}: pip install"):
        references.check_reference(family, tmp_path)
    monkeypatch.setattr(references, "find_spec", lambda name: "there")
    references.check_reference(family, tmp_path)


def test_a_model_of_our_own_goes_the_old_way(tiny_model: Path) -> None:
    assert families.imported_family(str(tiny_model)) is None
    assert families.imported_family("geneformer-10m") is None


@pytest.mark.slow
def test_each_side_in_its_own_process(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the dependency group bench")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ballast = bytearray(1 << 30)
    ballast[:: 1 << 12] = b"x" * (1 << 18)
    model, source = imported("geneformer", tmp_path)
    path = families.bench_family(data, model, source, None, CELLS, 1, tmp_path / "results")
    found = json.loads(path.read_text())
    assert found["largest_difference"] < 1e-5
    # What this process holds is not counted: neither side comes near it.
    assert max(each[0] for each in found["peak_mb"].values()) < len(ballast) * 1e-6
