"""The files that benchmarks run on: real counts, in one gene space, readable by anndata."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from benchmarks import real_cells as module
from benchmarks.real_cells import real_cells
from scipy.sparse import csr_matrix

from cellscribe.errors import InputError

A, B, C, D = (f"ENSG{i:011d}" for i in range(1, 5))


def write(path: Path, counts: list[list[int]], ids: list[str], **obs: object) -> None:
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(len(counts))])
    var = pd.DataFrame({"ensembl_id": ids}, index=[f"g{i}" for i in range(len(ids))])
    anndata.AnnData(csr_matrix(np.array(counts, np.int32)), obs=frame, var=var).write_h5ad(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "FEWEST_GENES", 3)
    data = tmp_path / "data"
    data.mkdir()
    # A version to strip, a gene without an id, an id that stands twice, a file of too few genes.
    write(data / "one.h5ad", [[1, 2, 0, 9], [0, 3, 4, 9]], [f"{A}.7", B, C, ""])
    write(
        data / "two.h5ad",
        [[5, 0, 6], [7, 8, 9], [1, 1, 1]],
        [B, B, D],
        in_came_baron=[False, True, False],
    )
    write(data / "panel.h5ad", [[1, 1]], [A, B])
    return data


EXPECTED = {(1, 2, 0, 0), (0, 3, 4, 0), (0, 5, 0, 6), (0, 2, 0, 1)}


@pytest.mark.parametrize("compression", [None, "lzf"])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_rows_repeat_in_one_gene_space(
    folder: Path, tmp_path: Path, block: int, compression: str | None
) -> None:
    path = tmp_path / "out.h5ad"
    facts = real_cells(folder, 10, path, block=block, compression=compression)
    adata = anndata.read_h5ad(path)
    assert list(adata.var_names) == [A, B, C, D] == list(adata.var["ensembl_id"])
    assert isinstance(adata.X, csr_matrix)
    assert adata.X.dtype == np.float32
    rows = [tuple(row) for row in adata.X.toarray().astype(int)]
    assert set(rows[:4]) == EXPECTED
    assert rows == (rows[:4] * 3)[:10]
    assert adata.obs["n_counts"].tolist() == [sum(row) for row in rows]
    dataset = dict(zip(rows, adata.obs["source_dataset"], strict=True))
    assert {row for row, name in dataset.items() if name == "one"} == {(1, 2, 0, 0), (0, 3, 4, 0)}
    assert adata.obs_names.is_unique
    assert facts == {
        "cells": 10,
        "distinct_cells": 4,
        "genes": 4,
        "non_zeros": adata.X.nnz,
        "files": ["one", "two"],
    }
    with h5py.File(path) as file:
        assert file["X/indptr"].dtype == np.int32


def test_the_seed_decides_the_order(folder: Path, tmp_path: Path) -> None:
    def rows(seed: int) -> list[list[float]]:
        real_cells(folder, 4, tmp_path / "out.h5ad", seed=seed)
        return anndata.read_h5ad(tmp_path / "out.h5ad").X.toarray().tolist()

    assert rows(0) == rows(0)
    assert any(rows(0) != rows(seed) for seed in range(1, 5))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no h5ad file"):
        real_cells(tmp_path, 10, tmp_path / "out.h5ad")


def test_the_shared_files_have_a_common_gene_space(shared_data: Path, tmp_path: Path) -> None:
    facts = real_cells(shared_data, 50, tmp_path / "out.h5ad")
    assert not [name for name in facts["files"] if "papalexi" in name]
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert adata.var_names.str.fullmatch(r"ENSG\d{11}").all()
    assert adata.var_names.is_unique
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.round(adata.X.data)).all()
