"""From files to vectors: against BERT cell by cell, from every format, into every form."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch
from support.formats import WRITERS, Write, annotated, write_zarr
from support.same import assert_same
from support.tiny import CONTEXT, N_GENES, WIDTH, real_genes, save_model, some_counts

from cellscribe.api.embed import embed_file
from cellscribe.cells import pipeline
from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.config import EmbedOptions
from cellscribe.errors import InputError
from cellscribe.inference.embed import Embedded
from cellscribe.inference.embedder import load
from cellscribe.model.checkpoint import load_checkpoint

FORMS = (".npy", ".h5ad", ".zarr", ".parquet")
DENSE = some_counts(60)


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    return by_bert(tiny_model, DENSE)


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> np.ndarray:
    """What cellscribe gives for `DENSE`, to be had bit for bit by every other way."""
    return load(tiny_model, precision="float32").embed(cells_of(DENSE))


def by_bert(model: Path, dense: np.ndarray) -> np.ndarray:
    """Rank, run Hugging Face's BERT and average, one cell at a time."""
    from transformers import BertModel

    bert = BertModel.from_pretrained(
        model, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vocabulary = Vocabulary.read(model / "genes.tsv")
    token = np.array([vocabulary.token_of[gene] for gene in real_genes(dense.shape[1])[0]])
    vectors = np.zeros((len(dense), WIDTH), np.float32)
    for row, counts in enumerate(dense):
        found = np.flatnonzero(counts)
        if not len(found):
            continue
        values = counts[found] / counts.sum() * 10_000 / vocabulary.medians[token[found]]
        ranked = token[found][np.lexsort((token[found], -values))][:CONTEXT]
        with torch.inference_mode():
            hidden = bert(torch.tensor([[CLS, *ranked]])).last_hidden_state[0]
        vectors[row] = hidden[1:].mean(0).numpy()
    return vectors


def cells_of(dense: np.ndarray, **more: Any) -> ad.AnnData:
    return annotated(sp.csr_matrix(dense), real_genes, **more)


def run(source: Any, out: Path, model: Path, **options: Any) -> Embedded:
    chosen = {"model": str(model), "precision": "float32", "device": "cpu"} | options
    return embed_file(source, out, EmbedOptions(**chosen), log=lambda line: None)


def read_container(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        # as it stands in the input
        warnings.filterwarnings("ignore", "(Observation|Variable) names are not unique")
        warnings.filterwarnings("ignore", category=ad.OldFormatWarning)
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


def read_vectors(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        column = pq.read_table(path)["embedding"].combine_chunks()
        return column.flatten().to_numpy().reshape(len(column), -1)
    return read_container(path).obsm["X_cellscribe"]


def close(source: Any) -> None:
    if isinstance(source, ad.AnnData) and source.isbacked:
        source.file.close()


def test_vectors_are_those_of_bert_cell_by_cell(
    expected: np.ndarray, reference: np.ndarray
) -> None:
    np.testing.assert_allclose(reference, expected, atol=1e-5, rtol=0)
    lengths = (DENSE > 0).sum(1)
    assert lengths.min() == 0
    assert lengths.max() > CONTEXT
    # a wrong order, a wrong mask or a missing cell would show
    assert np.abs(expected[lengths > 0].std(0)).min() > 0.01


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_bytes_in_every_form(
    writer: Write, reference: np.ndarray, tiny_model: Path, tmp_path: Path, small_blocks: None
) -> None:
    source = writer(DENSE, tmp_path, real_genes)
    for suffix in FORMS:
        out = tmp_path / f"out{suffix}"
        result = run(source, out, tiny_model)
        np.testing.assert_array_equal(read_vectors(out), reference, strict=True)
        assert result.n_cells == len(DENSE)
        if suffix == ".parquet":
            names = pq.read_table(out)["cell_id"].to_pylist()
            assert names == [f"cell{i}" for i in range(len(DENSE))]
        elif suffix != ".npy":
            made = read_container(out)
            assert list(made.obs_names) == [f"cell{i}" for i in range(len(DENSE))]
            assert list(made.var_names) == real_genes(N_GENES)[1]
            kept = made.X.toarray() if sp.issparse(made.X) else made.X
            np.testing.assert_array_equal(kept, DENSE)
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))}
    assert left == {
        "out.npy",
        "out.npy.json",
        "out.h5ad",
        "out.zarr",
        "out.parquet",
        *(["out.parquet.json"]),
    }
    close(source)


@pytest.mark.parametrize("suffix", FORMS)
def test_float16_is_the_float32_rounded(
    suffix: str, reference: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"out{suffix}"
    run(cells_of(DENSE), out, tiny_model, dtype="float16")
    np.testing.assert_array_equal(read_vectors(out), reference.astype(np.float16), strict=True)


def rich() -> ad.AnnData:
    """Cells with something in every corner of an AnnData."""
    adata = cells_of(DENSE.astype(np.float32), layers={"spliced": sp.csc_matrix(DENSE // 2)})
    adata.obs["cell_type"] = pd.Categorical(["T", "B", "NK"] * 20, categories=["NK", "T", "B"])
    adata.obs["depth"] = DENSE.sum(1)
    adata.obs["note"] = pd.array(["x", None] * 30, dtype="string")
    adata.var["highly_variable"] = np.arange(N_GENES) % 3 == 0
    adata.uns = {"title": "rich", "colours": np.array(["#000000", "#ffffff"]), "deep": {"er": 1}}
    adata.obsm["X_pca"] = np.arange(180.0).reshape(60, 3)
    adata.varm["PCs"] = np.ones((N_GENES, 3))
    adata.obsp["distances"] = sp.eye(60, format="csr")
    adata.raw = cells_of(DENSE)
    return adata


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".zarr v2"])
def test_a_container_keeps_all_it_had(
    suffix: str, reference: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    adata, kind = rich(), suffix.split()[0]
    source, out = tmp_path / f"in{kind}", tmp_path / f"out{kind}"
    with ad.settings.override(allow_write_nullable_strings=True):
        if kind == ".h5ad":
            adata.write_h5ad(source)
        else:
            write_zarr(adata, source, version=2 if suffix.endswith("v2") else 3)
    before, _ = read_container(source), run(source, out, tiny_model)
    after = read_container(out)
    np.testing.assert_array_equal(after.obsm.pop("X_cellscribe"), reference, strict=True)
    assert after.uns.pop("cellscribe").keys() == {"X_cellscribe"}
    assert_same(after, before)
    assert after.raw is not None
    # a second model's vectors stand beside the first one's
    again = tmp_path / f"again{kind}"
    other = run(out, again, tiny_model, key_added="X_other", dtype="float16")
    both = read_container(again)
    np.testing.assert_array_equal(both.obsm["X_cellscribe"], reference)
    np.testing.assert_array_equal(both.obsm["X_other"], reference.astype(np.float16))
    assert both.uns["cellscribe"]["X_other"]["dtype"] == other.provenance["dtype"] == "float16"
    assert both.uns["cellscribe"]["X_cellscribe"]["dtype"] == "float32"
    # and vectors of the same name take the old ones' place
    run(again, tmp_path / f"third{kind}", tiny_model, key_added="X_other")
    third = read_container(tmp_path / f"third{kind}")
    np.testing.assert_array_equal(third.obsm["X_other"], reference, strict=True)


@pytest.mark.parametrize("key", ["", "a/b", "."])
def test_a_key_that_is_no_name_is_refused(key: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--key-added"):
        run(cells_of(DENSE), tmp_path / "out.h5ad", tiny_model, key_added=key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMS)
def test_provenance_travels_with_the_vectors(suffix: str, tiny_model: Path, tmp_path: Path) -> None:
    # two columns that the model does not know
    dense = np.hstack([DENSE, np.full((60, 2), 5)])
    adata = cells_of(DENSE)
    adata = ad.AnnData(
        X=sp.csr_matrix(dense),
        obs=adata.obs,
        var=pd.DataFrame(index=[*real_genes(N_GENES)[0], "nothing1", "nothing2"]),
    )
    source, out = tmp_path / "cells.h5ad", tmp_path / f"out{suffix}"
    adata.write_h5ad(source)
    result = run(source, out, tiny_model)
    if suffix in (".npy", ".parquet"):
        told = json.loads((tmp_path / f"out{suffix}.json").read_text())
    else:
        told = dict(read_container(out).uns["cellscribe"]["X_cellscribe"])
    model = load_checkpoint(tiny_model)
    expected = {
        "model": "tiny",
        "model_hash": model.hash,
        "vocabulary_hash": model.vocabulary.hash,
        "context": CONTEXT,
        "precision": "float32",
        "device": "cpu",
        "dtype": "float32",
        "source": "cells.h5ad",
        "layer": "X",
        "gene_key": "var_names",
        "n_cells": 60,
        "n_empty_cells": int((DENSE.sum(1) == 0).sum()),
        "n_genes": N_GENES + 2,
        "n_genes_known": N_GENES,
        "umis": dense.sum(),
        "umis_known": DENSE.sum(),
    }
    assert {key: told[key] for key in expected} == expected
    assert told == result.provenance
    assert "mean of the last hidden layer" in told["pooling"]


def test_rows_come_out_in_the_order_they_went_in(
    reference: np.ndarray, tiny_model: Path, small_blocks: None
) -> None:
    embedder = load(tiny_model, precision="float32")
    order = np.random.default_rng(2).permutation(60)
    permuted = embedder.embed(cells_of(DENSE[order]))
    np.testing.assert_allclose(permuted, reference[order], atol=1e-5, rtol=0)
    some = np.array([41, 3, 7])
    np.testing.assert_allclose(embedder.embed(cells_of(DENSE[some])), reference[some], atol=1e-5)
    alone = np.vstack([embedder.embed(cells_of(DENSE[[row]])) for row in some[[0, 2]]])
    np.testing.assert_allclose(alone, reference[some[[0, 2]]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".npy", ".h5ad", ".parquet"])
def test_the_number_of_threads_changes_no_byte(
    suffix: str, tiny_model: Path, tmp_path: Path, small_blocks: None
) -> None:
    source = cells_of(some_counts(150, seed=4))
    for threads in (1, 3):
        run(source, tmp_path / f"{threads}{suffix}", tiny_model, threads=threads, precision="auto")
    one, three = (tmp_path / f"{threads}{suffix}" for threads in (1, 3))
    if suffix == ".h5ad":
        np.testing.assert_array_equal(read_vectors(one), read_vectors(three), strict=True)
    else:
        assert one.read_bytes() == three.read_bytes()


def test_more_cells_than_a_block(tiny_model: Path, tmp_path: Path) -> None:
    n_cells = 2 * pipeline.BLOCK + 300
    dense = np.vstack([DENSE] * (n_cells // len(DENSE) + 1))[:n_cells]
    seen: list[tuple[int, int]] = []
    options = EmbedOptions(model=str(tiny_model), precision="float32")
    out = tmp_path / "out.h5ad"
    embed_file(cells_of(dense), out, options, progress=lambda *told: seen.append(told))
    made = read_container(out)
    one = load(tiny_model, precision="float32").embed(cells_of(DENSE))
    expected = np.vstack([one] * (n_cells // len(DENSE) + 1))[:n_cells]
    np.testing.assert_allclose(made.obsm["X_cellscribe"], expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(made.X.toarray(), dense)
    done = [told for told, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {n_cells}
    assert done[-1] <= n_cells


def test_empty_cells_get_zeros_and_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    dense = some_counts(20, seed=1) + 1
    dense[[0, 7, 19]] = 0
    # this one has counts, but on no gene that the model knows
    adata = ad.AnnData(
        X=sp.csr_matrix(np.hstack([dense, np.full((20, 1), 9)])),
        var=pd.DataFrame(index=[*real_genes(N_GENES)[0], "nothing"]),
        obs=pd.DataFrame(index=[str(i) for i in range(20)]),
    )
    result = run(adata, tmp_path / "out.npy", tiny_model)
    vectors = np.load(tmp_path / "out.npy")
    assert np.flatnonzero((vectors == 0).all(1)).tolist() == [0, 7, 19]
    assert result.provenance["n_empty_cells"] == 3
    assert any(
        "3 of 20 cells have no count on a gene" in line and "rows 0, 7, 19" in line
        for line in result.warnings
    )


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("of_same_form", [True, False])
def test_repeated_names_stay(
    suffix: str, of_same_form: bool, reference: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    adata = cells_of(DENSE)
    adata.obs.index = pd.Index(["same"] * 60)
    adata.var["gene_ids"] = adata.var["gene_ids"].to_numpy()
    adata.var.index = pd.Index(["gene"] * N_GENES)
    source: Any = adata
    if of_same_form and suffix in (".h5ad", ".zarr"):
        source = tmp_path / f"in{suffix}"
        adata.write_h5ad(source) if suffix == ".h5ad" else write_zarr(adata, source)
    out = tmp_path / f"out{suffix}"
    run(source, out, tiny_model)
    np.testing.assert_array_equal(read_vectors(out), reference, strict=True)
    if suffix == ".parquet":
        assert set(pq.read_table(out)["cell_id"].to_pylist()) == {"same"}
    elif suffix != ".npy":
        made = read_container(out)
        assert set(made.obs_names) == {"same"}
        assert set(made.var_names) == {"gene"}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_annotations_of_any_kind_are_carried_over(
    suffix: str, tiny_model: Path, tmp_path: Path
) -> None:
    adata = cells_of(DENSE)
    adata.obs["mixed"] = ["text", 1, None] * 20
    adata.obs["when"] = pd.Timestamp("2020-01-01")
    adata.obs["type"] = pd.Categorical(["a", None] * 30)
    adata.obs["kind"] = pd.array(["x"] * 60, dtype="string")
    adata.obs["cell"] = adata.obs_names
    adata.obs.index.name = "cell"
    adata.obs["flag"] = pd.array([True, None] * 30, dtype="boolean")
    adata.obs["CD4/CD8"] = 0.5
    adata.obs["_index"] = "of another tool"
    run(adata, tmp_path / f"out{suffix}", tiny_model)
    made = read_container(tmp_path / f"out{suffix}").obs
    assert list(made["mixed"][:2]) == ["text", "1"]
    assert list(made["type"][:1]) == ["a"]
    assert made["type"].isna().sum() == 30
    assert made["flag"].isna().sum() == 30
    assert set(made["kind"]) == {"x"}
    assert set(made["CD4_CD8"]) == {0.5}
    assert set(made["index_"]) == {"of another tool"}
    assert list(made["cell"]) == list(made.index) == list(adata.obs_names)
    assert str(made["when"].iloc[0]).startswith("2020-01-01")


def test_another_model_gives_other_vectors(
    reference: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    for name, choice in (("seed", {"seed": 1}), ("medians", {"changed_medians": True})):
        other = load(save_model(tmp_path / name, **choice), precision="float32")
        assert not np.allclose(other.embed(cells_of(DENSE)), reference, atol=1e-2)


def test_bf16_is_near_float32(reference: np.ndarray, tiny_model: Path) -> None:
    vectors = load(tiny_model, precision="bf16").embed(cells_of(DENSE))
    full = reference.any(axis=1)
    lengths = np.linalg.norm(vectors[full], axis=1) * np.linalg.norm(reference[full], axis=1)
    assert ((vectors[full] * reference[full]).sum(1) / lengths).min() > 0.999
    assert not vectors[~full].any()
