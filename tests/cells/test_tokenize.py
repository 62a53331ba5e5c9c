"""The Parquet file of tokens, read back by others."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from support.tokenize import tokenize_file

from cellscribe.cells import pipeline
from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.errors import InputError

N_CELLS, CONTEXT = 90, 16
EMPTY = [0, 31, 89]


@pytest.fixture
def vocabulary() -> Vocabulary:
    rng = np.random.default_rng(1)
    ids = [f"ENSG{i:011}" for i in rng.permutation(30)]
    return Vocabulary.build(ids, [""] * 30, rng.integers(1, 30, 30) / 8)


@pytest.fixture
def adata() -> ad.AnnData:
    """40 genes, of which 30 are known, and one of them once more, with a version."""
    rng = np.random.default_rng(2)
    x = rng.poisson(0.8, (N_CELLS, 41)).astype(np.float32)
    x[EMPTY] = 0
    return ad.AnnData(
        X=csr_matrix(x),
        obs=pd.DataFrame(index=[f"cell {i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[*(f"ENSG{i:011}" for i in range(40)), "ENSG00000000007.3"]),
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", 16)


def by_the_contract(adata: ad.AnnData, vocabulary: Vocabulary) -> list[list[int]]:
    out = []
    for row in adata.X.toarray():
        count_of: dict[str, int] = defaultdict(int)
        for name, count in zip(adata.var_names, row, strict=True):
            count_of[name.split(".")[0]] += int(count)
        scaled = {
            vocabulary.ids.index(gene): Fraction(count)
            / Fraction(float(vocabulary.medians[vocabulary.ids.index(gene)]))
            for gene, count in count_of.items()
            if count and gene in vocabulary.ids
        }
        out.append(sorted(scaled, key=lambda token: (-scaled[token], token))[:CONTEXT])
    return out


@pytest.mark.parametrize("cls_token", [True, False])
def test_tokens_equal_the_contract(
    tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary, cls_token: bool
) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out, told = tmp_path / "tokens.parquet", []
    done = tokenize_file(
        tmp_path / "cells.h5ad",
        out,
        vocabulary=vocabulary,
        context=CONTEXT,
        cls_token=cls_token,
        progress=lambda n, of: told.append((n, of)),
    )
    expected = by_the_contract(adata, vocabulary)
    table = pq.read_table(out)
    assert table.schema.names == ["cell_id", "input_ids", "length"]
    assert table.schema.types == [pa.string(), pa.list_(pa.uint16()), pa.int32()]
    assert table["cell_id"].to_pylist() == [f"cell {i}" for i in range(N_CELLS)]
    front = [CLS] if cls_token else []
    assert table["input_ids"].to_pylist() == [front + tokens for tokens in expected]
    assert table["length"].to_pylist() == [len(front) + len(tokens) for tokens in expected]
    assert [i for i, tokens in enumerate(expected) if not tokens] == EMPTY
    assert (done.n_cells, done.n_empty) == (N_CELLS, len(EMPTY))
    assert done.n_tokens == sum(map(len, expected))
    assert told == [(min(n, N_CELLS), N_CELLS) for n in range(16, N_CELLS + 16, 16)]
    about = json.loads(table.schema.metadata[b"cellscribe"])
    assert about == {
        "vocabulary_hash": vocabulary.hash,
        "context": CONTEXT,
        "cls_token": cls_token,
        "layer": "X",
        "counts": "raw",
        "source": "cells.h5ad",
    }


def test_datasets_opens_it(tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "tokens.parquet"
    tokenize_file(adata, out, vocabulary=vocabulary, context=CONTEXT)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["input_ids"][:] == [[CLS, *t] for t in by_the_contract(adata, vocabulary)]
    assert loaded.features["input_ids"].feature.dtype == "uint16"


def test_a_file_of_empty_cells_alone(tmp_path: Path, vocabulary: Vocabulary) -> None:
    adata = ad.AnnData(
        X=csr_matrix((3, 30), dtype=np.float32),
        obs=pd.DataFrame(index=list("abc")),
        var=pd.DataFrame(index=[f"ENSG{i:011}" for i in range(30)]),
    )
    out = tmp_path / "tokens.parquet"
    done = tokenize_file(adata, out, vocabulary=vocabulary, context=CONTEXT, cls_token=False)
    assert (done.n_cells, done.n_tokens, done.n_empty) == (3, 0, 3)
    assert pq.read_table(out)["input_ids"].to_pylist() == [[], [], []]


def test_other_suffix_is_refused(tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match=r"name it tokens\.parquet"):
        tokenize_file(adata, tmp_path / "tokens.npy", vocabulary=vocabulary, context=CONTEXT)
    assert os.listdir(tmp_path) == []


def test_an_existing_output_is_kept_unless_told_otherwise(
    tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary
) -> None:
    out = tmp_path / "tokens.parquet"
    out.write_text("precious")
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        tokenize_file(adata, out, vocabulary=vocabulary, context=CONTEXT)
    assert out.read_text() == "precious"
    tokenize_file(adata, out, vocabulary=vocabulary, context=CONTEXT, overwrite=True)
    assert pq.read_table(out).num_rows == N_CELLS
    assert os.listdir(tmp_path) == ["tokens.parquet"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(
    tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary, overwrite: bool
) -> None:
    source = tmp_path / "cells.parquet"  # by its content an .h5ad
    adata.write_h5ad(source)
    before = source.read_bytes()
    (tmp_path / "link.parquet").symlink_to(source)
    for out in (source, tmp_path / "link.parquet"):
        with pytest.raises(InputError, match="is the input itself"):
            tokenize_file(source, out, vocabulary=vocabulary, context=CONTEXT, overwrite=overwrite)
    assert source.read_bytes() == before


def test_an_error_in_the_middle_leaves_nothing(
    tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary
) -> None:
    adata.X.data[adata.X.indptr[80]] = np.nan
    source = tmp_path / "cells.h5ad"
    adata.write_h5ad(source)
    out = tmp_path / "tokens.parquet"
    with pytest.raises(InputError, match=r"missing or infinite values.*cell 80"):
        tokenize_file(source, out, vocabulary=vocabulary, context=CONTEXT)
    assert os.listdir(tmp_path) == ["cells.h5ad"]
    out.write_text("precious")
    with pytest.raises(InputError, match="missing or infinite values"):
        tokenize_file(source, out, vocabulary=vocabulary, context=CONTEXT, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["cells.h5ad", "tokens.parquet"]
    assert out.read_text() == "precious"


def test_a_stop_in_the_middle_leaves_nothing(
    tmp_path: Path, adata: ad.AnnData, vocabulary: Vocabulary
) -> None:
    def stop(done: int, of: int) -> None:
        if done > of / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_file(
            adata, tmp_path / "t.parquet", vocabulary=vocabulary, context=CONTEXT, progress=stop
        )
    assert os.listdir(tmp_path) == []
