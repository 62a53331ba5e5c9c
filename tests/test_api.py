"""The same from Python: what each call returns, what it leaves alone, and what it draws."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.formats import annotated
from support.same import assert_same
from support.tiny import N_GENES, WIDTH, real_genes, some_counts

import cellscribe
from cellscribe import EmbedOptions, InputError
from cellscribe.model.metadata import bundled_models

DENSE = some_counts(50)


@pytest.fixture
def cells() -> ad.AnnData:
    adata = annotated(sp.csr_matrix(DENSE), real_genes)
    adata.obs["cell_type"] = pd.Categorical(["T", "B", "NK", "T", "B"] * 10)
    adata.uns["title"] = "some cells"
    return adata


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> cellscribe.Embedder:
    return cellscribe.load(tiny_model, precision="float32", device="cpu")


def test_embed_writes_into_the_anndata(
    cells: ad.AnnData, tiny_model: Path, embedder: cellscribe.Embedder
) -> None:
    before = cells.copy()
    assert cellscribe.embed(cells, model=tiny_model, precision="float32", device="cpu") is None
    vectors = cells.obsm["X_cellscribe"]
    assert (vectors.shape, vectors.dtype) == ((50, WIDTH), np.float32)
    about = cells.uns["cellscribe"]["X_cellscribe"]
    assert about["model"] == "tiny"
    assert about["model_hash"] == embedder.hash
    assert about["vocabulary_hash"] == embedder.header.table.hash
    assert about["precision"] == "float32"
    assert about["layer"] == "X"
    # a second time under another name
    options = {"model": tiny_model, "precision": "float32", "device": "cpu"}
    assert cellscribe.embed(cells, key_added="X_half", dtype="float16", **options) is None
    np.testing.assert_array_equal(cells.obsm["X_half"], vectors.astype(np.float16), strict=True)
    assert cells.uns["cellscribe"].keys() == {"X_cellscribe", "X_half"}
    del cells.obsm["X_cellscribe"], cells.obsm["X_half"], cells.uns["cellscribe"]
    assert_same(cells, before)


def test_the_result_can_be_stored(cells: ad.AnnData, tiny_model: Path, tmp_path: Path) -> None:
    cellscribe.embed(cells, model=tiny_model)
    cells.write_h5ad(tmp_path / "out.h5ad")
    again = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(again.obsm["X_cellscribe"], cells.obsm["X_cellscribe"])
    assert again.uns["cellscribe"]["X_cellscribe"] == cells.uns["cellscribe"]["X_cellscribe"]


@pytest.mark.parametrize("backed", [False, True])
def test_copy_leaves_the_original_alone(
    backed: bool, cells: ad.AnnData, tiny_model: Path, tmp_path: Path
) -> None:
    before = cells.copy()
    if backed:
        cells.write_h5ad(tmp_path / "cells.h5ad")
        cells = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        before = cells.to_memory()
    made = cellscribe.embed(cells, model=tiny_model, copy=True, key_added="X_tiny")
    assert isinstance(made, ad.AnnData)
    assert made.obsm["X_tiny"].shape == (50, WIDTH)
    assert list(cells.obsm) == []
    assert "cellscribe" not in cells.uns
    del made.obsm["X_tiny"], made.uns["cellscribe"]
    assert_same(made, before)
    if backed:
        cells.file.close()


def test_a_path_gives_an_array(
    cells: ad.AnnData, tiny_model: Path, embedder: cellscribe.Embedder, tmp_path: Path
) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    expected = embedder.embed(cells)
    for path in (tmp_path / "cells.h5ad", str(tmp_path / "cells.h5ad")):
        vectors = cellscribe.embed(path, model=str(tiny_model), precision="float32", device="cpu")
        assert isinstance(vectors, np.ndarray)
        np.testing.assert_array_equal(vectors, expected, strict=True)
    assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_layers_and_gene_keys(cells: ad.AnnData, embedder: cellscribe.Embedder) -> None:
    expected = embedder.embed(cells)
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.log1p()
    cells.var["odd"] = cells.var_names
    cells.var.index = [f"locus{i}" for i in range(N_GENES)]
    del cells.var["gene_ids"]
    for key in ("odd", None):
        vectors = embedder.embed(cells, layer="counts", gene_key=key)
        np.testing.assert_array_equal(vectors, expected)
    with pytest.raises(InputError, match='use layer="counts"'):
        embedder.embed(cells)
    with pytest.raises(InputError, match="0 of 200 genes are known"):
        embedder.embed(cells, layer="counts", gene_key="var_names")


def test_a_loaded_model_can_be_used_again_and_again(
    cells: ad.AnnData, embedder: cellscribe.Embedder
) -> None:
    import torch

    threads = torch.get_num_threads()
    first, second = embedder.embed(cells), embedder.embed(cells)
    np.testing.assert_array_equal(first, second)
    assert torch.get_num_threads() == threads
    assert repr(embedder) == "<Embedder tiny on cpu, float32>"
    assert embedder.width == WIDTH


def test_bad_input_is_a_value_error(cells: ad.AnnData, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="no model 'nope'"):
        cellscribe.embed(cells, model="nope")
    cells.X = cells.X.astype(np.float32) * 1.5
    with pytest.raises(InputError, match="not raw counts"):
        cellscribe.embed(cells, model=tiny_model)
    assert list(cells.obsm) == []
    assert "cellscribe" not in cells.uns


def test_the_sample(tiny_model: Path) -> None:
    cells = cellscribe.sample()
    assert cells.n_obs == 700
    assert cells.obs["cell_type"].notna().all()
    assert cells.obs["cell_type"].nunique() > 4
    assert cells.obs_names.is_unique
    values = cells.X.data
    assert (values == np.round(values)).all()
    assert values.min() > 0
    assert "CC BY 4.0" in json.dumps(cells.uns["source"], default=str)
    # every call gives a fresh one
    cells.obs["cell_type"] = "changed"
    assert cellscribe.sample().obs["cell_type"].nunique() > 4


def test_a_view_is_embedded_without_a_warning(cells: ad.AnnData, embedder: Any) -> None:
    whole = cellscribe.embed(cells, model=embedder, copy=True)
    view = cells[10:20]
    cellscribe.embed(view, model=embedder)  # a warning would be an error here
    assert "X_cellscribe" not in cells.obsm
    np.testing.assert_allclose(
        view.obsm["X_cellscribe"], whole.obsm["X_cellscribe"][10:20], rtol=1e-4, atol=1e-6
    )


def test_a_training_run_stands_for_its_model(
    cells: ad.AnnData, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "first-run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match="no model yet"):
        cellscribe.load(run)
    shutil.copytree(tiny_model, run / "model")
    for path in (run, run / "model"):
        model = cellscribe.load(path, device="cpu")
        assert model.header.name == "first-run"
        assert model.header.directory == run / "model"


def test_tokenize_and_info(cells: ad.AnnData, tiny_model: Path, tmp_path: Path) -> None:
    done = cellscribe.tokenize(cells, tmp_path / "tokens.parquet", model=tiny_model)
    assert (done.n_cells, done.n_empty) == (50, int((DENSE.sum(1) == 0).sum()))
    assert cellscribe.info(tiny_model)["name"] == "tiny"


def test_the_public_names_are_there() -> None:
    assert set(cellscribe.__all__) <= set(dir(cellscribe))
    for name in cellscribe.__all__:
        assert getattr(cellscribe, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cellscribe.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import cellscribe; cellscribe.InputError, cellscribe.EmbedOptions",
        "import cellscribe.api",
        "from cellscribe.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from cellscribe.cli import main\ntry: main(['embed', '--help'])\nexcept SystemExit: pass",
        "from cellscribe.cli import main\ntry: main(['embed', 'none.h5ad', '-o', 'x.npy'])\n"
        "except SystemExit: pass",
    ],
    ids=["import", "api", "help", "help of a verb", "bad input"],
)
def test_torch_is_imported_only_for_work(code: str) -> None:
    heavy = "{'torch', 'transformers', 'umap', 'matplotlib', 'sklearn'}"
    code += f"\nimport sys; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def drawing() -> None:
    pytest.importorskip("matplotlib", reason="needs the extra cellscribe[report]")
    pytest.importorskip("umap", reason="needs the extra cellscribe[report]")


def words_of(page: Path) -> str:
    text = re.sub(r"<(style|script)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_report_and_map_are_written(
    drawing: None, cells: ad.AnnData, tiny_model: Path, tmp_path: Path
) -> None:
    # a third of the UMIs lie on a gene that the model does not know; two cells have nothing else
    dense = np.hstack([DENSE, np.zeros((50, 1), int)])
    dense[[4, 5], :-1] = 0
    dense[:, -1] = dense.sum(1) // 2 + 1
    adata = ad.AnnData(
        X=sp.csr_matrix(dense),
        obs=cells.obs,
        var=pd.DataFrame(index=[*real_genes(N_GENES)[0], "nothing"]),
    )
    source, page, picture = (tmp_path / name for name in ("my cells.h5ad", "page.html", "map.png"))
    adata.write_h5ad(source)
    result = cellscribe.embed_file(
        source,
        tmp_path / "out.npy",
        EmbedOptions(model=str(tiny_model), precision="float32", device="cpu"),
        report=page,
        map_png=picture,
        color_by="cell_type",
    )
    empty = np.flatnonzero(dense[:, :-1].sum(1) == 0)
    share = dense[:, :-1].sum() / dense.sum()
    text = words_of(page)
    assert "50 cells of my cells.h5ad" in text
    assert f"UMIs known {share:.1%}" in text
    assert f"Empty cells {len(empty)}" in text
    assert f"{len(empty)} cells have no gene that the model knows" in text
    assert " ".join(map(str, empty)) in text
    assert result.genes.summary() in text
    for warning in result.warnings:
        assert warning in text
    assert any("of the UMIs lie on genes that the model knows" in line for line in result.warnings)
    assert f"Model hash {result.provenance['model_hash']}" in text
    for label in ("NK", "cell_type"):
        assert label in text
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert np.load(tmp_path / "out.npy").shape == (50, WIDTH)


def test_a_map_of_cells_in_memory(
    drawing: None, cells: ad.AnnData, tiny_model: Path, tmp_path: Path
) -> None:
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[:3], "cell_type"] = None
    page = tmp_path / "page.html"
    cellscribe.embed_file(
        cells,
        tmp_path / "out.parquet",
        EmbedOptions(model=str(tiny_model)),
        report=page,
        color_by="cell_type",
    )
    assert "50 cells of AnnData object" in words_of(page)
    assert "missing" in words_of(page)


@pytest.mark.skipif(not bundled_models(), reason="this checkout has no bundled model")
def test_the_sample_with_the_bundled_model() -> None:
    cells = cellscribe.sample()[:60].copy()
    assert cellscribe.embed(cells) is None
    assert np.isfinite(cells.obsm["X_cellscribe"]).all()
    assert cells.obsm["X_cellscribe"].any(axis=1).all()
