"""Files that lie about themselves are refused with the field that lies, before anything is read.

Every case is a sound file of one format with one thing changed. What is refused must be refused in
one short line; sizes that claim more than memory holds would end the tests if they were believed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.formats import WRITERS, loom, tenx_v2, tenx_v3

from cellscribe.cells.counts import open_counts
from cellscribe.errors import InputError

DENSE = np.random.default_rng(0).poisson(1.0, (25, 12)).astype(np.int64)
Edit = Callable[[h5py.File], Any]
LONGEST = 700
"""Letters of a refusal: two paths and two sentences."""


def read_all(path: Path) -> np.ndarray:
    with open_counts(path, log=lambda line: None) as counts:
        assert len(counts.obs) == counts.n_cells
        return np.vstack([block.toarray() for block in counts.blocks(7)])


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_all(path)
    message = str(caught.value)
    assert len(message) < LONGEST
    assert str(path) in message
    return message


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind that is stored in HDF5 or zarr."""
    kinds = [kind for kind in WRITERS if kind.startswith(("h5ad", "zarr", "10x h5", "loom"))]
    return {kind: WRITERS[kind](DENSE, tmp_path_factory.mktemp("sound")) for kind in kinds}


def changed(source: Path, folder: Path, edit: Edit) -> Path:
    path = folder / f"x{source.suffix}"
    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def put(key: str, value: Any, **how: Any) -> Edit:
    """Replace a member; its attributes stay."""

    def edit(file: h5py.File) -> None:
        kept = dict(file[key].attrs)
        del file[key]
        made = file.create_dataset(key, data=value, **how)
        for name, attribute in kept.items():
            made.attrs[name] = attribute

    return edit


def group(key: str) -> Edit:
    return lambda file: (file.__delitem__(key), file.create_group(key))


def link(key: str, to: str) -> Edit:
    return lambda file: (file.__delitem__(key), file.__setitem__(key, h5py.SoftLink(to)))


def value(key: str, at: int, number: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        found = file[key][()].astype(type(number))
        found[at] = number
        put(key, found)(file)

    return edit


def claim(key: str, size: int, **how: Any) -> Edit:
    """Let an array claim a size of which no byte is stored."""

    def edit(file: h5py.File) -> None:
        shape, dtype, kept = (size, *file[key].shape[1:]), file[key].dtype, dict(file[key].attrs)
        del file[key]
        made = file.create_dataset(key, shape, dtype, **how)
        for name, attribute in kept.items():
            made.attrs[name] = attribute

    return edit


def length(key: str, by: int) -> Edit:
    def edit(file: h5py.File) -> None:
        found = file[key][()]
        put(key, found[:by] if by < 0 else np.concatenate([found, found[-by:]]))(file)

    return edit


def attribute(key: str, name: str, content: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[key].attrs[name]
        file[key].attrs[name] = content

    return edit


SPARSE = {"h5ad csr": "X", "h5ad csc": "X", "h5ad 0.6": "X", "10x h5 v3": "matrix"}
NUMBERS: list[Any] = [0.5, np.nan, np.inf, 1e300, -1, 2**31, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("key", ["indices", "indptr"])
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_places_that_are_no_places(
    kind: str, key: str, number: Any, sound: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(changed(sound[kind], tmp_path, value(f"{SPARSE[kind]}/{key}", 3, number)))
    assert key in message


def test_whole_floats_are_places(sound: dict[str, Path], tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        for key in ("indices", "indptr"):
            put(f"X/{key}", file[f"X/{key}"][()].astype(np.float64))(file)

    np.testing.assert_array_equal(read_all(changed(sound["h5ad csr"], tmp_path, edit)), DENSE)


ARRAYS = {
    "h5ad csr": ["X/data", "X/indices", "X/indptr", "obs/_index", "var/_index", "obs/batch/codes"],
    "h5ad dense": ["X"],
    "h5ad 0.6": ["X/data", "X/indices", "X/indptr", "obs", "var"],
    "10x h5 v3": [
        *(f"matrix/{key}" for key in ("data", "indices", "indptr", "shape", "barcodes")),
        *(f"matrix/features/{key}" for key in ("id", "name", "feature_type")),
    ],
    "10x h5 v2": [f"GRCh38/{key}" for key in ("data", "indptr", "shape", "barcodes", "genes")],
    "loom": ["matrix", "row_attrs/Gene", "col_attrs/CellID"],
}
LIES: dict[str, Callable[[str], Edit]] = {
    "nothing": lambda key: put(key, h5py.Empty("i4")),
    "of three axes": lambda key: put(key, np.zeros((2, 2, 2), np.int32)),
    "a loop of links": lambda key: link(key, f"/{key}"),
    "a link that leads nowhere": lambda key: link(key, "/none"),
    "a type": lambda key: (
        lambda file: (file.__delitem__(key), file.__setitem__(key, np.dtype("i4")))
    ),
    "one short": lambda key: length(key, -1),
    "contiguous, 2**40": lambda key: claim(key, 2**40),
    "chunked, 2**40": lambda key: claim(key, 2**40, chunks=True),
    "compressed, 2**28": lambda key: claim(key, 2**28, chunks=True, compression="gzip"),
}
CASES = [(kind, key, lie) for kind in ARRAYS for key in ARRAYS[kind] for lie in LIES]


@pytest.mark.parametrize(("kind", "key", "lie"), CASES)
def test_arrays_that_are_something_else(
    kind: str, key: str, lie: str, sound: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(changed(sound[kind], tmp_path, LIES[lie](key)))
    # lengths are compared with each other, and either may be the one that lies
    named = {key, key.rsplit("/")[0], key.rsplit("/")[-1], "X"}
    assert any(name in message for name in named)


@pytest.mark.parametrize("kind", ARRAYS)
def test_groups_in_the_place_of_arrays(kind: str, sound: dict[str, Path], tmp_path: Path) -> None:
    # without annotations a loom file has numbers for names, as loompy reads it
    for key in (key for key in ARRAYS[kind] if "attrs" not in key):
        refusal(changed(sound[kind], tmp_path, group(key)))
        refusal(changed(sound[kind], tmp_path, link(key, "/")))


@pytest.mark.parametrize("key", ["obs", "var", "layers", "X", "obs/batch"])
def test_groups_that_hold_themselves_end(key: str, sound: dict[str, Path], tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        for at in range(8):
            file[key][f"again{at}"] = file["/"]

    np.testing.assert_array_equal(read_all(changed(sound["h5ad csr"], tmp_path, edit)), DENSE)

    def column(file: h5py.File) -> None:
        edit(file)
        file["obs"].attrs["column-order"] = ["again0"]
        file["obs"].require_group("again0")

    if key == "obs":
        assert "not a column" in refusal(changed(sound["h5ad csr"], tmp_path, column))


ODD: list[Any] = [
    "text",
    [b"a", b"b"],
    np.nan,
    [np.nan, np.nan],
    [2**40, 2**40],
    [-25, 12],
    [25.5, 12],
    25,
    [25, 12, 1],
    [[25, 12]],
    h5py.Empty("i4"),
]
ATTRIBUTES = [
    ("h5ad csr", "X", "shape"),
    ("h5ad csr", "X", "encoding-type"),
    ("h5ad 0.6", "X", "h5sparse_shape"),
    ("h5ad csr", "obs", "_index"),
    ("h5ad csr", "var", "_index"),
    ("h5ad csr", "obs", "column-order"),
    ("h5ad csr", "var", "encoding-type"),
    ("h5ad csr", "obs/batch", "encoding-type"),
]


@pytest.mark.parametrize("content", ODD, ids=str)
@pytest.mark.parametrize(("kind", "key", "name"), ATTRIBUTES)
def test_attributes_of_another_type(
    kind: str, key: str, name: str, content: Any, sound: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(changed(sound[kind], tmp_path, attribute(key, name, content)))
    assert f"{key}" in message


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("h5ad csr", "obs/_index"),
        ("h5ad csr", "var/_index"),
        ("h5ad 0.6", "obs"),
        ("10x h5 v3", "matrix/barcodes"),
        ("10x h5 v3", "matrix/features/id"),
        ("10x h5 v2", "GRCh38/barcodes"),
        ("loom", "col_attrs/CellID"),
        ("loom", "row_attrs/Gene"),
    ],
)
@pytest.mark.parametrize("by", [-5, 3])
def test_a_matrix_and_names_of_other_lengths(
    kind: str, key: str, by: int, sound: dict[str, Path], tmp_path: Path
) -> None:
    def edit(file: h5py.File) -> None:
        length(key, by)(file)
        for column in ("batch/codes", "gene_ids"):
            if f"{key.split('/')[0]}/{column}" in file:
                length(f"{key.split('/')[0]}/{column}", by)(file)

    path = changed(sound[kind], tmp_path, edit)
    size = 12 if "var" in key or "row" in key or "features" in key else 25
    # at opening: no count is read
    with pytest.raises(InputError, match=rf"\b{size}\b.*\b{size + by}\b"):
        open_counts(path)


@pytest.mark.parametrize("key", ["data", "indices"])
@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("kind", SPARSE)
def test_more_values_than_places(
    kind: str, by: int, key: str, sound: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(changed(sound[kind], tmp_path, length(f"{SPARSE[kind]}/{key}", by)))
    assert "indices has" in message


def test_a_row_with_far_more_entries_than_genes(sound: dict[str, Path], tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        for key in ("data", "indices"):
            put(f"X/{key}", np.zeros(10**6, np.int32), compression="gzip")(file)
        put("X/indptr", np.r_[np.zeros(25, np.int64), 10**6])(file)

    message = refusal(changed(sound["h5ad csr"], tmp_path, edit))
    assert "row 24 has 1,000,000 entries for 12 places" in message


def test_names_that_their_bytes_cannot_hold(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        for key in ("obs", "var"):
            frame = file.create_group(key)
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"})
            frame.attrs["_index"] = "_index"
            frame.attrs["column-order"] = np.array([], dtype=h5py.string_dtype())
            frame.create_dataset(
                "_index", data=np.zeros(2**24, "S1"), chunks=(2**22,), compression="gzip"
            )
        file["X"] = np.zeros((2, 2))
    assert "claims 16,777,216 names in" in refusal(tmp_path / "x.h5ad")


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["h5ad csr", "10x h5 v3", "loom", "h5ad 0.6"]))
def test_damaged_bytes_give_one_line_or_the_counts_of_some_file(
    data: st.DataObject, kind: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = WRITERS[kind](DENSE, Path(name))
        content = bytearray(path.read_bytes())
        start = data.draw(st.integers(8, len(content) - 1))
        some = data.draw(st.binary(min_size=1, max_size=16))
        content[start : start + len(some)] = some
        path.write_bytes(content)
        try:
            read_all(path)
        except InputError as error:
            assert len(str(error)) < LONGEST


def test_features_of_10x_are_whole_or_refused(tmp_path: Path) -> None:
    path = tenx_v3(DENSE, tmp_path)
    for key in ("id", "name", "feature_type"):
        edit = length(f"matrix/features/{key}", -1)
        assert "11" in refusal(changed(path, tmp_path / "..", edit))
    with h5py.File(path, "r+") as file:
        del file["matrix/features/id"], file["matrix/features/name"]
    assert "neither ids nor names" in refusal(path)


def test_genomes_that_name_a_barcode_twice(tmp_path: Path) -> None:
    path = tenx_v2(DENSE, tmp_path)
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
        file["mm10/barcodes"][1] = file["mm10/barcodes"][0]
    assert "barcode 'cell0' stands twice" in refusal(path)


def test_loom_attributes_that_are_no_columns_are_passed_over(tmp_path: Path) -> None:
    path = loom(DENSE, tmp_path)
    with h5py.File(path, "r+") as file:
        file["row_attrs/Regulons"] = np.zeros(12, [("TF1(+)", "i8"), ("TF2(+)", "i8")])
        file["col_attrs/RegulonsAUC"] = np.zeros(25, [("TF1(+)", "f8")])
        file["col_attrs/Embedding"] = np.zeros((25, 2))
        file["col_attrs/version"] = 3
        file.create_group("col_attrs/more")
    with open_counts(path) as counts:
        assert list(counts.obs.columns) == ["CellID"]
        assert list(counts.var.columns) == ["Accession", "Gene"]
    np.testing.assert_array_equal(read_all(path), DENSE)
