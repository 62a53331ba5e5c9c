"""A run from file to file, of which one or both are remote."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.command import write
from support.s3 import Faults
from support.tiny import some_counts
from support.web import Site

import cellscribe
from cellscribe.atlas.claims import Claims, Worker
from cellscribe.atlas.remote_lease import remote_lease
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.download import download
from cellscribe.cli.sharing import is_many
from cellscribe.errors import InputError


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write(tmp_path / "a b.h5ad", some_counts(12, seed=3))


@pytest.fixture
def expected(cells: Path, tiny_model: Path) -> np.ndarray:
    found = cellscribe.embed(cells, model=tiny_model, device="cpu")
    assert isinstance(found, np.ndarray)
    return found


def embed(source: str, out: str | Path, model: Path, **more: object) -> None:
    cellscribe.embed_file(source, out, model=model, device="cpu", log=print, **more)  # type: ignore[arg-type]


def test_from_the_web_to_a_file(
    site: Site, cells: Path, tmp_path: Path, tiny_model: Path, expected: np.ndarray
) -> None:
    site.files["a b.h5ad"] = cells.read_bytes()
    embed(f"{site.address}/plain/a%20b.h5ad", tmp_path / "x.npy", tiny_model)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    url = f"{site.address}/plain/bad.h5ad"
    site.files["bad.h5ad"] = b"nothing"
    for name, line in (("bad", f"{url}: "), ("none", "none.h5ad: no such object")):
        with pytest.raises(InputError) as told:
            embed(f"{site.address}/plain/{name}.h5ad", tmp_path / "y.npy", tiny_model)
        assert line in str(told.value)
        assert "spool" not in str(told.value)
    with pytest.raises(InputError, match="nothing can be written to the web"):
        embed(str(cells), f"{site.address}/plain/x.npy", tiny_model)
    assert {path.name for path in tmp_path.iterdir()} == {cells.name, "x.npy", "x.npy.json"}


@pytest.mark.parametrize("ending", ["npy", "parquet", "h5ad", "zarr"])
def test_to_a_bucket(
    faults: Faults,
    cells: Path,
    tmp_path: Path,
    tiny_model: Path,
    expected: np.ndarray,
    ending: str,
) -> None:
    store, key = Bucket("s3://bucket/single"), f"x y.{ending}"
    embed(str(cells), f"{store.name}/{key}", tiny_model)
    keys = sorted(entry for entry in store.keys("") if entry.startswith(key))
    for entry in keys:
        (tmp_path / "got" / entry).parent.mkdir(parents=True, exist_ok=True)
        download(store, entry, tmp_path / "got" / entry)
    path = tmp_path / "got" / key
    if ending in ("npy", "parquet"):
        assert keys == [key, f"{key}.json"]
        found = np.load(path) if ending == "npy" else pq.read_table(path)["embedding"].to_pylist()
    else:
        read = anndata.read_h5ad if ending == "h5ad" else anndata.read_zarr
        found = read(path).obsm["X_cellscribe"]
    np.testing.assert_array_equal(np.stack(found), expected)
    with pytest.raises(InputError, match=f"single/{key} exists already; give overwrite"):
        embed(str(cells), f"{store.name}/{key}", tiny_model)
    embed(str(cells), f"{store.name}/{key}", tiny_model, overwrite=True)


def test_tokens_from_bucket_to_bucket(faults: Faults, cells: Path, tiny_model: Path) -> None:
    store = Bucket("s3://bucket/tokens")
    copy = cells.with_name("copy")
    copy.write_bytes(cells.read_bytes())
    store.take_in("a b.h5ad", copy)
    cellscribe.tokenize(f"{store.name}/a b.h5ad", f"{store.name}/t.parquet", model=tiny_model)
    cellscribe.tokenize(cells, cells.with_name("t.parquet"), model=tiny_model)
    download(store, "t.parquet", cells.with_name("got.parquet"))
    got, alone = (pq.read_table(cells.with_name(name)) for name in ("got.parquet", "t.parquet"))
    assert got.equals(alone, check_metadata=True)


def test_a_failed_run_uploads_nothing(faults: Faults, cells: Path, tiny_model: Path) -> None:
    store = Bucket("s3://bucket/failed")
    with pytest.raises(InputError, match="no layer"):
        embed(str(cells), f"{store.name}/x.npy", tiny_model, layer="none")
    assert list(store.keys("")) == []


def test_of_two_runs_on_one_object_the_second_is_told(faults: Faults) -> None:
    url, said = "s3://bucket/twice/x.npy", list[str]()
    state = Bucket("s3://bucket/twice")
    with (
        remote_lease(url, said.append, patience=2),
        pytest.raises(InputError) as told,
        remote_lease(url, said.append, patience=2),
    ):
        raise AssertionError
    who = f"(host {socket.gethostname()}, pid {os.getpid()})"
    assert f"x.npy is being written by another process {who}" in str(told.value)
    assert list(state.keys("")) == []
    # one that was killed has no pulse any more
    Claims(Bucket("s3://bucket/twice/.cellscribe/single"), ["x.npy"], Worker()).take("x.npy")
    said.clear()
    with remote_lease(url, said.append, patience=0.3):
        assert len(list(state.keys(""))) == 2
    assert list(state.keys("")) == []
    assert len(said) == 1


def test_what_is_one_run_and_what_are_many() -> None:
    assert not is_many(("s3://b/x.h5ad",), "x.npy")
    assert not is_many(("x.h5ad",), "s3://b.name/x.parquet")
    assert not is_many(("s3://b/x.zarr/",), "x.npy")
    assert is_many(("x.h5ad",), "s3://b.name/out")
    assert is_many(("x.h5ad",), "s3://b.name")
    with pytest.raises(InputError, match="several sources give a file each"):
        is_many(("s3://b/folder/",), "x.npy")
