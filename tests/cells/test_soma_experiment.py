"""A SOMA experiment gives the blocks, names and labels of the AnnData that it was made of."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.soma_store import context

from cellscribe.cells.counts import open_counts
from cellscribe.config import InputOptions
from cellscribe.errors import InputError

soma_io = pytest.importorskip("tiledbsoma.io")
COUNTS = sp.random(40, 12, density=0.4, random_state=0, format="csr", dtype=np.float32)
COUNTS.data = np.ceil(COUNTS.data * 9)
COUNTS = sp.csr_matrix(sp.diags((np.arange(40) % 17 > 0).astype(np.float32)) @ COUNTS)
"""The first cell, and two others, are empty."""


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    obs = pd.DataFrame({"kind": ["a", "b"] * 20}, index=[f"c{i}" for i in range(40)])
    var = pd.DataFrame({"symbol": list("ABCDEFGHIJKL")}, index=[f"ENSG{i:011d}" for i in range(12)])
    return ad.AnnData(X=COUNTS.log1p(), obs=obs, var=var, layers={"counts": COUNTS})


@pytest.fixture(scope="module")
def store(adata: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("soma") / "mine"
    soma_io.from_anndata(str(path), adata, "RNA", context=context())
    return path


def test_blocks_names_and_labels(store: Path, adata: ad.AnnData) -> None:
    with open_counts(store, layer="counts") as counts:
        assert (counts.form, counts.layer) == ("soma", "ms/RNA/layers/counts")
        assert list(counts.var.index) == list(adata.var_names)
        assert list(counts.var["symbol"]) == list(adata.var["symbol"])
        assert list(counts.obs.index) == list(adata.obs_names)
        assert list(counts.obs["kind"]) == list(adata.obs["kind"])
        for first, block in zip(range(0, 40, 7), counts.blocks(7), strict=True):
            assert (COUNTS[first : first + 7] != block).nnz == 0
            assert block.has_canonical_format
        assert (COUNTS[20:] != sp.vstack(list(counts.blocks(9, 20)))).nnz == 0


def test_a_choice_of_layers_or_measurements_is_asked_for(store: Path) -> None:
    with pytest.raises(InputError, match="no matrix X; name one with --layer: counts, data"):
        open_counts(store)
    with (
        open_counts(store, layer="data") as counts,
        pytest.raises(InputError, match=r"log-normalised.*use --layer counts$"),
    ):
        next(counts.blocks(20))
    with pytest.raises(InputError, match="has no modality 'prot'; there are RNA"):
        open_counts(store, options=InputOptions(modality="prot"))


def test_the_only_layer_is_x(adata: ad.AnnData, tmp_path: Path) -> None:
    plain = ad.AnnData(X=COUNTS, obs=adata.obs, var=adata.var)
    soma_io.from_anndata(str(tmp_path / "s"), plain, "anything", context=context())
    options = InputOptions(modality="anything")
    with open_counts(tmp_path / "s", options=options) as counts:
        assert (sp.vstack(list(counts.blocks())) != COUNTS).nnz == 0


def test_what_is_no_experiment_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a SOMACollection; give an experiment"):
        open_counts(store / "ms")
    (tmp_path / "x" / "__group").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        open_counts(tmp_path / "x")
