"""Tokens embed to the bytes of the counts that they were made of, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from datasets import Dataset, DatasetDict
from pyarrow import parquet
from support.tiny import N_GENES, real_genes, save_model

import cellscribe
from cellscribe.errors import InputError

RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(RANDOM.gamma(0.3, 6, (70, N_GENES)))
COUNTS[[3, 69]] = 0
CELLS = [f"cell {i}" for i in range(70)]
pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    obs = pd.DataFrame({"kind": ["a", "b"] * 35}, index=CELLS)
    var = pd.DataFrame(index=real_genes(N_GENES)[0])
    return ad.AnnData(X=sp.csr_matrix(COUNTS), obs=obs, var=var)


@pytest.fixture(scope="module")
def tokens(cells: ad.AnnData, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "cells.parquet"
    cellscribe.tokenize(cells, out, model=tiny_model)
    return out


def embed(source: Any, model: Path) -> np.ndarray:
    loaded = cellscribe.load(model, device="cpu", precision="float32", threads=1)
    if isinstance(source, ad.AnnData):
        return loaded.embed(source)
    return cellscribe.embed(source, model=loaded)


@pytest.fixture(scope="module")
def wanted(cells: ad.AnnData, tiny_model: Path) -> np.ndarray:
    return embed(cells, tiny_model)


def test_our_own_file(wanted: np.ndarray, tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(embed(tokens, tiny_model), wanted)
    out = tmp_path / "out.h5ad"
    done = cellscribe.embed_file(tokens, out, model=tiny_model, precision="float32", device="cpu")
    found = ad.read_h5ad(out)
    np.testing.assert_array_equal(found.obsm["X_cellscribe"], wanted)
    assert list(found.obs_names) == CELLS and found.n_vars == 0
    about = done.provenance
    assert about["layer"] == "tokens" and about["n_empty_cells"] == 2
    # nothing is said that tokens do not tell
    assert not {"umis", "umis_known", "n_genes", "n_genes_known"} & set(about)


def rows(tokens: Path, *, specials: bool = True) -> dict[str, list[Any]]:
    table = parquet.read_table(tokens)
    ids = table["input_ids"].to_pylist()
    return {
        "input_ids": ids if specials else [cell[1:] for cell in ids],
        "length": table["length"].to_pylist(),
        "cell_type": ["a", "b"] * 35,
    }


@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("as_dict", [True, False])
def test_a_dataset_of_hugging_face(
    wanted: np.ndarray,
    tokens: Path,
    tiny_model: Path,
    specials: bool,
    as_dict: bool,
    tmp_path: Path,
) -> None:
    made: Any = Dataset.from_dict(rows(tokens, specials=specials))
    folder = tmp_path / "cells.dataset"
    if as_dict:
        made = DatasetDict(train=made)
    shards = {"train": 3} if as_dict else 3
    made.save_to_disk(folder, num_shards=shards)
    said: list[str] = []
    out = tmp_path / "out.h5ad"
    cellscribe.embed_file(
        folder, out, model=tiny_model, precision="float32", device="cpu", log=said.append
    )
    found = ad.read_h5ad(out)
    np.testing.assert_array_equal(found.obsm["X_cellscribe"], wanted)
    assert list(found.obs) == ["cell_type"] and list(found.obs["cell_type"]) == ["a", "b"] * 35
    assert any("does not say whose tokens" in line for line in said)


def test_a_resumed_run_gives_the_same_bytes(
    wanted: np.ndarray, tokens: Path, tiny_model: Path
) -> None:
    from cellscribe.inference.session import open_session

    options = cellscribe.EmbedOptions(
        model=str(tiny_model), precision="float32", device="cpu", threads=1
    )
    with open_session(None, options) as session:
        opened = session.map_genes(session.open_cells(tokens))
        blocks = session.embedder.blocks(opened.counts, opened.genes, start=32)
        found = np.concatenate([block.vectors for block in blocks])
        with pytest.raises(InputError, match="tokens and no counts"):
            next(iter(opened.counts.blocks()))
    np.testing.assert_array_equal(found, wanted[32:])


@pytest.mark.parametrize("size", [7, 16, 1000])
def test_row_groups_of_any_size(
    size: int, wanted: np.ndarray, tokens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    parquet.write_table(parquet.read_table(tokens), tmp_path / "x.parquet", row_group_size=size)
    np.testing.assert_array_equal(embed(tmp_path / "x.parquet", tiny_model), wanted)


def test_tokens_of_another_model_are_refused(tokens: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", changed_medians=True)
    with pytest.raises(InputError, match=r"tokens of another model .vocabulary hash "):
        embed(tokens, other)


def test_a_run_goes_on_with_the_same_tokens_alone(
    wanted: np.ndarray, tokens: Path, tiny_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from cellscribe.inference import embed as run

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    changed = rows(tokens)
    source, out = tmp_path / "x.dataset", tmp_path / "out.npy"
    Dataset.from_dict(changed).save_to_disk(source)
    settings: dict[str, Any] = {"model": tiny_model, "precision": "float32", "device": "cpu"}
    monkeypatch.setattr(run, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        cellscribe.embed_file(source, out, **settings)
    monkeypatch.undo()
    changed["input_ids"][20] = [*sorted(changed["input_ids"][20])]
    shutil.rmtree(source)
    Dataset.from_dict(changed).save_to_disk(source)
    with pytest.raises(InputError, match="another input"):
        cellscribe.embed_file(source, out, **settings, resume=True)
    shutil.rmtree(source)
    Dataset.from_dict(rows(tokens)).save_to_disk(source)
    cellscribe.embed_file(source, out, **settings, resume=True)
    np.testing.assert_array_equal(np.load(out), wanted)


def rewritten(tokens: Path, folder: Path, **about: Any) -> Path:
    """The file with something else said of it."""
    table = parquet.read_table(tokens)
    said = {**json.loads(table.schema.metadata[b"cellscribe"]), **about}
    path = folder / "said.parquet"
    parquet.write_table(table.replace_schema_metadata({"cellscribe": json.dumps(said)}), path)
    return path


@pytest.mark.parametrize("about", [{"context": 2048}, {"family": "x"}, {"cls_token": False}])
def test_what_the_file_says_must_be_the_models(
    about: dict[str, Any], tokens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert embed(rewritten(tokens, tmp_path), tiny_model).any()
    with pytest.raises(InputError, match="tokens of another model"):
        embed(rewritten(tokens, tmp_path, **about), tiny_model)


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ([0, 10, 60_000], "token 60000 in cell 40, counted from 0, and the model's vocabulary"),
        ([0, 10, -1], "token -1 in cell 40"),
        ([0, 10, 1, 12], "token 1 among the genes of cell 40"),
        ([10, 0], "token 0 among the genes of cell 40"),
        ([0, *range(10, 110)], "a cell of 100 genes, and the model reads 48"),
    ],
)
def test_tokens_that_cannot_be_are_refused(
    cell: list[int], what: str, tokens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    changed = rows(tokens)
    changed["input_ids"][40] = cell
    Dataset.from_dict(changed).save_to_disk(tmp_path / "x.dataset")
    with pytest.raises(InputError, match=what):
        embed(tmp_path / "x.dataset", tiny_model)


def test_damaged_tokens_are_refused(tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.dataset"
    Dataset.from_dict(rows(tokens)).save_to_disk(folder)
    [file] = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read"):
        embed(folder, tiny_model)
    (folder / "state.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"):
        embed(folder, tiny_model)
    for column in (pa.array([1, 2]), pa.array([["a"], ["b"]]), pa.array([[5], None])):
        parquet.write_table(pa.table({"input_ids": column}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=r"no column of lists|holds no numbers"):
            embed(tmp_path / "x.parquet", tiny_model)


def test_options_of_counts_mean_nothing(tokens: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no counts; leave layer=... out"):
        cellscribe.embed(tokens, model=tiny_model, layer="counts")
    with pytest.raises(InputError, match="as a report shows"):
        cellscribe.embed_file(
            tokens, tmp_path / "x.npy", model=tiny_model, report=tmp_path / "x.html"
        )
    assert not (tmp_path / "x.npy").exists()
