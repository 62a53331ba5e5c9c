"""Archives: what is in them is read or named; none reaches outside or fills the disk."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.text_cells import DENSE, N_CELLS, as_csv, mtx, put, refusal, same_cells, tenx

from cellscribe.cells.counts import open_counts
from cellscribe.cells.readers import archives


def tar_of(
    path: Path,
    members: Mapping[str, str | bytes],
    links: Mapping[str, str] | None = None,
    mode: str = "w:gz",
) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return path


def zip_of(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def below(folder: str, **changed: str) -> dict[str, str | bytes]:
    return {f"{folder}/{name}": content for name, content in tenx(**changed).items()}


GSM = {f"GSM1_{name}.gz": gzip.compress(str(text).encode()) for name, text in tenx().items()}
"""Members as GEO's _RAW.tar has them."""


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives(mode: str, tmp_path: Path) -> None:
    for members in (tenx(), below("run/filtered"), GSM, {"notes.txt": "x"} | below("d")):
        same_cells(tar_of(tmp_path / "x.tar", members, mode=mode))


def test_zip_archives_and_archives_of_a_table(tmp_path: Path) -> None:
    same_cells(zip_of(tmp_path / "x_RSEC_MolsPerCell_MEX.zip", tenx() | {"__MACOSX/._x.mtx": "x"}))
    for name in ("x.csv", "d/x.tsv.gz"):
        data = as_csv().encode()
        members = {name: gzip.compress(data) if name.endswith("gz") else data}
        same_cells(zip_of(tmp_path / "x.zip", members))
        same_cells(tar_of(tmp_path / "x.tar.gz", members))


def test_archives_cannot_reach_outside_the_scratch_folder(tmp_path: Path) -> None:
    scratch, victim = tmp_path / "a/b/scratch", tmp_path / "victim"
    scratch.mkdir(parents=True)
    victim.mkdir()
    evil = {f"../../../victim/{name}": text for name, text in tenx().items()}
    for path in (
        tar_of(tmp_path / "x.tar.gz", evil | {"/tmp/cellscribe-evil": "x"}),
        zip_of(tmp_path / "x.zip", evil | {"/tmp/cellscribe-evil": "x"}),
        # a link by the name of a file, then the file through it
        tar_of(
            tmp_path / "y.tar.gz",
            tenx(),
            {"matrix.mtx": str(victim / "matrix.mtx"), "d": str(victim)},
        ),
    ):
        with open_counts(path, scratch=scratch) as counts:
            assert counts.n_cells == N_CELLS
            assert sum(block.sum() for block in counts.blocks(3)) == DENSE.sum()
        assert not Path("/tmp/cellscribe-evil").exists()
        assert list(victim.iterdir()) == []
        assert list(scratch.iterdir()) == []


def test_archives_without_one_matrix(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    assert "no matrix.mtx; it holds readme" in refusal(tar_of(path, {"readme": "x"}))
    both = below("raw") | below("filtered")
    message = refusal(tar_of(path, both))
    assert "several matrices (raw, filtered); unpack it (tar -xf x.tar.gz)" in message
    flat = GSM | {name.replace("GSM1", "GSM2"): data for name, data in GSM.items()}
    assert "several matrices (GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz)" in refusal(
        tar_of(path, flat)
    )
    files = {"GSM1.h5": "x", "GSM2.h5": "x"}
    assert "no matrix.mtx, but GSM1.h5, GSM2.h5; unpack it" in refusal(tar_of(path, files))
    path = zip_of(tmp_path / "x.zip", {"x.zarr/zarr.json": "{}", "x.zarr/X/c/0": "x"})
    assert "a zarr store; unpack it (unzip x.zip)" in refusal(path)
    assert "unpack it (unzip x.zip)" in refusal(zip_of(path, {"a.csv": "x", "b.h5ad": "y"}))
    long = {f"{'n' * 150}{at}.csv": "x" for at in range(300)}
    refusal(zip_of(path, long))


def test_messages_name_the_archive_and_not_the_scratch_folder(tmp_path: Path) -> None:
    for changed, what in (
        ({"matrix_mtx": mtx()[:-9]}, "matrix.mtx cannot be read"),
        ({"features_tsv": ""}, "features.tsv is empty"),
        ({"barcodes_tsv": "a\n"}, "1 cells are named in barcodes.tsv"),
    ):
        path = tar_of(tmp_path / "x.tar.gz", below("d", **changed))
        message = refusal(path)
        assert what in message
        assert message.startswith(str(path))
        assert "cellscribe-" not in message


def test_damaged_archives(tmp_path: Path) -> None:
    noise = bytes(np.random.default_rng(0).integers(97, 122, 100_000, np.uint8)).decode()
    for whole in (
        tar_of(tmp_path / "x.tar.gz", tenx(matrix_mtx=noise)).read_bytes(),
        zip_of(tmp_path / "x.zip", tenx(matrix_mtx=noise)).read_bytes(),
    ):
        path = put(tmp_path, {"cut": whole[: len(whole) // 2]}) / "cut"
        assert "the archive cannot be read" in refusal(path)
        spoiled = bytearray(whole)
        spoiled[len(whole) // 2 : len(whole) // 2 + 99] = b"\xff" * 99
        assert "the archive cannot be read" in refusal(
            put(tmp_path, {"cut": bytes(spoiled)}) / "cut"
        )


def test_archives_that_would_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS", 1 << 20)
    bomb = tenx(matrix_mtx=mtx() + " " * (20 << 20))
    for path in (tar_of(tmp_path / "x.tar.gz", bomb), zip_of(tmp_path / "x.zip", bomb)):
        assert "too much to be true of an archive of its size" in refusal(path)
    monkeypatch.setattr(archives, "ALWAYS", 1 << 30)
    same = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: same)
    for path in (tmp_path / "x.tar.gz", tmp_path / "x.zip"):
        assert "0.0 GB are free; set TMPDIR" in refusal(path)


def test_a_member_that_claims_more_than_there_is(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", tenx(), mode="w")
    with tarfile.open(path) as archive:
        item = archive.getmember("matrix.mtx")
    item.size = 10**12
    data = bytearray(path.read_bytes())
    data[item.offset : item.offset + 512] = item.tobuf(tarfile.GNU_FORMAT)[:512]
    path.write_bytes(data)
    refusal(path)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "x.tar.gz", tenx())
    opened = Path.open

    def full(self: Path, mode: str = "r", *more: object) -> object:
        if mode == "wb":
            raise OSError(28, "No space left on device")
        return opened(self, mode, *more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    assert "cannot be unpacked under" in refusal(path)
