"""What is not raw counts, or not whole, is refused with one line that says the mend."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.cells.counts import check_counts, open_counts
from cellscribe.cells.readers import convert
from cellscribe.errors import InputError

COUNTS = sp.random(40, 30, density=0.4, random_state=0, format="csr")
COUNTS.data = np.ceil(COUNTS.data * 50)


def written(path: Path, x: Any = COUNTS, **more: Any) -> Path:
    ad.AnnData(X=x, **more).write_h5ad(path, compression="gzip")
    return path


def read_all(source: Any, **options: Any) -> None:
    with open_counts(source, **options) as counts:
        for _ in counts.blocks(16):
            pass


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_all(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def spoiled(value: float, row: int = 33, dtype: type = np.float32) -> sp.csr_matrix:
    x = COUNTS.astype(dtype)
    x.data[x.indptr[row]] = value
    return x


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (spoiled(np.nan), "missing or infinite .*nan in cell 33, gene"),
        (spoiled(np.inf), "missing or infinite .*inf in cell 33, gene"),
        (spoiled(-2), "below zero, as after scaling.*-2 in cell 33"),
        (spoiled(-2, dtype=np.int8), "below zero, as after scaling.*-2 in cell 33"),
        (spoiled(0.5), "fractional counts, it seems.*0.5 in cell 33.*: --counts fractional$"),
        (spoiled(2**40, dtype=np.int64), "above 2147483647, as after an overflow.*cell 33"),
        (spoiled(2**40), "above 2147483647, as after an overflow.*cell 33"),
        (COUNTS.log1p(), "log-normalised values, it seems.*in cell 0, gene"),
        (COUNTS * 1.7, "X holds normalised values.*: --counts tpm$"),
        (COUNTS.log1p().toarray() - 1, "below zero, as after scaling"),
        (COUNTS.log1p().tocsc(), "log-normalised"),
    ],
)
def test_values_that_are_not_counts(x: Any, what: str, tmp_path: Path) -> None:
    for source in (ad.AnnData(X=x), written(tmp_path / "x.h5ad", x)):
        message = refusal(source)
        assert re.search(what, message), message
        assert "--layer" in message


def test_the_named_value_is_the_bad_one() -> None:
    message = refusal(ad.AnnData(X=spoiled(0.25, row=17)))
    gene = COUNTS.indices[COUNTS.indptr[17]]
    assert f"0.25 in cell 17, gene {gene}, counted from 0" in message


@pytest.mark.parametrize("better", ["raw", "counts", "umi", None])
def test_a_better_layer_is_named(better: str | None) -> None:
    log = COUNTS.log1p()
    adata = ad.AnnData(X=log, layers={"scaled": log.toarray() - 1})
    adata.layers["counts"] = COUNTS if better == "counts" else log
    adata.raw = ad.AnnData(X=COUNTS if better == "raw" else log)
    if better == "umi":
        adata.layers["umi"] = COUNTS.tocsc()
    message = refusal(adata)
    assert ("looks like raw counts" in message) == (better is not None)
    if better:
        assert message.endswith(f"use --layer {better}")
        read_all(adata, layer=better)


@given(st.sampled_from([np.int8, np.uint8, np.int32, np.uint64, np.float32, np.float64, bool]))
def test_whole_numbers_pass_in_any_type(dtype: Any) -> None:
    block = sp.csr_matrix(np.array([[0, 1, 100], [0, 0, 0]]).astype(dtype))
    check_counts(block, name="x", layer="X", first_row=0)


@given(st.integers(2**31, 2**62) | st.integers(-(2**62), -1))
def test_integers_out_of_range_do_not_pass(value: int) -> None:
    block = sp.csr_matrix(np.array([[0, value]]))
    with pytest.raises(InputError, match="in cell 7, gene 1"):
        check_counts(block, name="x", layer="X", first_row=7)


def test_empty_cells_and_repeated_names_are_fine() -> None:
    dense = COUNTS.toarray()
    dense[[0, 3, 39]] = 0
    adata = ad.AnnData(X=sp.csr_matrix(dense))
    adata.obs.index = ["same"] * 40
    with open_counts(adata) as counts:
        assert list(counts.obs.index) == ["same"] * 40
        assert sum(block.shape[0] for block in counts.blocks(7)) == 40


def test_nothing_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.h5ad").endswith("no such file; check the path")
    assert "neither a zarr store nor a matrix.mtx" in refusal(tmp_path)
    (tmp_path / "GRCh38").mkdir()
    (tmp_path / "GRCh38/cells.h5ad").touch()
    assert f"did you mean {tmp_path / 'GRCh38/cells.h5ad'}?" in refusal(tmp_path)
    assert "give a path or an AnnData" in refusal(COUNTS)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.h5ad", b"gene,cell\n1,2\n", "not an HDF5 file, though named .h5ad"),
        ("x.bin", b"gene,cell\n1,2\n", "write it as .h5ad with anndata"),
        ("x.h5ad", b"", "the file is empty"),
        ("x.gz", gzip.compress(b"x" * 99, mtime=0), "neither a tar archive nor a table"),
        ("x.zip", b"PK\x03\x04rest", "the archive cannot be read"),
        ("x.h5ad", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "cannot be opened as HDF5"),
    ],
)
def test_files_of_no_known_format(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert what in refusal(tmp_path / name)


def test_hdf5_and_zarr_of_other_things(tmp_path: Path) -> None:
    import zarr

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert "neither h5ad, 10x nor loom (it holds weights)" in refusal(tmp_path / "x.h5")
    zarr.create_group(tmp_path / "x.zarr").create_group("images")
    assert "not an AnnData (it holds images)" in refusal(tmp_path / "x.zarr")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr/zarr.json").write_text("{")
    assert "not a readable zarr group" in refusal(tmp_path / "bad.zarr")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.h5ad")

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "may not be read" in refusal(path)


def test_truncated_h5ad(tmp_path: Path) -> None:
    path = written(tmp_path / "x.h5ad")
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "copy or download it again" in refusal(path)


@pytest.mark.parametrize("key", ["X/data", "X/indices", "X/indptr", "var/_index"])
def test_corrupt_bytes_in_the_middle(key: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.h5ad", sp.csr_matrix(np.tile(COUNTS.toarray(), (50, 1))))
    with h5py.File(path) as file:
        chunk = file[key].id.get_chunk_info(file[key].id.get_num_chunks() - 1)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 3)
        raw.write(b"\xff" * (chunk.size // 3))
    assert "cannot be read" in refusal(path)


def test_corrupt_zarr_chunk(tmp_path: Path) -> None:
    import zarr

    x = COUNTS.astype(np.int32)
    root = zarr.create_group(tmp_path / "x.zarr")
    for key, size in (("obs", 40), ("var", 30)):
        with ad.settings.override(auto_shard_zarr_v3=False):
            ad.io.write_elem(root, key, pd.DataFrame(index=[str(i) for i in range(size)]))
    group = root.create_group("X", attributes={"encoding-type": "csr_matrix", "shape": [40, 30]})
    for key in ("data", "indices", "indptr"):
        group.create_array(key, data=getattr(x, key), chunks=(100,))
    read_all(tmp_path / "x.zarr")
    chunk = tmp_path / "x.zarr/X/data/c/1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    assert "cannot be read" in refusal(tmp_path / "x.zarr")
    chunk.unlink()
    assert f"1 chunks of {tmp_path / 'x.zarr'}: X/data are missing" in refusal(tmp_path / "x.zarr")


def edited(tmp_path: Path, edit: Callable[[h5py.File], None], x: Any = COUNTS) -> Path:
    path = written(tmp_path / "x.h5ad", x, layers={"counts": COUNTS})
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def set_item(key: str, at: int, value: int) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[key][at] = value

    return edit


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (set_item("X/indices", 9, 4000), "an index lies outside"),
        (set_item("X/indices", 9, -1), "an index lies outside"),
        (set_item("X/indptr", 3, 10_000), "row pointers (indptr) do not fit"),
        (set_item("X/indptr", 0, 1), "row pointers (indptr) do not fit"),
        (set_item("X/indptr", -1, 100_000), "row pointers (indptr) do not fit"),
        (lambda file: file.__delitem__("X/indices"), "holds no readable 'indices'"),
        (lambda file: file["X"].attrs.modify("encoding-type", "coo"), "stored as 'coo'"),
        (lambda file: file["X"].attrs.modify("shape", [40, 31]), "do"),
        (lambda file: file.__delitem__("X"), "has no matrix X; name one with --layer: counts"),
        (lambda file: file["var"].attrs.modify("_index", "gone"), "var holds no readable 'gone'"),
    ],
)
def test_structures_that_do_not_fit(form: Any, edit: Any, what: str, tmp_path: Path) -> None:
    assert what in refusal(edited(tmp_path, edit, form(COUNTS)))


def test_text_in_place_of_numbers(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["X"]
        file["X"] = np.array([[b"1"] * 30] * 40)

    assert "not numbers" in refusal(edited(tmp_path, edit))


@pytest.mark.parametrize(("shape", "what"), [((0, 5), "no cells"), ((5, 0), "no genes")])
def test_empty_matrices(shape: tuple[int, int], what: str, tmp_path: Path) -> None:
    for make in (sp.csr_matrix, sp.csc_matrix, np.zeros):
        assert what in refusal(ad.AnnData(X=make(shape)))
        assert what in refusal(written(tmp_path / "x.h5ad", make(shape)))


def test_no_matrix_at_all() -> None:
    empty = ad.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"]))
    assert "has no matrix X; write it with counts" in refusal(empty)


def test_view_of_a_backed_object(tmp_path: Path) -> None:
    adata = ad.read_h5ad(written(tmp_path / "x.h5ad"), backed="r")
    assert ".to_memory()" in refusal(adata[:5])
    read_all(adata[:5].to_memory())
    adata.file.close()


FOLDER = {
    "matrix.mtx": "%%MatrixMarket matrix coordinate integer general\n%\n2 3 2\n1 1 5\n2 3 1\n",
    "genes.tsv": "ENSG1\ta\nENSG2\tb\n",
    "barcodes.tsv": "x\ny\nz\n",
}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("matrix.mtx", "1 1 5\n", "not a Matrix Market file"),
        ("matrix.mtx", FOLDER["matrix.mtx"][:-6], "1 entries, but its header says 2"),
        ("matrix.mtx", FOLDER["matrix.mtx"].replace("2 3 1", "2 3 x"), "cannot be read"),
        ("matrix.mtx", FOLDER["matrix.mtx"].replace("2 3 1", "3 3 1"), "index lies outside"),
        ("matrix.mtx", FOLDER["matrix.mtx"].replace("2 3 1", "0 3 1"), "index lies outside"),
        ("matrix.mtx", FOLDER["matrix.mtx"].replace("2 3 2", "4 4 2"), "use files of one run"),
        ("genes.tsv", None, "no features.tsv or features.tsv.gz; put it beside matrix.mtx"),
        ("barcodes.tsv", None, "no barcodes.tsv"),
        ("other_matrix.mtx", "", "several matrices"),
        ("genes.tsv", "ENSG1\ta\tPeaks\nENSG2\tb\tPeaks\n", "no features of type"),
    ],
)
def test_matrix_market_folders(name: str, content: str | None, what: str, tmp_path: Path) -> None:
    for file, text in (FOLDER | {name: content}).items():
        if text is not None:
            (tmp_path / file).write_text(text)
    assert what in refusal(tmp_path)


def test_truncated_matrix_market(tmp_path: Path) -> None:
    for file, text in FOLDER.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "matrix.mtx").unlink()
    zipped = gzip.compress(FOLDER["matrix.mtx"].encode())
    for cut in (15, len(zipped) - 9, len(zipped) - 3):
        (tmp_path / "matrix.mtx.gz").write_bytes(zipped[:cut])
        assert "cannot be read" in refusal(tmp_path)


def test_scratch_folder_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "IN_MEMORY", 10)
    path = written(tmp_path / "x.h5ad", COUNTS.tocsc())
    assert "no scratch folder can be made" in refusal(path, scratch=tmp_path / "none")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert._File, "write", full)
    message = refusal(path, scratch=tmp_path, log=lambda line: None)
    assert "is full" in message
    assert "set TMPDIR" in message
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


def test_an_open_counts_is_handed_through() -> None:
    with open_counts(ad.AnnData(X=COUNTS)) as counts:
        assert open_counts(counts) is counts
        assert open_counts(counts, layer="X") is counts
        with pytest.raises(InputError, match="no layer 'raw'"):
            open_counts(counts, layer="raw")
    with pytest.raises(ValueError, match="was closed"):
        next(counts.blocks())
