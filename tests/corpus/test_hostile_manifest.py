"""Corpora and runs that lie: each is refused in one line, or means what it meant before."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpus import N_GENES, write_corpus
from support.json_tables import put
from support.training_runs import metrics, write_run

from cellscribe import writing
from cellscribe.config import ReaderOptions
from cellscribe.corpus.card import Card, describe
from cellscribe.corpus.manifest import MANIFEST
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import open_corpus, tokens_name
from cellscribe.errors import InputError
from cellscribe.report import run_tables
from cellscribe.report.data_card import markdown
from cellscribe.training.runs import Run, read_run, summarise

NESTED = json.loads("[" * 40 + "]" * 40)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 10**12, 10**30, 1.5, 2.0, 1e300, "", "x", "\x1b[31m", "../../etc",
    "/etc/passwd", [], [1], {}, {"a": 1}, NESTED,
)  # fmt: skip
SIZES = {"train": [20, 16], "val": [12]}
FIRST = tokens_name("train", 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("hostile") / "corpus", SIZES)


@pytest.fixture
def corpus(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "corpus"))


def use(folder: Path) -> Card:
    """All that a corpus is read for: batches, counts, and the card in words."""
    opened = open_corpus(folder)
    opened.summary()
    card = describe(opened)
    assert markdown(card)
    for batch in Reader(opened, ReaderOptions(batch_cells=8, lanes=2)):
        assert batch.tokens.max() < len(opened.vocabulary)
    return card


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        use(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 2_000
    return line


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every value of a JSON table; of a list, of its first value."""
    pairs = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, each in pairs:
        yield (*at, key)
        if isinstance(each, dict | list):
            yield from places(each, (*at, key))


def test_every_field_of_a_manifest_is_refused_or_means_what_it_meant(
    saved: Path, corpus: Path
) -> None:
    expected = use(saved)
    manifest = json.loads((saved / MANIFEST).read_text())
    draw = random.Random(0)
    taken = refused = 0
    for at in list(places(manifest)):
        for value in (*draw.sample(ODD, 5), ...):
            (corpus / MANIFEST).write_text(json.dumps(put(manifest, at, value)))
            try:
                card = use(corpus)
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
                continue
            taken += 1
            if at[0] != "splits":
                np.testing.assert_array_equal(card.gene_cells, expected.gene_cells)
                assert card.cells == expected.cells
    assert refused > 200
    assert taken > 50


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    told = json.loads((folder / MANIFEST).read_text())
    edit(told)
    (folder / MANIFEST).write_text(json.dumps(told))


def shard(told: dict[str, Any], place: int = 0) -> dict[str, Any]:
    return told["splits"]["train"]["shards"][place]["tokens"]


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "absolute": (lambda m: shard(m).update(name="/etc/passwd"), "'/etc/passwd' is not in the"),
    "above": (lambda m: shard(m).update(name="tokens/../../x"), "is not in the folders tokens"),
    "a NUL": (lambda m: shard(m).update(name="tokens/\0"), "is not in the folders tokens"),
    "twice": (lambda m: shard(m).update(name=shard(m, 1)["name"]), "stands there twice"),
    "gone": (lambda m: shard(m).update(name="tokens/train/7.parquet"), "is missing"),
    "size": (lambda m: shard(m).update(bytes=7), "does not fit the manifest"),
    "sum": (lambda m: m["splits"]["val"].update(cells=11), "splits.val.cells is 11, its shards"),
    "tokens": (lambda m: m["splits"]["val"].update(tokens=11), "the manifest says 11"),
    "context": (lambda m: m.update(context=10**12), "context must be a whole number from 1"),
    "labels": (lambda m: m.update(labels=["input_ids"]), "labels[0] 'input_ids' is a column"),
    "no label": (lambda m: m["labels"].append("age"), "has 0 columns 'age'"),
    "flag": (lambda m: m["datasets"].update(a={"side": 1, "cells": 1}), "datasets.a.side must be"),
    "reason": (lambda m: m.update(refused=[{"name": "x"}]), "refused[0].reason is missing"),
}


@pytest.mark.parametrize("name", LIES)
def test_manifests_that_lie(name: str, corpus: Path) -> None:
    edit, told = LIES[name]
    change(corpus, edit)
    assert told in refusal(corpus)


def test_links_that_lead_out_are_not_followed(corpus: Path, tmp_path: Path) -> None:
    shutil.move(corpus / FIRST, tmp_path / "elsewhere.parquet")
    (corpus / FIRST).symlink_to(tmp_path / "elsewhere.parquet")
    assert "is a link that leads out of the corpus" in refusal(corpus)


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "device"])
@pytest.mark.parametrize("name", [MANIFEST, FIRST, "genes.tsv"])
def test_what_is_no_file(name: str, kind: str, corpus: Path) -> None:
    path = corpus / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path.name, "device": "/dev/zero"}[kind])
    assert Path(name).name in refusal(corpus)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 10**5, '{"a": NaN}', '{"a":1,"a":1}']
)
def test_text_that_is_no_manifest(text: str, corpus: Path) -> None:
    (corpus / MANIFEST).write_text(text)
    assert MANIFEST in refusal(corpus)


def rewrite(folder: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first shard, and let the manifest have its size."""
    path = folder / FIRST
    table = edit(pq.read_table(path, partitioning=None))
    pq.write_table(table, path, row_group_size=16, compression="none")
    change(folder, lambda told: shard(told).update(bytes=writing.size_of(path)))


def column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def ids(values: list[list[int]], kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        rows = values + table["input_ids"].to_pylist()[len(values) :]
        lengths = pa.array([len(row) for row in rows], pa.int32())
        changed = column(table, "input_ids", pa.array(rows, pa.list_(kind)))
        return column(changed, "length", lengths)

    return edit


MOST = N_GENES + 4
COLUMNS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "negative tokens": (ids([[-5]], pa.int16()), "column 'input_ids' is of type list<"),
    "beyond": (ids([[7, MOST + 1]], pa.uint16()), f"has token {MOST + 1}, and the genes"),
    "far beyond": (ids([[65_535]], pa.uint16()), "has token 65535"),
    "special": (ids([[2, 9]], pa.uint16()), "has token 2, and the genes"),
    "lengths": (lambda t: column(t, "length", pa.array([3] * len(t), pa.int32())), "number of its"),
    "depth": (lambda t: column(t, "n_counts", pa.array([-3] * len(t))), "has a negative n_counts"),
    "no hash": (
        lambda t: column(t, "cell_hash", pa.nulls(len(t), pa.uint64())),
        "has empty places",
    ),
    "text": (lambda t: column(t, "cell", pa.array(["x"] * len(t))), "column 'cell' is of type str"),
    "a column less": (lambda t: t.drop_columns(["n_genes"]), "has 0 columns 'n_genes'"),
    "a column twice": (lambda t: t.append_column("cell", t["cell"]), "has 2 columns 'cell'"),
    "fewer rows": (lambda t: t.slice(1), "has 19 cells, the manifest 20"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_token_files_that_lie(name: str, corpus: Path) -> None:
    edit, told = COLUMNS[name]
    rewrite(corpus, edit)
    assert told in refusal(corpus)


def test_the_tokens_of_other_readers_are_in_range_too(corpus: Path) -> None:
    rewrite(corpus, ids([[65_535]], pa.uint16()))
    opened = open_corpus(corpus)
    with pytest.raises(InputError, match="has token 65535"):
        list(Reader(opened, ReaderOptions(batch_cells=8, lanes=2)))
    with pytest.raises(InputError, match="has token 65535"):
        list(opened.cells("train", ["input_ids"]))


def test_bytes_of_a_shard_that_changed_are_refused_or_read(saved: Path, corpus: Path) -> None:
    """Nothing but `InputError`; a changed byte of a value is a value, which hashes tell."""
    raw, draw = (saved / FIRST).read_bytes(), random.Random(3)
    for _ in range(150):
        changed = bytearray(raw)
        for _ in range(draw.choice((1, 8, 64))):
            changed[draw.randrange(len(raw))] = draw.randrange(256)
        (corpus / FIRST).write_bytes(changed)
        try:
            use(corpus)
        except InputError as error:
            assert "\n" not in str(error)
        with pytest.raises(InputError):
            open_corpus(corpus, deep=True)


def read_whole(folder: Path) -> Run:
    """Read all that a report of a run shows."""
    run = read_run(folder)
    runs = {"r": run}
    for table in (*run_tables.of_recipe(runs), run_tables.of_sessions(runs)):
        assert table.header
    assert run_tables.of_summary(runs).rows
    assert run_tables.of_losses(runs).rows
    assert run_tables.of_validations(runs).rows is not None
    assert run_tables.shape_text(run.header)
    return run


def test_every_field_of_a_run_is_refused_or_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 6)
    header = json.loads((folder / "run.json").read_text())
    lines = metrics(6)
    draw, refused = random.Random(2), 0
    for at in list(places(header)):
        for value in (*draw.sample(ODD, 4), ...):
            (folder / "run.json").write_text(json.dumps(put(header, at, value)))
            try:
                read_whole(folder)
            except InputError as error:
                assert str(folder) in str(error)
                refused += 1
    assert refused > 100
    (folder / "run.json").write_text(json.dumps(header))
    for key in lines[1]:
        for value in (*ODD, float("nan"), float("inf")):
            told = [*lines[:1], lines[1] | {key: value}, *lines[2:]]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in told))
            try:
                summary = summarise(read_whole(folder))
            except InputError as error:
                assert "metrics.jsonl" in str(error)
                continue
            assert summary.steps == 6
            assert summary.cells >= 0
