"""Vectors that are not finite are never given out, and what is at fault is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from support.formats import annotated
from support.tiny import real_genes, some_counts

import cellscribe
from cellscribe.errors import InputError
from cellscribe.inference.finite import which

N_CELLS = 60


@pytest.fixture
def model(tiny_model: Path) -> cellscribe.Embedder:
    return cellscribe.load(tiny_model, device="cpu", precision="float32", threads=1)


@pytest.fixture
def adata() -> Any:
    return annotated(sp.csr_matrix(some_counts(N_CELLS)), real_genes)


def weights(model: cellscribe.Embedder, name: str) -> torch.Tensor:
    return dict(model.cells.network.named_parameters())[name].data


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_weight_is_named(
    value: float, model: cellscribe.Embedder, adata: Any, tmp_path: Path
) -> None:
    weights(model, "genes.weight")[20] = value
    told = (
        r"the vectors of cells? [\d, and more]+ \(counted from 0\) are not finite, genes.weight of"
    )
    with pytest.raises(InputError, match=told):
        cellscribe.embed(adata, model=model)
    assert "X_cellscribe" not in adata.obsm
    for suffix in (".npy", ".h5ad"):
        with pytest.raises(InputError, match=told):
            cellscribe.embed_file(adata, tmp_path / f"out{suffix}", model=model)
    assert os.listdir(tmp_path) == []


def test_the_first_layer_that_overflows_is_named(model: cellscribe.Embedder, adata: Any) -> None:
    names = [name for name, _ in model.cells.network.named_modules()]
    layer = next(name for name in names if "blocks.1" in name and name.endswith("up"))
    weights(model, f"{layer}.weight").mul_(1e30)
    weights(model, f"{layer}.bias").fill_(3e38)
    with pytest.raises(InputError, match=r"not finite, from blocks\.1\.\S+ of the model on; its"):
        model.embed(adata)


def test_float16_that_overflows_is_told(
    model: cellscribe.Embedder, adata: Any, tmp_path: Path
) -> None:
    before = model.embed(adata)
    norm = [name for name in dict(model.cells.network.named_parameters()) if "ffn_norm" in name][-2]
    weights(model, norm).mul_(1e6)
    assert np.abs(model.embed(adata)).max() > 70_000 > np.abs(before).max()
    told = r"have values above 65504, the largest of float16; use dtype=.float32"
    with pytest.raises(InputError, match=told):
        cellscribe.embed(adata, model=model, dtype="float16")
    with pytest.raises(InputError, match=told):
        cellscribe.embed_file(adata, tmp_path / "out.npy", model=model, dtype="float16")
    assert os.listdir(tmp_path) == []


def test_cells_are_counted_and_few_are_named() -> None:
    assert which(np.array([7])) == "cell 7 (counted from 0)"
    assert which(np.arange(3)) == "cells 0, 1, 2 (counted from 0)"
    assert which(np.arange(1000, 1009)) == (
        "cells 1,000, 1,001, 1,002, 1,003, 1,004 and 4 more (counted from 0)"
    )
