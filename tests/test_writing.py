"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellscribe.errors import InputError
from cellscribe.writing import (
    OutputError,
    check_target,
    disk_errors,
    hash_of,
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
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "old").write_text("old")
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
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "was never written", out)
    assert (out / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


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
