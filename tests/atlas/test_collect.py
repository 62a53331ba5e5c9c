"""Parts joined: the same rows as the parts hold, in their order and in their types."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellscribe.atlas.collect import collect_parts
from cellscribe.atlas.column_types import common_type
from cellscribe.atlas.parts import Part, columns_of, name_of, type_of
from cellscribe.atlas.stores import Folder
from cellscribe.errors import InputError

WIDTH = 5
ABOUT = {"verb": "embed", "width": WIDTH, "dtype": "float32", "key_added": "X_x"}


def part(folder: Path, name: str, n: int, seed: int, **columns: object) -> tuple[Part, np.ndarray]:
    vectors = np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)
    table = pa.table(
        {
            "cell_id": [f"{name}{i}" for i in range(n)],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
            "tissue": pa.array([f"t{seed}"] * n).dictionary_encode(),
            **columns,
        }
    )
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, row_group_size=3)
    return as_part(path, n), vectors


def as_part(path: Path, n: int) -> Part:
    return Part(
        source=path.stem,
        store=Folder(path.parent),
        file=path.name,
        n_cells=n,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list[Part], np.ndarray, pd.DataFrame]:
    made = [part(tmp_path, name, n, seed) for seed, (name, n) in enumerate([("b", 7), ("a", 4)])]
    cells = pd.DataFrame(
        {
            "source": ["b"] * 7 + ["a"] * 4,
            "cell_id": [f"b{i}" for i in range(7)] + [f"a{i}" for i in range(4)],
            "tissue": ["t0"] * 7 + ["t1"] * 4,
        }
    )
    return [p for p, _ in made], np.concatenate([v for _, v in made]), cells


def read(out: Path) -> tuple[np.ndarray, pd.DataFrame]:
    if out.suffix in (".zarr", ".h5ad"):
        adata = ad.read_zarr(out) if out.suffix == ".zarr" else ad.read_h5ad(out)
        return adata.obsm["X_x"], adata.obs.reset_index(names="cell_id")
    if out.suffix == ".npy":
        return np.load(out, mmap_mode="r"), pd.read_parquet(f"{out}.cells.parquet")
    table = pd.read_parquet(out)
    return np.stack(table["embedding"]), table


@pytest.mark.parametrize("form", [".parquet", ".npy", ".zarr", ".h5ad"])
def test_all_forms_hold_the_rows_of_the_parts(tmp_path: Path, parts, form: str) -> None:
    found, vectors, cells = parts
    out, seen = tmp_path / f"all{form}", []
    assert collect_parts(found, out, ABOUT, progress=lambda *a: seen.append(a)) == 11
    assert seen[-1] == (11, 11)
    got, table = read(out)
    np.testing.assert_array_equal(got, vectors)
    for name in cells:
        assert list(table[name]) == list(cells[name])
    assert {str(table[name].dtype) for name in ("tissue", "source")} == {"category"}


COLUMNS: dict[str, tuple[Any, Any, str, str]] = {
    "texts": (["x", None, ""], ["y", "z", "w"], "object", "string"),
    "full_texts": (["x", "y", ""], ["y", "z", "w"], "object", "object"),
    "numbers": ([1, 2, 3], [4, 5, 6], "int64", "int64"),
    "gaps": ([1, None, 3], [4, 5, 6], "float64", "Int64"),
    "mixed": ([1, 2, 3], [0.5, None, 2.5], "float64", "float64"),
    "flags": ([True, False, True], [True, True, False], "bool", "bool"),
    "some_flags": ([True, None, True], [True, True, False], "object", "boolean"),
    "text_or_number": (["x", "y", None], [4, 5, 6], "object", "string"),
    "absent": (pa.nulls(3), [4, 5, 6], "float64", "Int64"),
    "kinds": (
        pa.array(["k", "l", None]).dictionary_encode(),
        pa.array(["l", "m", "m"]).dictionary_encode(),
        "category",
        "category",
    ),
    "kinds_or_texts": (
        pa.array(["k", "l", "k"]).dictionary_encode(), ["l", "m", "n"], "object", "object"
    ),
    "never": (pa.nulls(3), pa.nulls(3), "object", "string"),
}  # fmt: skip


@pytest.mark.parametrize("form", [".parquet", ".npy", ".zarr", ".h5ad"])
def test_columns_keep_their_types_and_their_missing_values(tmp_path: Path, form: str) -> None:
    first, _ = part(tmp_path, "b", 3, 0, **{name: each[0] for name, each in COLUMNS.items()})
    second, _ = part(tmp_path, "a", 3, 1, **{name: each[1] for name, each in COLUMNS.items()})
    out = tmp_path / f"all{form}"
    collect_parts([first, second], out, ABOUT)
    _, table = read(out)
    stored = form in (".zarr", ".h5ad")
    for name, (one, two, dtype, stored_dtype) in COLUMNS.items():
        got = table[name]
        assert str(got.dtype) == (stored_dtype if stored else dtype), name
        expected = [*pa.array(one).to_pylist(), *pa.array(two).to_pylist()]
        assert list(got.isna()) == [value is None for value in expected], name
        there = [value for value in expected if value is not None]
        if name == "text_or_number":
            there = [str(value) for value in there]
        assert got[got.notna()].tolist() == there, name


def test_dates_are_dates_in_a_table_and_texts_in_an_anndata(tmp_path: Path) -> None:
    days = pd.to_datetime(["2021-03-04", None, "2022-01-01"])
    found = [part(tmp_path, "b", 3, 0, day=pa.array(days, from_pandas=True))[0]]
    collect_parts(found, tmp_path / "all.parquet", ABOUT)
    assert list(pd.read_parquet(tmp_path / "all.parquet")["day"].isna()) == [False, True, False]
    assert pd.read_parquet(tmp_path / "all.parquet")["day"][2] == days[2]
    collect_parts(found, tmp_path / "all.h5ad", ABOUT)
    stored = ad.read_h5ad(tmp_path / "all.h5ad").obs["day"]
    assert stored.isna().tolist() == [False, True, False]
    assert pd.to_datetime(stored).tolist()[2] == days[2]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([pa.int8(), pa.int32(), pa.null()], pa.int32()),
        ([pa.int32(), pa.float32()], pa.float64()),
        ([pa.bool_(), pa.int64()], pa.string()),
        ([pa.timestamp("us"), pa.timestamp("ns")], pa.timestamp("ns")),
        ([pa.timestamp("us"), pa.timestamp("us", "UTC")], pa.string()),
        ([pa.dictionary(pa.int8(), pa.string(), True)], pa.dictionary(pa.int32(), pa.string())),
        ([pa.dictionary(pa.int8(), pa.int64()), pa.float64()], pa.float64()),
    ],
)  # fmt: skip
def test_the_common_type_holds_all_values(kinds: list[pa.DataType], expected: pa.DataType) -> None:
    assert common_type(kinds) == expected
    assert common_type(kinds[::-1]) == expected


def test_a_type_is_found_again_by_its_name() -> None:
    kinds = [
        *(pa.string(), pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.null()),
        *(pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "UTC")),
        *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.float64())),
    ]
    assert [type_of(name_of(kind)) for kind in kinds] == kinds


def test_columns_are_described_by_the_footer(tmp_path: Path) -> None:
    table = pa.table({"cell_id": ["a", "b"], "x": [1, None], "y": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=["x", "y"])
    assert columns_of(tmp_path / "a.parquet") == {
        "x": {"type": "int64", "nulls": True},
        "y": {"type": "string", "nulls": False},
    }


def test_numbers_that_a_fraction_cannot_hold_are_refused(tmp_path: Path) -> None:
    one, _ = part(tmp_path, "a", 1, 0, x=[2**60 + 1])
    two, _ = part(tmp_path, "b", 1, 1, x=[0.5])
    with pytest.raises(InputError, match=r"a\.parquet: a column of obs does not go together"):
        collect_parts([one, two], tmp_path / "all.zarr", ABOUT)
    assert not (tmp_path / "all.zarr").exists()


def test_tokens_are_joined_as_tokens(tmp_path: Path) -> None:
    found = []
    for name in ("b", "a"):
        table = pa.table(
            {
                "cell_id": [f"{name}0", f"{name}1"],
                "input_ids": pa.array([[1, 2], [3]], pa.list_(pa.uint16())),
                "length": pa.array([2, 1], pa.int32()),
            }
        ).replace_schema_metadata({"cellscribe": f'{{"model": "m", "source": "{name}.h5ad"}}'})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found.append(as_part(tmp_path / f"{name}.parquet", 2))
    out = tmp_path / "all.parquet"
    assert collect_parts(found, out, {"verb": "tokenize"}) == 4
    joined = pq.read_table(out)
    assert joined["input_ids"].to_pylist() == [[1, 2], [3]] * 2
    assert joined["source"].to_pylist() == ["b", "b", "a", "a"]
    assert joined["cell_id"].to_pylist() == ["b0", "b1", "a0", "a1"]
    assert joined.schema.metadata[b"cellscribe"] == b'{"model": "m"}'
    with pytest.raises(InputError, match="tokens are joined as Parquet"):
        collect_parts(found, tmp_path / "all.zarr", {"verb": "tokenize"})


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts) -> None:
    found, *_ = parts
    out = tmp_path / "all.npy"
    odd, _ = part(tmp_path, "odd", 3, 9, donor=["x"] * 3)
    with pytest.raises(InputError, match=r"odd\.parquet: holds tissue, donor, other parts tissue"):
        collect_parts([*found, odd], out, ABOUT)
    with pytest.raises(InputError, match=r"b\.parquet: 5 values a cell, other parts have 6"):
        collect_parts(found, out, ABOUT | {"width": 6})
    with pytest.raises(InputError, match=r"a\.parquet: 4 cells, the manifest says 5"):
        collect_parts([as_part(tmp_path / "a.parquet", 5)], out, ABOUT)
    path = tmp_path / "b.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.parquet is missing or not as it was written"):
        collect_parts(found, out, ABOUT)
    with pytest.raises(InputError, match=r"b\.parquet cannot be read"):
        collect_parts([as_part(path, 7)], out, ABOUT)
    with pytest.raises(InputError, match=r"end the output's name in one of \.parquet"):
        collect_parts(found, tmp_path / "x.csv", ABOUT)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".all", "all"))]


@pytest.mark.parametrize("form", [".zarr", ".h5ad"])
def test_columns_whose_names_differ_by_a_slash_are_both_kept(tmp_path: Path, form: str) -> None:
    columns = {"a/b": [1, 2], "a_b": [3, 4], "a/b_": [5, 6], "_index": [7, 8], "index_": [9, 0]}
    made, _ = part(tmp_path, "x", 2, 0, **columns)
    collect_parts([made], tmp_path / f"all{form}", ABOUT)
    _, obs = read(tmp_path / f"all{form}")
    got = sorted(tuple(obs[name]) for name in obs if name not in ("cell_id", "source", "tissue"))
    assert got == sorted(map(tuple, columns.values()))
    assert (tuple(obs["a_b"]), tuple(obs["index_"])) == ((3, 4), (9, 0))


def test_a_part_that_may_not_be_read_is_named(
    tmp_path: Path, parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("cellscribe.atlas.parts.hash_of", fails)
    with pytest.raises(InputError, match=r"b.parquet cannot be read: Permission denied"):
        collect_parts(parts[0], tmp_path / "all.npy", ABOUT)


@pytest.mark.parametrize("form", [".parquet", ".npy", ".zarr", ".h5ad"])
def test_an_order_of_categories_stays_where_all_have_the_same(tmp_path: Path, form: str) -> None:
    grades = ["low", "mid", "high"]

    def graded(codes: list[int | None], names: list[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names, ordered=True)

    found = []
    for name, codes, others in (("a", [2, None], ["x", "y"]), ("b", [0, 2], ["y", "x"])):
        columns = {"grade": graded(codes, grades), "other": graded([0, 1], others)}
        made, _ = part(tmp_path, name, 2, 0, **columns)
        found.append(replace(made, columns=columns_of(tmp_path / made.file)))
    collect_parts(found, tmp_path / f"all{form}", ABOUT)
    _, table = read(tmp_path / f"all{form}")
    kind = table["grade"].dtype
    assert (kind.ordered, list(kind.categories)) == (True, grades)
    assert table["grade"].astype(object).where(table["grade"].notna(), None).tolist() == [
        "high", None, "low", "high"
    ]  # fmt: skip
    assert not table["other"].dtype.ordered
    assert list(table["other"].astype(str)) == ["x", "y", "y", "x"]
