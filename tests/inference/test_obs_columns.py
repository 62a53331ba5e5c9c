"""Columns of obs next to the vectors: pandas reads back what pandas wrote."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command import call, refused, write
from support.tiny import some_counts

import cellscribe
from cellscribe.errors import InputError
from cellscribe.inference.obs_columns import to_arrow

DAYS = pd.to_datetime(["2021-03-04", None, "2022-01-01"])
COLUMNS = {
    "category": (pd.Categorical(["b", None, "a"]), pa.dictionary(pa.int32(), pa.string())),
    "stages": (
        pd.Categorical([2, 1, 1], categories=[2, 1], ordered=True),
        pa.dictionary(pa.int32(), pa.int64(), ordered=True),
    ),
    "text": (np.array(["a", None, ""], object), pa.string()),
    "string": (pd.array(["a", None, ""], dtype="string"), pa.string()),
    "int8": (np.array([1, 2, -3], np.int8), pa.int8()),
    "nullable": (pd.array([1, None, 3], dtype="Int32"), pa.int32()),
    "float": (np.array([1.5, np.nan, np.inf], np.float32), pa.float32()),
    "half": (np.array([1.5, 2, 3], np.float16), pa.float32()),
    "bool": (np.array([True, False, True]), pa.bool_()),
    "boolean": (pd.array([True, None, False], dtype="boolean"), pa.bool_()),
    "objects": (np.array([True, None, False], object), pa.bool_()),
    "day": (DAYS, pa.timestamp("ns")),
    "zone": (DAYS.tz_localize("UTC"), pa.timestamp("ns", "UTC")),
    "nothing": (np.array([None] * 3, object), pa.null()),
}


@pytest.mark.parametrize("name", list(COLUMNS))
def test_a_column_keeps_its_type_and_its_missing_values(name: str, tmp_path: Path) -> None:
    values, kind = COLUMNS[name]
    column = to_arrow(pd.Series(values))
    assert column.type == kind
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    found = pd.read_parquet(tmp_path / "x.parquet")["x"]
    missing = pd.Series(values).isna()
    assert list(found.isna()) == list(missing)
    expected = pd.Series(values)[~missing].tolist()
    assert found[~missing].tolist() == expected


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, "a", None], ["1", "a", None]),
        ([b"a", "b", None], ["a", "b", None]),
        ([10**30, 1, None], [str(10**30), "1", None]),
        (pd.to_timedelta(["1 days", None]), ["1 days 00:00:00", None]),
        (pd.PeriodIndex(["2021-01", "2021-02"], freq="M"), ["2021-01", "2021-02"]),
    ],
)
def test_what_has_no_type_of_its_own_is_text(values, texts) -> None:
    column = to_arrow(pd.Series(values))
    assert column.type == pa.string()
    assert column.to_pylist() == texts


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    adata = ad.read_h5ad(write(tmp_path / "cells.h5ad", some_counts(30, seed=3)))
    adata.obs["cell_type"] = pd.Categorical(["T cell", "B cell", None] * 10)
    adata.obs["n_umi"] = np.arange(30)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_embed_writes_the_columns_that_are_asked_for(
    cells: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "x.parquet", tmp_path / "plain.parquet"
    words = ("--model", tiny_model, "--device", "cpu")
    ran = call(
        "embed", cells, "-o", out, "--obs", "n_umi", "--obs", "cell_type", *words, capsys=capsys
    )
    assert ran.status == 0, ran
    found = pd.read_parquet(out)
    assert list(found) == ["cell_id", "embedding", "n_umi", "cell_type"]
    assert found["n_umi"].tolist() == list(range(30))
    assert found["cell_type"].dtype == "category"
    assert found["cell_type"].isna().tolist() == [False, False, True] * 10
    cellscribe.embed_file(cells, plain, model=tiny_model, device="cpu")
    pd.testing.assert_frame_equal(pd.read_parquet(plain), found[["cell_id", "embedding"]])


def test_columns_that_cannot_be_written_are_refused(
    cells: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", tiny_model, "--device", "cpu")
    ran = call(
        "embed", cells, "-o", tmp_path / "x.parquet", "--obs", "cell_typ", *words, capsys=capsys
    )
    assert "obs has no column 'cell_typ' (--obs); near it: cell_type" in refused(ran)
    ran = call(
        "embed", cells, "-o", tmp_path / "x.npy", "--obs", "cell_type", *words, capsys=capsys
    )
    assert "a .npy has no place for columns of obs (--obs)" in refused(ran)
    for names in (("cell_id",), ("a", "a"), ("",)):
        with pytest.raises(InputError, match="--obs"):
            cellscribe.EmbedOptions(obs=names)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]
