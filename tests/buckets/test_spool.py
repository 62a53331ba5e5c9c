"""Copies of remote objects: shared, bounded, private, and gone at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.web import Site

from cellscribe.buckets.download import StoppedError
from cellscribe.buckets.spool import NoRoomError, Spool
from cellscribe.errors import InputError

KILLED = """
import os, sys
from cellscribe.buckets.spool import Spool
spool = Spool(1, __import__("pathlib").Path(sys.argv[1]))
with spool.copy(sys.argv[2]):
    os._exit(9)
"""
KB = 1e-6
"""In the unit of the bound."""


def got(site: Site, name: str) -> int:
    """Times that an object was downloaded."""
    return sum(request.startswith(f"GET /plain/{name}") for request in site.seen)


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_an_object_is_downloaded_once_for_all_who_read_it(site: Site, tmp_path: Path) -> None:
    site.files["a"] = b"a" * 5000
    site.gate = threading.Event()
    threading.Timer(0.3, site.gate.set).start()

    def read(i: int) -> bytes:
        with Spool(1, tmp_path) as spool, spool.copy(f"{site.address}/plain/a") as path:
            assert path.name == "a"
            started.wait()
            return path.read_bytes()

    started = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(4))) == {b"a" * 5000}
    assert got(site, "a") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_makes_room(site: Site, tmp_path: Path) -> None:
    for name in "abcd":
        site.files[name] = name.encode() * 1000

    def read(name: str) -> None:
        with spool.copy(f"{site.address}/plain/{name}") as path:
            assert path.read_bytes() == site.files[name]
        time.sleep(0.02)  # times of files are not finer on every disk

    with Spool(2.5 * KB, tmp_path) as spool:
        for name in "abacb":  # a is used again, so b goes
            read(name)
        assert [got(site, name) for name in "abc"] == [1, 2, 1]
        assert sum(path.stat().st_size for path in left(tmp_path)) == 2000
        with spool.copy(f"{site.address}/plain/b"), spool.copy(f"{site.address}/plain/c"):
            with pytest.raises(NoRoomError), spool.copy(f"{site.address}/plain/d", wait=False):
                pass
            reader = threading.Thread(target=read, args=("d",))
            reader.start()
            reader.join(0.5)
            assert reader.is_alive()
        reader.join(10)
        assert not reader.is_alive()


def test_what_is_larger_than_the_bound_is_refused(site: Site, tmp_path: Path) -> None:
    site.files["a"] = b"a" * 3000
    with Spool(2 * KB, tmp_path) as spool:
        with (
            pytest.raises(InputError, match=r"/plain/a has 3,000 bytes.*give more --spool-gb"),
            spool.copy(f"{site.address}/plain/a"),
        ):
            pass
        assert got(site, "a") == 0


def test_a_failed_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.files["a"] = b"a" * 3000
    with Spool(1, tmp_path) as spool:
        for url in (f"{site.address}/private/a", f"{site.address}/plain/none"):
            with pytest.raises(InputError), spool.copy(url):
                pass
        site.cuts = 1
        with pytest.raises(InputError), spool.copy(f"{site.address}/nolength/a"):
            pass
        spool.stop()
        with pytest.raises(StoppedError), spool.copy(f"{site.address}/plain/a"):
            pass
        assert {path.name for path in left(tmp_path)} <= {"users", "room"}


def test_what_a_killed_process_left_is_removed(site: Site, tmp_path: Path) -> None:
    site.files["a"] = b"a" * 3000
    words = [sys.executable, "-c", KILLED, str(tmp_path), f"{site.address}/plain/a"]
    assert subprocess.run(words, timeout=60).returncode == 9
    assert any(path.name == "a" for path in left(tmp_path))
    with Spool(1, tmp_path) as spool:
        assert {path.name for path in left(tmp_path)} == {"users"}
        with spool.copy(f"{site.address}/plain/a"), Spool(1, tmp_path):
            # whoever comes later finds somebody at work
            assert any(path.name == "a" for path in left(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_ones_own(tmp_path: Path) -> None:
    with Spool(1, tmp_path) as spool:
        assert spool.folder.stat().st_mode & 0o777 == 0o700
        folder = spool.folder
    (tmp_path / "trap").mkdir(mode=0o700)
    (tmp_path / "trap" / "precious").write_text("mine")
    folder.symlink_to(tmp_path / "trap")
    with pytest.raises(InputError, match="is not a folder of yours alone"):
        Spool(1, tmp_path)
    assert (tmp_path / "trap" / "precious").read_text() == "mine"
    folder.unlink()
    folder.mkdir()
    os.chmod(folder, 0o777)
    with pytest.raises(InputError, match="is not a folder of yours alone"):
        Spool(1, tmp_path)


def test_links_in_the_folder_are_not_followed(site: Site, tmp_path: Path) -> None:
    site.files["a"] = b"a" * 3000
    target = tmp_path / "target"
    target.write_text("mine")
    with Spool(1, tmp_path) as spool:
        (spool.folder / "room").symlink_to(target)
        with pytest.raises(InputError), spool.copy(f"{site.address}/plain/a"):
            pass
    assert target.read_text() == "mine"


def test_the_bound_is_half_of_what_is_free(tmp_path: Path) -> None:
    with Spool(None, tmp_path) as spool:
        stats = os.statvfs(tmp_path)
        free = stats.f_bavail * stats.f_frsize
        assert 0.4 * free < spool.limit < 0.6 * free
