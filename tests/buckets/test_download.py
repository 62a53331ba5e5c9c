"""Whole objects: the same bytes or one line, whatever happens on the way."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.s3 import Faults
from support.web import Site

from cellscribe.buckets import bucket as bucket_module
from cellscribe.buckets import download as download_module
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.download import download
from cellscribe.errors import InputError

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "PART", 1 << 16)
    monkeypatch.setattr(bucket_module, "RETRIES", 3)


def test_parts_are_read_at_once_and_put_in_their_place(faults: Faults, tmp_path: Path) -> None:
    store = Bucket("s3://bucket/parts")
    store.write("x", DATA)
    faults.failures, faults.status, faults.cuts = 2, 503, 2
    download(store, "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert sum(request.startswith("GET") for request in faults.seen) >= 5
    store.write("empty", b"")
    download(store, "empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_an_object_that_changes_is_refused(faults: Faults, tmp_path: Path) -> None:
    store = Bucket("s3://bucket/changing")
    store.write("x", DATA)
    listed = store.head("x")
    store.write("x", DATA[::-1])
    with pytest.raises(InputError, match="changing/x has changed since it was listed"):
        download(store, "x", tmp_path / "x", listed)
    assert listed is not None
    with pytest.raises(InputError, match="has changed since it was listed"):
        download(store, "x", tmp_path / "x", replace(listed, size=10))


def test_what_is_not_there_is_told(faults: Faults, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        download(Bucket("s3://bucket/none"), "x", tmp_path / "x")


def test_a_server_that_falls_silent_is_given_up(
    faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "STALL", 0.2)
    monkeypatch.setattr(bucket_module, "RETRY_SECONDS", 1.0)
    store = Bucket("s3://bucket/silent")
    store.write("x", DATA[:1000])
    faults.pauses, faults.pause = 1, 1.0
    download(store, "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA[:1000]
    faults.pauses = 100
    with pytest.raises(InputError, match=r"silent/x: .*; run again when the server answers"):
        download(store, "x", tmp_path / "x")


@pytest.mark.parametrize("folder", ["plain", "moved", "noranges", "nolength"])
def test_web_servers_of_all_kinds_give_the_same(site: Site, tmp_path: Path, folder: str) -> None:
    site.files["a b%.h5ad"] = DATA
    download(Bucket(f"{site.address}/{folder}"), "a b%.h5ad", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert any("a%20b%25.h5ad" in request for request in site.seen)


def test_a_short_answer_is_no_file(site: Site, tmp_path: Path) -> None:
    site.files["x"] = DATA
    for folder in ("noranges", "nolength"):
        store = Bucket(f"{site.address}/{folder}")
        listed = store.head("x")
        site.cuts = 1
        with pytest.raises(InputError, match=f"/{folder}/x: .*run again"):
            download(store, "x", tmp_path / "x", listed)
    with pytest.raises(InputError, match="does not tell its length"):
        download(Bucket(f"{site.address}/unknown"), "x", tmp_path / "x")
    site.cuts = 2
    download(Bucket(f"{site.address}/plain"), "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_the_web_refuses_in_one_line(site: Site, tmp_path: Path) -> None:
    site.files["x"] = DATA
    with pytest.raises(InputError, match="private/x: 403 Forbidden; check the credentials"):
        download(Bucket(f"{site.address}/private"), "x", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        download(Bucket(f"{site.address}/plain"), "y", tmp_path / "y")
    listed = Bucket(f"{site.address}/nolength").head("x")
    assert listed is not None
    assert listed.size is None
    with pytest.raises(InputError, match="more than 1,000 bytes; give more --spool-gb"):
        download(Bucket(f"{site.address}/nolength"), "x", tmp_path / "x", listed, limit=1000)
