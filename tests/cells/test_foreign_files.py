"""What cellscribe does not read is told apart, and the way to what it reads is said."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest
from support.command import Cli
from support.text_cells import put, refusal

WAY = "as only embed and tokenize fetch files themselves"
URL = "is a URL|a URL; download it first"


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/cells.h5ad",
        "gs://bucket//twice/cells.h5ad",
        "https://host.org/cells.h5ad?token=1#x",
        "HTTP://host.org/cells.h5ad",
        "hf://datasets/a/b",
        "made-up+scheme://x/y",
    ],
)
def test_urls(url: str) -> None:
    assert refusal(url) == f"{url}: a URL; download it first, {WAY}"
    # pathlib takes two slashes for one; those of known schemes are given back
    if "//twice" not in url and "made-up" not in url:
        assert refusal(Path(url)) == f"{url}: a URL; download it first, {WAY}"


def test_a_path_may_look_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such file" in refusal("c:/cells.h5ad")
    assert "no such file" in refusal("a:b")


def test_verbs_that_fetch_nothing_keep_the_words_of_a_url(run: Cli, tmp_path: Path) -> None:
    url, out = "s3://bucket/a//cells.h5ad", str(tmp_path / "out")
    for words in (
        ["corpus", "build", url, "-o", out],
        ["evaluate", "mini", "--data", url, "-o", out],
    ):
        ran = run(*words)
        assert ran.status == 2
        assert f"{url}: a URL; download it first" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "s.rds",
            gzip.compress(b"X\n\0\0\0\3", mtime=0),
            "x <- readRDS('s.rds'); anndataR::write_h5ad(",
        ),
        ("s.RDS", bz2.compress(b"X\n\0\0\0\3"), "readRDS('s.RDS')"),
        ("s.bin", gzip.compress(b"X\n\0\0\0\3", mtime=0), "readRDS('s.bin')"),
        ("s.rds", b"A\n3\n262146\n", "readRDS('s.rds')"),
        ("s.RData", gzip.compress(b"RDX3\nX\n", mtime=0), "get(load('s.RData')[1])"),
        ("s.rda", gzip.compress(b"RDX3\nX\n", mtime=0), "get(load('s.rda')[1])"),
        ("s.qs", b"\x0b\x0e\x0a\x0c", "qs::qread('s.qs')"),
        ("s.qs2", b"\x0b\x0e\x0a\xc1", "qs2::qs_read('s.qs2')"),
        ("s.h5seurat", b"\x89HDF\r\n\x1a\n", "SeuratDisk::Convert('s.h5seurat', dest = 'h5ad')"),
        ("s.h5ad.gz", gzip.compress(b"\x89HDF\r\n\x1a\n", mtime=0), "gunzip it"),
        ("s.xlsx", b"\xd0\xcf\x11\xe0", "save it as CSV"),
        ("s.npy", b"\x93NUMPY\1\0", "a NumPy array without names"),
        ("s.csv", b"<html><body>404</body></html>", "a web page"),
        ("s.h5ad", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("s.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
        ("s.gz", gzip.compress(b"", mtime=0)[:15], "gzip-compressed, but neither"),
    ],
)
def test_files_of_others(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    message = refusal(put(tmp_path, {name: content}) / name)
    assert what in message
    assert "gunzip" not in message or "h5ad.gz" in name
