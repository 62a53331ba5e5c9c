"""What `open_corpus` accepts, and what it says of a store that is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.command import Cli, refused
from support.corpus import write_corpus

from cellscribe import writing
from cellscribe.corpus import manifest, store
from cellscribe.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", {"train": [40, 30], "val": [10]})


def test_a_corpus_is_opened(folder: Path) -> None:
    corpus = store.open_corpus(folder, deep=True)
    assert list(corpus.splits) == ["train", "val"]
    assert [path.name for path in corpus.token_files("train")] == ["00000.parquet", "00001.parquet"]
    tables = list(corpus.cells("train", ["cell", "assay"]))
    assert [len(table) for table in tables] == [40, 30]
    assert tables[0].column_names == ["cell", "assay"]
    with pytest.raises(InputError, match=r"has no split 'tests'; there are train, val"):
        corpus.token_files("tests")


def test_the_hash_tells_corpora_apart(folder: Path, tmp_path: Path) -> None:
    same = shutil.copytree(folder, tmp_path / "same")
    other = write_corpus(tmp_path / "other", {"train": [40, 30], "val": [10]}, seed=1)
    hashes = [store.open_corpus(path).hash for path in (folder, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def swap_shards(folder: Path) -> None:
    one, other = (folder / store.tokens_name("train", i) for i in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def flip_a_byte(folder: Path) -> None:
    path = folder / store.tokens_name("val", 0)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / store.tokens_name("train", 1)
    path.write_bytes(path.read_bytes()[:-20])


def change(folder: Path, edit: Any) -> None:
    path = folder / manifest.MANIFEST
    told = json.loads(path.read_text())
    edit(told)
    path.write_text(json.dumps(told))


def fewer_rows(folder: Path) -> None:
    path = folder / store.tokens_name("train", 0)
    pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
    shard = {"name": store.tokens_name("train", 0), "bytes": path.stat().st_size, "sha256": ""}
    change(folder, lambda told: told["splits"]["train"]["shards"][0].update(tokens=shard))


def garbage(folder: Path) -> None:
    path = folder / store.tokens_name("train", 0)
    path.write_bytes(b"x" * path.stat().st_size)


def another_table(folder: Path) -> None:
    path = folder / store.GENES
    lines = path.read_text().splitlines()
    lines[10] = lines[10][: lines[10].rindex("\t")] + "\t7.5"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / manifest.MANIFEST).unlink(), "holds no corpus; make one with"),
        (lambda f: (f / manifest.MANIFEST).write_text("{"), "manifest.json: damaged JSON"),
        (lambda f: (f / manifest.MANIFEST).write_text("[]"), "manifest.json: damaged JSON"),
        (lambda f: change(f, lambda told: told.update(version=9)), "of version 9"),
        (lambda f: (f / store.tokens_name("train", 1)).unlink(), r"00001.parquet is missing"),
        (swap_shards, "does not fit the manifest"),
        (cut, "does not fit the manifest"),
        (fewer_rows, "has 39 cells, the manifest 40"),
        (garbage, "it is damaged or was replaced"),
        (another_table, "is not the gene table of the manifest"),
        (lambda f: (f / store.GENES).unlink(), "the gene table is missing"),
    ],
)
def test_a_store_that_is_not_whole_is_refused(harm: Any, words: str, folder: Path) -> None:
    harm(folder)
    with pytest.raises(InputError, match=words):
        store.open_corpus(folder)


def test_a_changed_byte_is_seen_when_all_is_read(folder: Path) -> None:
    flip_a_byte(folder)
    store.open_corpus(folder)
    with pytest.raises(InputError, match=r"val/00000.parquet does not fit the manifest"):
        store.open_corpus(folder, deep=True)


def test_an_unfinished_corpus_says_how_to_go_on(tmp_path: Path, run: Cli) -> None:
    (tmp_path / "half/.build").mkdir(parents=True)
    line = refused(run("corpus", "card", tmp_path / "half"))
    assert "is not finished; run the cellscribe corpus build that made it again" in line
    assert "holds no corpus" in refused(run("corpus", "card", tmp_path))


def test_a_folders_hash_tells_names_and_contents(tmp_path: Path) -> None:
    for name, inner, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / inner).write_text(text)
    a, b, c, d = (writing.hash_of(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    assert writing.size_of(tmp_path / "a") == 1
