"""Tables of every age of anndata hold what anndata itself reads from them; names are str."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from cellscribe.cells.columns import text_column
from cellscribe.cells.counts import open_counts
from cellscribe.cells.readers.frames import names, text, tidy
from cellscribe.errors import InputError

LABELS = ["B", "T", "B", "NK", "T"]
CODES = pd.Categorical(LABELS).codes


def old_file(path: Path, categories: Any, codes: Any = CODES, **more: Any) -> Path:
    """As anndata 0.6 wrote it: codes in obs, names in uns."""
    with h5py.File(path, "w") as file:
        matrix = sp.csr_matrix(np.eye(5, 3))
        group = file.create_group("X")
        group.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": np.array([5, 3])})
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        obs = np.zeros(5, [("index", "S8"), ("kind", "i1"), ("depth", "i8")])
        obs["index"] = [f"cell{i}".encode() for i in range(5)]
        obs["kind"], obs["depth"] = codes, range(5)
        file["obs"] = obs
        var = np.zeros(3, [("index", "S8"), ("kind", "i8")])
        var["index"], var["kind"] = [b"a", b"b", b"c"], [7, 8, 9]
        file["var"] = var
        if categories is not None:
            file["uns/kind_categories"] = categories
        for key, value in more.items():
            file[f"uns/{key}"] = value
    return path


def as_anndata_reads(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.read_h5ad(path)


@pytest.mark.parametrize("kind", ["S8", h5py.string_dtype()], ids=["bytes", "str"])
def test_labels_of_old_files_are_those_that_anndata_reads(kind: Any, tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.h5ad", np.array(["B", "NK", "T"], dtype=kind))
    with open_counts(path) as counts:
        obs = counts.obs
        assert list(text_column(obs, "kind", "--label", "x")) == LABELS
        assert list(counts.var["kind"]) == [7, 8, 9]
    theirs = as_anndata_reads(path)
    assert list(theirs.obs["kind"]) == LABELS
    assert list(theirs.obs["depth"]) == list(obs["depth"]) == list(range(5))


def test_a_code_of_minus_one_is_no_label(tmp_path: Path) -> None:
    codes = [0, -1, 0, 1, 2]
    path = old_file(tmp_path / "x.h5ad", np.array([b"B", b"NK", b"T"]), codes)
    with open_counts(path) as counts:
        assert list(text_column(counts.obs, "kind", "--label", "x")) == ["B", "", "B", "NK", "T"]


def test_one_category_may_be_a_single_value(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.h5ad", "B", [0] * 5)
    with open_counts(path) as counts:
        assert list(counts.obs["kind"]) == ["B"] * 5
    assert list(as_anndata_reads(path).obs["kind"]) == ["B"] * 5


@pytest.mark.parametrize(
    ("categories", "what"),
    [
        (np.array([b"B", b"B", b"T"]), "names a category twice"),
        (np.array([[b"B", b"NK", b"T"]]), "2 axes"),
        (h5py.Empty("S3"), "is empty"),
    ],
)
def test_categories_of_old_files_that_are_none(categories: Any, what: str, tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.h5ad", categories)
    with pytest.raises(InputError, match=what) as caught, open_counts(path) as counts:
        assert counts.obs is None
    assert "uns/kind_categories" in str(caught.value)


def test_codes_that_name_no_category_stay_numbers_as_in_anndata(tmp_path: Path) -> None:
    path = old_file(tmp_path / "x.h5ad", np.array([b"B", b"NK"]))
    with open_counts(path) as counts:
        assert list(counts.obs["kind"]) == list(CODES)
    assert list(as_anndata_reads(path).obs["kind"]) == list(CODES)


def test_old_labels_in_zarr(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    with h5py.File(old_file(tmp_path / "x.h5ad", np.array([b"B", b"NK", b"T"]))) as file:
        for key in ("obs", "var"):
            root.create_array(key, data=file[key][()])
    root.create_array("uns/kind_categories", data=np.array([b"B", b"NK", b"T"]))
    root.create_array("X", data=np.eye(5, 3))
    with open_counts(tmp_path / "x.zarr") as counts:
        assert list(text_column(counts.obs, "kind", "--label", "x")) == LABELS


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1.0, np.nan, 12.0], ["0", "1", "", "12"]),
        ([0.0, 0.5, np.nan, 1.0], ["0.0", "0.5", "", "1.0"]),
        ([1, 2, 3, 4], ["1", "2", "3", "4"]),
        ([np.inf, 1.0, 2.0, 3.0], ["inf", "1.0", "2.0", "3.0"]),
        ([True, False, True, True], ["True", "False", "True", "True"]),
        (np.array([0, 1, 2, 3], np.float32), ["0", "1", "2", "3"]),
        (pd.Categorical([0.0, 1.0, 1.0, np.nan]), ["0", "1", "1", ""]),
        (pd.Categorical([3, 1, 1, 3]), ["3", "1", "1", "3"]),
        (pd.Categorical(["2.0", "1.0", "b", " c "]), ["2.0", "1.0", "b", "c"]),
        (pd.array([1, None, 3, 4], dtype="Int64"), ["1", "", "3", "4"]),
        (pd.array([True, None, False, True], dtype="boolean"), ["True", "", "False", "True"]),
        ([2.0, "B", None, np.nan], ["2", "B", "", ""]),
    ],
)
@pytest.mark.parametrize("name", ["x", 3])
def test_numbers_as_labels(values: Any, texts: list[str], name: Any) -> None:
    obs = pd.DataFrame({name: values, "other": 0})
    assert list(text_column(obs, str(name), "--label", "cells")) == texts


def test_labels_come_back_from_files_as_they_were_written(tmp_path: Path) -> None:
    columns = {
        "float": [0.0, 1.0, np.nan],
        "number": pd.Categorical([10, 20, 10]),
        "flag": [True, False, True],
        "maybe": pd.array([True, None, False], dtype="boolean"),
    }
    index = pd.Index(["a", "b", "c"])
    adata = ad.AnnData(np.eye(3), obs=pd.DataFrame(columns, index=index))
    adata.write_h5ad(tmp_path / "x.h5ad")
    expected = [["0", "1", ""], ["10", "20", "10"], ["True", "False", "True"]]
    expected.append(["True", "", "False"])
    with open_counts(tmp_path / "x.h5ad") as counts:
        for name, texts in zip(columns, expected, strict=True):
            assert list(text_column(counts.obs, name, "--label", "x")) == texts


ODD_NAMES = [3, 2.5, np.nan, None, pd.NA, pd.NaT, b"ok", b"\xff\xfe", "\udcff", "é", True, (1, 2)]


def test_names_of_any_kind_become_str_that_can_be_written() -> None:
    found = [text(value) for value in ODD_NAMES]
    assert found[:7] == ["3", "2.5", "", "", "", "", "ok"]
    assert found[9:] == ["é", "True", "(1, 2)"]
    for name in (*found, *names(ODD_NAMES), text(np.zeros(3))):
        name.encode("utf-8")


def test_tidy_keeps_columns_of_one_name_apart() -> None:
    frame = pd.DataFrame([[b"a", 1, b"b"], [b"c", 2, None]], columns=["x", "y", "x"], index=[1, 2])
    tidied = tidy(frame)
    assert list(tidied.index) == ["1", "2"]
    assert tidied.to_numpy().tolist() == [["a", 1, "b"], ["c", 2, ""]]
    assert frame.iloc[0, 0] == b"a"
