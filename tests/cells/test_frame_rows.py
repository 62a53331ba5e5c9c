"""Some rows of obs, read alone: the same as those of the whole table, which anndata reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support.formats import annotated, old_h5ad, write_zarr

from cellscribe.cells.counts import open_counts
from cellscribe.cells.readers import frame_rows

N = 30
NAMES = [f"cell{i}" for i in range(N)]


def obs() -> pd.DataFrame:
    some = [i % 3 == 0 for i in range(N)]
    return pd.DataFrame(
        {
            "kind": pd.Categorical([None if i % 7 == 0 else "ab"[i % 2] for i in range(N)]),
            "stage": pd.Categorical([i % 3 for i in range(N)], categories=[2, 1, 0], ordered=True),
            "text": [f"é{i}" for i in range(N)],
            "whole": np.arange(N, dtype=np.int16),
            "part": np.where(some, np.nan, np.arange(N) / 2),
            "flag": some,
            "gaps": pd.array([None if each else 1 for each in some], dtype="Int64"),
            "maybe": pd.array([None if each else True for each in some], dtype="boolean"),
        },
        index=NAMES,
    )


def write(kind: str, folder: Path, **more: Any) -> Path:
    adata = annotated(np.arange(N * 5).reshape(N, 5), **more)
    adata.obs = obs()
    if kind == "h5ad":
        adata.write_h5ad(folder / "a.h5ad")
        return folder / "a.h5ad"
    write_zarr(adata, folder / "a.zarr", version=int(kind[-1]))
    return folder / "a.zarr"


@pytest.mark.parametrize("kind", ["h5ad", "zarr 2", "zarr 3"])
def test_rows_are_those_of_the_whole_table(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_counts(write(kind, tmp_path)) as counts:
        whole = counts.obs
        # what is compared with must not be what is tested
        monkeypatch.setattr(frame_rows, "stored_frame", None)
        for first, last in ((0, 11), (11, 12), (12, N), (0, N)):
            part = counts.part(first, last)
            pd.testing.assert_frame_equal(part.obs, whole.iloc[first:last])
        inner = counts.part(10, 25).part(3, 9)
        pd.testing.assert_frame_equal(inner.obs, whole.iloc[13:19])


def test_a_named_index_keeps_its_name(tmp_path: Path) -> None:
    adata = annotated(np.arange(N * 5).reshape(N, 5))
    adata.obs.index.name = "barcode"
    adata.write_h5ad(tmp_path / "a.h5ad")
    with open_counts(tmp_path / "a.h5ad") as counts:
        pd.testing.assert_frame_equal(counts.part(4, 8).obs, counts.obs.iloc[4:8])


def test_texts_with_gaps(tmp_path: Path) -> None:
    adata = annotated(np.arange(N * 5).reshape(N, 5))
    adata.obs["t"] = pd.array([None if i % 2 else "x" for i in range(N)], dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(tmp_path / "a.h5ad")
    with open_counts(tmp_path / "a.h5ad") as counts:
        pd.testing.assert_frame_equal(counts.part(4, 8).obs, counts.obs.iloc[4:8])


def test_a_table_of_an_old_anndata_is_read_whole(tmp_path: Path) -> None:
    path = old_h5ad(np.arange(N * 5).reshape(N, 5), tmp_path)
    with open_counts(path) as counts:
        pd.testing.assert_frame_equal(counts.part(4, 8).obs, counts.obs.iloc[4:8])
