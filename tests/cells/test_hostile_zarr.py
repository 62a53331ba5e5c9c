"""Zarr stores that lie, lack files, or hold what is no file, are refused and never waited for."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from numcodecs import VLenBytes, VLenUTF8
from support.formats import WRITERS

from cellscribe.cells.counts import open_counts
from cellscribe.cells.readers import zarr_store
from cellscribe.errors import InputError

DENSE = np.random.default_rng(0).poisson(1.0, (25, 12)).astype(np.int64)


def read_all(path: Path) -> np.ndarray:
    with open_counts(path) as counts:
        assert len(counts.obs) == counts.n_cells
        return np.vstack([block.toarray() for block in counts.blocks(7)])


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_all(path)
    message = str(caught.value)
    assert len(message) < 700
    assert str(path) in message
    return message


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores without the index of all metadata, so that each file counts."""
    stores = {}
    for kind in ("zarr v2 csr", "zarr v3 csr", "zarr v3 csc", "zarr v3 dense"):
        path = WRITERS[kind](DENSE, tmp_path_factory.mktemp("sound"))
        (path / ".zmetadata").unlink(missing_ok=True)
        if (root := path / "zarr.json").exists():
            body = json.loads(root.read_text())
            body.pop("consolidated_metadata", None)
            root.write_text(json.dumps(body))
        np.testing.assert_array_equal(read_all(path), DENSE)
        stores[kind] = path
    return stores


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "x.zarr"))


def edited(source: Path, folder: Path, file: str, place: tuple[Any, ...], value: Any) -> Path:
    """Change one value in the JSON of a store."""
    path = copied(source, folder)
    body = json.loads((path / file).read_text())
    at = body
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (path / file).write_text(json.dumps(body))
    return path


ODD = ["text", None, float("nan"), 2**40, -1, [2**40, 2**40], [25.5, 12], [[25, 12]], {}, 2**70]
SHAPES = ["X/data", "X/indices", "X/indptr", "obs/_index", "var/_index", "obs/batch/codes"]


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("array", SHAPES)
def test_sizes_of_arrays_that_lie(
    array: str, value: Any, sound: dict[str, Path], tmp_path: Path
) -> None:
    path = edited(sound["zarr v3 csr"], tmp_path, f"{array}/zarr.json", ("shape",), value)
    message = refusal(path)
    assert any(name in message for name in (array, array.rsplit("/")[-1], "X"))


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize(
    ("group", "name"), [("X", "shape"), ("obs", "_index"), ("obs", "column-order")]
)
@pytest.mark.parametrize("kind", ["zarr v2 csr", "zarr v3 csc"])
def test_attributes_of_another_type(
    kind: str, group: str, name: str, value: Any, sound: dict[str, Path], tmp_path: Path
) -> None:
    second = "v2" in kind
    file = f"{group}/{'.zattrs' if second else 'zarr.json'}"
    place = (name,) if second else ("attributes", name)
    assert group in refusal(edited(sound[kind], tmp_path, file, place, value))


@pytest.mark.parametrize("size", [0, 2**40, "x"], ids=str)
@pytest.mark.parametrize("kind", ["zarr v2 csr", "zarr v3 dense"])
def test_chunks_of_no_size_and_of_any(
    kind: str, size: Any, sound: dict[str, Path], tmp_path: Path
) -> None:
    if "v2" in kind:
        path = edited(sound[kind], tmp_path, "X/data/.zarray", ("chunks",), [size])
    else:
        place = ("chunk_grid", "configuration", "chunk_shape")
        path = edited(sound[kind], tmp_path, "X/zarr.json", place, [size, 12])
    assert "X" in refusal(path)


def test_a_dense_matrix_that_claims_cells(sound: dict[str, Path], tmp_path: Path) -> None:
    path = edited(sound["zarr v3 dense"], tmp_path, "X/zarr.json", ("shape",), [2**40, 12])
    assert "X has 1,099,511,627,776 cells, but 25 are named" in refusal(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        # the name of a socket must be short
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


THINGS: dict[str, Callable[[Path], Any]] = {
    "pipe": pipe,
    "socket": plug,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "the store itself": lambda path: path.symlink_to(".."),
    "empty": Path.touch,
    "a hole of a terabyte": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "nothing": lambda path: None,
}
FILES = [
    ("zarr v3 csr", "X/data/c/0"),
    ("zarr v3 csr", "X/indptr/c/0"),
    ("zarr v3 csr", "var/_index/c/0"),
    ("zarr v3 csr", "obs/zarr.json"),
    ("zarr v2 csr", "X/indices/0"),
    ("zarr v2 csr", "X/data/.zarray"),
]


@pytest.mark.parametrize(("kind", "file"), FILES)
@pytest.mark.parametrize("thing", THINGS)
def test_what_stands_where_a_file_should(
    thing: str, kind: str, file: str, sound: dict[str, Path], tmp_path: Path
) -> None:
    path = copied(sound[kind], tmp_path)
    (path / file).unlink()
    THINGS[thing](path / file)
    refusal(path)


def test_links_to_files_elsewhere_are_followed(sound: dict[str, Path], tmp_path: Path) -> None:
    path = copied(sound["zarr v3 csr"], tmp_path)
    for file in [file for file in path.rglob("*") if file.is_file()]:
        there = tmp_path / "objects" / file.relative_to(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        file.rename(there)
        file.symlink_to(there)
    np.testing.assert_array_equal(read_all(path), DENSE)


def in_chunks(folder: Path) -> Path:
    """A store whose matrix has many chunks."""
    root = zarr.create_group(folder / "x.zarr")
    matrix = sp.csr_matrix(DENSE)
    for key, size in (("obs", 25), ("var", 12)):
        with ad.settings.override(auto_shard_zarr_v3=False):
            ad.io.write_elem(root, key, pd.DataFrame(index=[f"n{i}" for i in range(size)]))
    group = root.create_group("X", attributes={"encoding-type": "csr_matrix", "shape": [25, 12]})
    for key in ("data", "indices", "indptr"):
        group.create_array(key, data=getattr(matrix, key), chunks=(10,))
    return folder / "x.zarr"


@pytest.mark.parametrize("key", ["data", "indices", "indptr"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_missing_chunks_are_no_zeros(key: str, at: int, tmp_path: Path) -> None:
    path = in_chunks(tmp_path)
    np.testing.assert_array_equal(read_all(path), DENSE)
    (path / f"X/{key}/c/{at}").unlink()
    assert f"1 chunks of {path}: X/{key} are missing" in refusal(path)


def test_a_chunk_that_goes_missing_while_it_is_read(tmp_path: Path) -> None:
    path = in_chunks(tmp_path)
    with open_counts(path) as counts:
        blocks = counts.blocks(5)
        next(blocks)
        last = max(int(chunk.name) for chunk in (path / "X/data/c").iterdir())
        (path / f"X/data/c/{last}").unlink()
        with pytest.raises(InputError, match="went missing while the store was read"):
            list(blocks)


@pytest.mark.parametrize("codec", [VLenUTF8(), VLenBytes()], ids=repr)
def test_texts_are_not_given_more_room_than_their_bytes_hold(codec: Any) -> None:
    assert zarr_store.CheckedStore is not None
    values = np.array(["a", "", "bcd"] if isinstance(codec, VLenUTF8) else [b"a", b"", b"bcd"])
    packed = bytes(codec.encode(values.astype(object)))
    assert list(codec.decode(packed)) == list(values)
    with pytest.raises(ValueError, match="fewer texts than they claim"):
        codec.decode((2**31 - 1).to_bytes(4, "little") + packed[4:])
    with pytest.raises(ValueError):
        codec.decode(packed[:-1])
