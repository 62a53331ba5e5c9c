"""From a published checkpoint to vectors by the command line, whatever the family."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from families import every
from support.command import Cli, nothing_new, refused

import cellscribe
import cellscribe.api.enhance as enhance_module
from cellscribe.errors import InputError
from cellscribe.families import importing
from cellscribe.families.registry import FAMILIES, family_module, read_model
from cellscribe.families.weights import check_names

disk = namedtuple("disk", "total used free")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An imported model of each family."""
    folder = tmp_path_factory.mktemp("imported")
    made = {}
    for family in every.FAMILIES:
        source, genes = every.write(family, folder / f"{family}-published")
        made[family] = cellscribe.import_model(
            source, folder / family, genes=genes, log=lambda line: None
        )
    return made


@pytest.fixture(params=every.FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


def test_every_family_is_tried() -> None:
    assert tuple(FAMILIES) == every.FAMILIES


@pytest.mark.parametrize("family", every.FAMILIES)
def test_the_way_of_a_new_user(family: str, run: Cli, tmp_path: Path) -> None:
    source, genes = every.write(family, tmp_path / "published")
    out, more = tmp_path / "model", ("--genes", genes) if genes else ()
    ran = run("import", source, "-o", out, *more)
    assert (ran.status, ran.out) == (0, f"{out}\n"), ran.err
    told = run("info", out).out
    assert f"family        {family}\n".replace(" ", "") in told.replace(" ", "")
    published = read_model(out).provenance
    assert published["licence"] in told
    readme = (out / "README.md").read_text()
    assert published["licence"] in readme and published["published"] in readme
    assert published["read from"][0] in readme
    cells = every.cells_of(out)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    ran = run("embed", tmp_path / "cells.h5ad", "--model", out, "-o", tmp_path / "v.npy")
    assert ran.status == 0, ran.err
    vectors = np.load(tmp_path / "v.npy")
    assert len(vectors) == cells.n_obs
    assert not vectors[-1].any()
    assert (np.linalg.norm(vectors[:-1], axis=1) > 0).all()
    assert len(np.unique(vectors[:-1], axis=0)) == cells.n_obs - 1
    ran = run("tokenize", tmp_path / "cells.h5ad", "--model", out, "-o", tmp_path / "t.parquet")
    assert ran.status == 0, ran.err
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert list(map(len, table["input_ids"])) == table["length"]
    if "values" in table:
        assert list(map(len, table["values"])) == table["length"]


def test_a_cell_has_its_vector_whoever_is_beside_it(model: Path) -> None:
    embedder = cellscribe.load(model, precision="float32", device="cpu", threads=1)
    cells = every.cells_of(model)
    together = embedder.embed(cells)
    assert together.shape == (cells.n_obs, embedder.width)
    for row in (0, 4):
        alone = embedder.embed(cells[row].copy())
        np.testing.assert_allclose(
            alone[0], together[row], rtol=0, atol=1e-5 * np.abs(together[row]).max()
        )
    backwards = embedder.embed(cells[::-1].copy())
    np.testing.assert_allclose(
        backwards[::-1], together, rtol=0, atol=1e-5 * np.abs(together).max()
    )


def test_bf16_vectors_point_the_same_way(model: Path) -> None:
    cells = every.cells_of(model)[:-1].copy()
    vectors = [
        cellscribe.load(model, precision=precision, device="cpu", threads=1).embed(cells)
        for precision in ("float32", "bf16")
    ]
    full, half = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    assert ((full * half).sum(1) > 0.99).all()
    assert np.abs(full - half).max() > 0


def test_every_pool_that_is_offered_works(model: Path) -> None:
    family = read_model(model).family
    cells = every.cells_of(model, 3)
    seen = []
    for pool in [p for p in family_module(family).POOLS if p in read_model(model).pools]:
        options = cellscribe.EmbedOptions(pool=pool)
        embedder = cellscribe.load(model, device="cpu", threads=1, options=options)
        seen.append((embedder.width, embedder.embed(cells)[0].tobytes()))
    assert len(set(seen)) == len(seen) > 1
    first = cellscribe.load(model, device="cpu", threads=1).embed(cells)[0].tobytes()
    assert seen[0][1] == first or family == "geneformer"
    with pytest.raises(InputError, match='has no pool="nothing"; it has '):
        cellscribe.load(model, options=cellscribe.EmbedOptions(pool="nothing"))


def test_genes_have_vectors(model: Path) -> None:
    cells = every.cells_of(model, 4)
    settings = {"precision": "float32", "device": "cpu", "threads": 1}
    found = cellscribe.embed_genes(cells, model=model, log=lambda line: None, **settings)
    one = [
        cellscribe.embed_genes(cells[row].copy(), model=model, log=lambda line: None, **settings)
        for row in range(3)
    ]
    table = {}
    for part in one:
        for gene, vector in zip(part.obs_names, part.X, strict=True):
            table.setdefault(gene, []).append(vector)
    assert set(table) == set(found.obs_names)
    for place, gene in enumerate(found.obs_names):
        assert found.obs["n_cells"].iloc[place] == len(table[gene])
        np.testing.assert_allclose(
            found.X[place], np.mean(table[gene], axis=0), rtol=0, atol=1e-4 * np.abs(found.X).max()
        )


def test_importance_is_by_group(models: dict[str, Path]) -> None:
    cells = every.cells_of(models["scbert"], 6)
    settings = {"precision": "float32", "device": "cpu", "threads": 1, "log": lambda line: None}
    by = cellscribe.gene_importance(cells, model=models["scbert"], group_by="kind", **settings)
    assert list(by.columns) == ["symbol", "a", "b"]
    alone = cells[[0, 2, 4]].copy()
    whole = cellscribe.gene_importance(alone, model=models["scbert"], **settings)
    np.testing.assert_allclose(by["a"], whole["all"], rtol=1e-4)
    assert 0.9 < by["a"].sum() < 1
    with pytest.raises(InputError, match="no obs column 'type'; there are kind"):
        cellscribe.gene_importance(cells, model=models["scbert"], group_by="type", **settings)
    with pytest.raises(InputError, match="tells no importance of genes; scBERT does"):
        cellscribe.gene_importance(
            every.cells_of(models["scgpt"]), model=models["scgpt"], **settings
        )


def test_expression_comes_back_enhanced(models: dict[str, Path], run: Cli, tmp_path: Path) -> None:
    model = models["scfoundation"]
    cells = every.cells_of(model, 4)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "deep.h5ad"
    for depth in ("t4", "a1"):
        ran = run(
            *("enhance", tmp_path / "cells.h5ad", "--model", model, "-o", out, "--overwrite"),
            *("--target-depth", depth, "--precision", "float32"),
        )
        assert ran.status == 0, ran.err
    deep = ad.read_h5ad(out)
    assert deep.shape == (4, cells.n_vars)
    assert list(deep.var["symbol"]) == list(cells.var_names)
    assert list(deep.obs["kind"]) == list(cells.obs["kind"])
    assert np.isfinite(deep.X).all() and not deep.X[-1].any() and deep.X[:-1].any()
    line = refused(
        run(
            "enhance",
            tmp_path / "cells.h5ad",
            "--model",
            models["scgpt"],
            "-o",
            tmp_path / "x.h5ad",
        )
    )
    assert "gives no expression back; scFoundation does" in line


def test_a_file_of_expression_is_the_same_as_the_table(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cells = models["scfoundation"], every.cells_of(models["scfoundation"], 7)
    options = cellscribe.EnhanceOptions(precision="float32", device="cpu", threads=1)
    told: list[str] = []
    whole = cellscribe.enhance(cells, model=model, options=options, log=told.append)
    out = tmp_path / "deep.h5ad"
    backed = cellscribe.enhance_file(cells, out, options, model=model, log=told.append)
    assert backed.isbacked and backed.shape == whole.shape
    backed.file.close()
    found = ad.read_h5ad(out)
    np.testing.assert_array_equal(found.X, whole.X)
    pd.testing.assert_frame_equal(found.obs, whole.obs, check_categorical=False, check_dtype=False)
    pd.testing.assert_frame_equal(found.var, whole.var, check_index_type=False, check_dtype=False)
    assert found.uns["cellscribe"]["what"] == whole.uns["cellscribe"]["what"]

    # the file goes where the table does not fit, and neither where the disk is too small
    monkeypatch.setattr(enhance_module.os, "sysconf", lambda name: 16)
    with pytest.raises(InputError, match=r"use cellscribe\.enhance_file, or cellscribe enhance"):
        cellscribe.enhance(cells, model=model, options=options, log=told.append)
    cellscribe.enhance_file(cells, tmp_path / "b.h5ad", options, model=model, log=told.append)
    monkeypatch.setattr(enhance_module.shutil, "disk_usage", lambda path: disk(0, 0, 99))
    with pytest.raises(InputError, match=r"c\.h5ad: 7 cells x .* are free there; write elsewhere"):
        cellscribe.enhance_file(cells, tmp_path / "c.h5ad", options, model=model, log=told.append)
    nothing_new(tmp_path, "deep.h5ad", "b.h5ad")


# What is refused


def test_a_folder_of_something_else(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    line = refused(run("import", tmp_path / "in", "-o", tmp_path / "out"))
    assert "no checkpoint of a known family (notes.txt)" in line
    for family in FAMILIES:
        assert family_module(family).WANTS in line
    nothing_new(tmp_path, "in")


@pytest.mark.parametrize("name", ["nowhere", "nowhere/at/all.pt"])
def test_nothing_there(name: str, run: Cli, tmp_path: Path) -> None:
    line = refused(run("import", tmp_path / name, "-o", tmp_path / "out"))
    assert "no such file or folder" in line
    nothing_new(tmp_path)


def test_an_output_that_is_there_stays(run: Cli, tmp_path: Path) -> None:
    source, _ = every.write("scgpt", tmp_path / "published")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("text")
    assert "exists already" in refused(run("import", source, "-o", out))
    assert (out / "precious").read_text() == "text"
    assert "holds precious, which" in refused(run("import", source, "-o", out, "--overwrite"))
    (out / "precious").unlink()
    for _ in range(2):  # over an empty folder, and over a model
        assert run("import", source, "-o", out, "--overwrite").status == 0
    assert (out / "model.safetensors").exists()


def test_what_cannot_be_opened_again_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = every.write("scgpt", tmp_path / "published")

    def damaged(path: Path) -> None:
        assert (path / "model.safetensors").is_file()
        raise InputError("damaged")

    monkeypatch.setattr(importing, "open_model", damaged)
    with pytest.raises(InputError, match="damaged"):
        cellscribe.import_model(source, tmp_path / "out", log=lambda line: None)
    nothing_new(tmp_path, "published")


def test_names_that_do_not_fit_are_named() -> None:
    wanted = {f"layer.{i}": torch.zeros(2) for i in range(7)}
    with pytest.raises(InputError, match=r"7 tensors are missing: layer\.0, .*layer\.4 and 2 more"):
        check_names({}, wanted, "weights")
    with pytest.raises(InputError, match=r"1 tensors are left over: more"):
        check_names({**wanted, "more": torch.zeros(1)}, wanted, "weights")
    check_names({**wanted, "more.a": torch.zeros(1)}, wanted, "weights", spare="more")
    with pytest.raises(InputError, match=r"layer\.3 has shape \[3\] where .* asks for \[2\]"):
        check_names({**wanted, "layer.3": torch.zeros(3)}, wanted, "weights")


def test_a_verb_that_needs_a_bert_says_so(
    models: dict[str, Path], run: Cli, tmp_path: Path
) -> None:
    words = ("--init-from", models["scgpt"], "--corpus", tmp_path, "-o", tmp_path / "run")
    assert "a model of the family scgpt" in refused(run("train", *words))


def test_a_family_of_a_later_version(models: dict[str, Path], run: Cli, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "later"
    shutil.copytree(models["scgpt"], folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"family": "scgpt"', '"family": "scnew"'))
    line = refused(run("info", folder))
    assert "a model of the family 'scnew', which this version does not know" in line
