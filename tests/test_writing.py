"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cellscribe.errors import LONGEST, InputError
from cellscribe.lease import lease
from cellscribe.writing import (
    LONGEST_SUFFIX,
    OutputError,
    check_target,
    disk_errors,
    foreign_in,
    hash_of,
    make_writable,
    remove,
    replace,
    writing,
)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with writing(out) as partial:
        partial.write_text("new")
        assert not out.exists()
        assert partial.parent == tmp_path  # on the same disk, so that a rename is enough
    assert out.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_keeps_the_old_and_removes_the_new(
    tmp_path: Path, kind: str, error: type[BaseException]
) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    old = out / "inner" if kind == "folder" else out
    old.write_text("old")
    with pytest.raises(error), writing(out) as partial:
        if kind == "folder":
            partial.mkdir()
            (partial / "inner").write_text("half")
        else:
            partial.write_text("half")
        raise error
    assert old.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_takes_a_folders_place(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    store(out)
    with writing(out) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == [
        "out.zarr",
        "out.zarr/new",
    ]


def test_file_and_folder_take_each_others_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with writing(out) as partial:
        partial.write_text("file")
    assert out.read_text() == "file"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    store(out)
    before = sorted(out.rglob("*"))
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "was never written", out)
    assert sorted(out.rglob("*")) == before
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_folder_got_while_the_work_went_on_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    store(out)
    lost = pytest.raises(InputError, match=r"holds obs/notes\.txt, which cellscribe did not write")
    with lost, writing(out) as partial:
        partial.mkdir()
        (out / "obs" / "notes.txt").write_text("mine")
    assert (out / "obs" / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_is_replaced_and_what_it_points_to_stays(
    tmp_path: Path, kind: str, target: str
) -> None:
    out, there = tmp_path / "out", tmp_path / "there"
    if target == "folder":
        there.mkdir()
        (there / "old").write_text("old")
    elif target == "file":
        there.write_text("old")
    out.symlink_to(there)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        check_target(out, None, overwrite=False)
    check_target(out, None, overwrite=True)
    with writing(out) as partial:
        if kind == "file":
            partial.write_text("new")
        else:
            partial.mkdir()
    assert not out.is_symlink()
    assert out.is_dir() == (kind == "folder")
    assert there.is_dir() == (target == "folder")
    assert there.is_file() == (target == "file")
    assert len(os.listdir(tmp_path)) == 2 - (target == "nothing")


def store(path: Path, version: int = 3) -> None:
    """A zarr store as anndata writes one."""
    import anndata
    import numpy as np
    import scipy.sparse as sp
    import zarr

    adata = anndata.AnnData(sp.random(30, 20, 0.3, format="csr", dtype=np.float32))
    adata.layers["dense"] = np.ones((30, 20))
    adata.obs["kind"] = ["a", "b", "c"] * 10
    adata.uns["deep"] = {"one": 1, "text": "x", "names": np.array(["a", "b"])}
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata.write_zarr(path, chunks=(7, 5))
            zarr.consolidate_metadata(str(path))
    finally:
        anndata.settings.zarr_write_format = before


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_is_replaced_only_if_it_holds_nothing_else(tmp_path: Path, version: int) -> None:
    out = tmp_path / "out.zarr"
    store(out, version)
    assert foreign_in(out) == []
    check_target(out, None, overwrite=True)
    for place in ("", "obs", "layers/dense", "X/data", "uns/deep"):
        for spare in ("notes.txt", "folder", "link"):
            path = out / place / spare
            if spare == "link":
                path.symlink_to(tmp_path)
            elif spare == "folder":
                path.mkdir()
            else:
                path.touch()
            assert foreign_in(out) == [str(path.relative_to(out))]
            with pytest.raises(InputError, match=f"{spare}, which cellscribe did not write"):
                check_target(out, None, overwrite=True)
            remove(path)
    assert foreign_in(out) == []


def test_a_model_is_replaced_only_if_it_holds_nothing_else(
    tmp_path: Path, tiny_model: Path
) -> None:
    import cellscribe

    model, exported = tmp_path / "model", tmp_path / "exported"
    shutil.copytree(tiny_model, model)
    cellscribe.export_model(tiny_model, exported)
    bundled = Path(cellscribe.__file__).parent / "bundled" / "mini"
    for folder in (model, exported, bundled):
        assert foreign_in(folder) == []
    (model / "gene_ids.tsv").touch()  # as families with names of their own have it
    assert foreign_in(model) == []
    (model / "gene_ids.tsv").unlink()
    (model / "thesis.tex").touch()
    (exported / "tokenizer.json").touch()
    assert foreign_in(model) == ["thesis.tex"]
    assert foreign_in(exported) == ["tokenizer.json"]
    (model / "thesis.tex").unlink()
    for text in ("{}", "[" * 100_000, "", '["a"]', "7"):  # a model of someone else
        (model / "config.json").write_text(text)
        assert "model.safetensors" in foreign_in(model)


def test_any_other_folder_stays(tmp_path: Path) -> None:
    for name in ("x.npy", "x.zarr", "x", "x.h5ad"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "data").write_text("mine")
        with pytest.raises(InputError, match="give another name"):
            check_target(folder, None, overwrite=True)
    for number in range(20):
        (tmp_path / "x" / f"{number:02}").touch()
    with pytest.raises(InputError, match=r"holds 00, 01, 02, 03, 04, \.\.\., which"):
        check_target(tmp_path / "x", None, overwrite=True)
    (tmp_path / "y.zarr").touch()
    for is_folder in (False, True):
        with pytest.raises(InputError, match=r"y\.zarr is a file, which no folder replaces"):
            check_target(tmp_path / "y.zarr", None, overwrite=True, is_folder=is_folder)
    os.mkfifo(tmp_path / "z.npy")
    with pytest.raises(InputError, match="is no ordinary file"):
        check_target(tmp_path / "z.npy", None, overwrite=True)


@pytest.mark.parametrize("name", ["x" * 250 + ".npy", "x" * 5000, "\0", "loop/x", "ä" * 125])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError) as told:
        check_target(tmp_path / name, tmp_path / "in", overwrite=True)
    assert len(str(told.value)) <= LONGEST


def test_the_longest_name_that_may_be_can_be_written(tmp_path: Path) -> None:
    room = 255 - LONGEST_SUFFIX
    out = tmp_path / ("x" * room)
    check_target(out, None, overwrite=False)
    with pytest.raises(InputError, match=f"at most {room} bytes"):
        check_target(tmp_path / ("x" * (room + 1)), None, overwrite=False)
    with lease(out), writing(out) as partial, writing(partial) as inner:
        inner.touch()
    assert out.exists()


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "in").is_dir()  # a link goes, what it points to stays
    remove(tmp_path / "folder")
    remove(tmp_path / "nothing")
    assert os.listdir(tmp_path) == []


def test_targets_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.zarr"
    source.mkdir()
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(InputError, match="is the input itself"):
        check_target(tmp_path / "." / "in.zarr", source, overwrite=True)
    with pytest.raises(InputError, match="lies inside the input"):
        check_target(source / "out.npy", source, overwrite=True)
    with pytest.raises(InputError, match="contains the input"):
        check_target(tmp_path, source, overwrite=True)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        check_target(taken, source, overwrite=False)
    with pytest.raises(InputError, match="no such folder; make it first"):
        check_target(tmp_path / "not here" / "out.npy", None, overwrite=False)
    check_target(taken, source, overwrite=True)
    check_target(tmp_path / "out.npy", None, overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="is not writable"):
        check_target(tmp_path / "out.npy", None, overwrite=False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_are_told_in_a_line(number: int) -> None:
    with (
        pytest.raises(OutputError, match=r"^out cannot be written: the disk is full; buy one$"),
        disk_errors("out", "buy one"),
    ):
        raise OSError(number, "any text")


def test_other_errors_of_the_disk_keep_their_reason() -> None:
    with pytest.raises(OutputError, match="Read-only file system"), disk_errors("out"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(ZeroDivisionError), disk_errors("out"):
        raise ZeroDivisionError


def test_advice_is_about_what_happened(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as told, disk_errors(tmp_path / "out"):
        (tmp_path / "gone" / "out").write_text("")
    assert "its folder was moved or removed meanwhile" in str(told.value)
    assert "space" not in str(told.value)


@pytest.mark.parametrize(
    ("number", "told"), [(28, "the disk is full; free"), (30, "Read-only"), (5, "Input/output")]
)
def test_errors_of_safetensors_are_told_like_others(number: int, told: str) -> None:
    # as Rust words them
    words = f"Error while serializing: I/O error: any text (os error {number})"
    with pytest.raises(OutputError, match=told), disk_errors("out"):
        raise SafetensorError(words)
    with pytest.raises(SafetensorError), disk_errors("out"):
        raise SafetensorError("Error while deserializing header: InvalidHeader")


def test_a_copy_that_may_only_be_read_can_be_made_writable_and_removed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "file").touch()
    outside.touch(0o400)
    (folder / "in" / "link").symlink_to(outside)
    for path in (folder / "in" / "file", folder / "in", folder):
        path.chmod(0o444 if path.is_file() else 0o555)
    make_writable(folder)
    for path in (folder, folder / "in", folder / "in" / "file"):
        assert path.stat().st_mode & 0o200
    assert outside.stat().st_mode & 0o777 == 0o400
    (folder / "in").chmod(0o555)
    folder.chmod(0o555)
    remove(folder)
    assert os.listdir(tmp_path) == ["outside"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk to fill it")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    out = small_disk / "out.bin"
    out.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match=r"out\.bin cannot be written: the disk is full; free"),
        writing(out) as partial,
    ):
        partial.write_bytes(bytes(2 << 20))
    assert out.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["out.bin"]
    with writing(out) as partial:  # the space is there again
        partial.write_bytes(bytes(1 << 19))
    assert out.stat().st_size == 1 << 19


def test_what_is_not_there_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_of(tmp_path / "nothing")
