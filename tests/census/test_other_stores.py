"""Any SOMA experiment, such as ``tiledbsoma.io.from_anndata`` makes, is downloaded by its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.soma_store import context
from support.tiny import real_genes

from cellscribe.census.download import count_labels, download_census
from cellscribe.config import CensusOptions
from cellscribe.errors import InputError

soma_io = pytest.importorskip("tiledbsoma.io")
GENES = real_genes(30)[0]
COUNTS = sp.random(40, 30, density=0.4, random_state=0, format="csr", dtype=np.float32)
COUNTS.data = np.ceil(COUNTS.data * 9)
SAMPLE = ["s1"] * 15 + ["s2"] * 25
WHOLE: dict[str, Any] = {
    "disease": ("any",),
    "exclude_suspension_type": ("none",),
    "include_duplicates": True,
    "obs": ("kind",),
}


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    obs = pd.DataFrame(
        {"sample": SAMPLE, "kind": ["a", "b"] * 20}, index=[f"c{i}" for i in range(40)]
    )
    adata = ad.AnnData(X=COUNTS.log1p(), obs=obs, var=pd.DataFrame(index=GENES))
    adata.layers["counts"] = COUNTS
    path = tmp_path_factory.mktemp("soma") / "mine"
    soma_io.from_anndata(str(path), adata, "genes", context=context())
    return path


def options(store: Path, **more: Any) -> CensusOptions:
    return CensusOptions(uri=str(store), **{**WHOLE, **more})


def test_a_store_of_from_anndata(store: Path, tmp_path: Path) -> None:
    named = {"measurement": "genes", "x_layer": "counts", "dataset_column": "sample"}
    assert count_labels(options(store, **named), log=silent).labels["kind"] == {"a": 20, "b": 20}
    done = download_census(tmp_path / "out", options(store, **named), log=silent)
    assert {name: about["cells"] for name, about in done.datasets.items()} == {"s1": 15, "s2": 25}
    start = 0
    for name, size in (("s1", 15), ("s2", 25)):
        found = ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad")
        rows = slice(start, start + size)
        assert (COUNTS[rows] != found.X).nnz == 0
        assert list(found.var_names) == GENES
        assert list(found.obs["kind"]) == (["a", "b"] * 20)[rows]
        assert set(found.obs["dataset_id"]) == {name}
        start += size


def test_all_cells_as_one_dataset(store: Path, tmp_path: Path) -> None:
    named = {"measurement": "genes", "x_layer": "counts", "dataset_column": "none"}
    done = download_census(tmp_path / "out", options(store, **named), log=silent)
    assert list(done.datasets) == ["mine"]
    found = ad.read_h5ad(tmp_path / "out" / "mine.h5ad")
    assert (found.X != COUNTS).nnz == 0 and set(found.obs["dataset_id"]) == {"mine"}
    # another request on the folder is refused, in both directions
    with pytest.raises(InputError, match="dataset"):
        download_census(
            tmp_path / "out", options(store, **{**named, "dataset_column": "sample"}), log=silent
        )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, r"has no column 'dataset_id'; .*--dataset-column, .*--dataset-column none"),
        ({"dataset_column": "none"}, r"has no 'RNA'; name another with --measurement; .* genes"),
        (
            {"dataset_column": "none", "measurement": "genes"},
            r"has several layers; .*--x-layer: counts, data$",
        ),
        (
            {"dataset_column": "none", "measurement": "genes", "x_layer": "umi"},
            r"has no layer 'umi'; .*--x-layer: counts, data$",
        ),
        (
            {
                "dataset_column": "none",
                "measurement": "genes",
                "x_layer": "counts",
                "gene_column": "symbol",
            },
            r"no column 'symbol'.*--gene-column: .*var_id",
        ),
        (
            {"dataset_column": "none", "measurement": "genes", "x_layer": "data"},
            "log-normalised",
        ),
    ],
)
def test_each_name_that_is_missing_is_asked_for(
    given: dict[str, str], what: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=what):
        download_census(tmp_path / "out", options(store, **given), log=silent)
