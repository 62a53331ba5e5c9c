"""The data card's numbers, recomputed with pandas, and its Markdown, read by a parser not ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from markdown_it import MarkdownIt
from support.cards import SIZES, by_design, describe_with, frame, put
from support.corpus import write_corpus
from support.markdown import count, tables

from cellscribe import writing
from cellscribe.corpus import store
from cellscribe.corpus.card import Card, describe
from cellscribe.corpus.store import open_corpus
from cellscribe.report.data_card import checks, markdown, warnings

HOSTILE = "</details><script>alert(1)</script> | *a* `b` [c](javascript:d) \\| _e_\n# f"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("card") / "some", SIZES, change=by_design)


@pytest.fixture(scope="module")
def card(corpus: Path) -> Card:
    return describe(open_corpus(corpus))


@pytest.fixture(scope="module")
def cells(corpus: Path) -> pd.DataFrame:
    return frame(corpus)


@pytest.mark.parametrize("column", [*store.LABELS, "dataset_id"])
def test_label_tables_are_the_value_counts(card: Card, cells: pd.DataFrame, column: str) -> None:
    header, *rows = tables(markdown(card))[column]
    assert header == [column, "all", *SIZES]
    body, total = rows[:-1], rows[-1]
    assert len({row[0] for row in body}) == len(body)
    for place, split in enumerate(header[1:], start=1):
        there = cells if split == "all" else cells[cells["split"] == split]
        counted = {row[0]: count(row[place]) for row in body if count(row[place])}
        assert counted == there[column].value_counts().to_dict()
        assert count(total[place]) == sum(counted.values()) == len(there)
        for row in body:
            percent = re.search(r"\((.*)%\)", row[place])
            share = 100 * count(row[place]) / len(there)
            assert float(percent[1] if percent else 0) == pytest.approx(share, abs=0.0501)
    sizes = [count(row[1]) for row in body]
    assert sizes == sorted(sizes, reverse=True)


def test_splits_table_is_that_of_the_files(card: Card, cells: pd.DataFrame) -> None:
    _, *rows = tables(markdown(card))["Splits"]
    for name, n, _, tokens, datasets, sources in rows:
        there = cells if name == "all" else cells[cells["split"] == name]
        assert count(n) == len(there)
        assert count(tokens) == sum(map(len, there["input_ids"]))
        assert count(datasets) == there["dataset_id"].nunique()
        assert count(sources) == there["source"].nunique()
    assert [row[0] for row in rows] == [*SIZES, "all"]


@pytest.mark.parametrize(
    ("title", "column"), [("Counts", "n_counts"), ("Genes", "n_genes"), ("Tokens", "length")]
)
def test_quantiles_are_those_of_numpy(
    card: Card, cells: pd.DataFrame, title: str, column: str
) -> None:
    _, *rows = tables(markdown(card))[f"{title} a cell"]
    for name, *cells_of_row in rows:
        there = cells if name == "all" else cells[cells["split"] == name]
        expected = np.quantile(there[column], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        found = [float(cell.replace(",", "")) for cell in cells_of_row]
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_text_tells_lengths_coverage_and_medians(
    card: Card, corpus: Path, cells: pd.DataFrame
) -> None:
    text = markdown(card)
    full = int((cells["length"] == 40).sum())
    assert full > 0
    assert f"{full} cell" in text
    medians = pd.read_csv(corpus / "genes.tsv", sep="\t")["median"].dropna()
    assert f"the middle gene has {medians.median():.4g}." in text
    row = [float(cell) for cell in tables(text)["Genes"][1]]
    np.testing.assert_allclose(row[3], medians.median(), rtol=1e-3)
    assert (row[0], row[-1]) == pytest.approx((medians.min(), medians.max()), rel=1e-3)
    assert "Method: drawn at random, over 150 cells. Error: none." in text


def test_gene_coverage_is_that_of_training(tmp_path: Path) -> None:
    def few_genes(table: pa.Table, split: str, place: int) -> pa.Table:
        # training has genes 5-24, token 24 in one cell only; held-out cells have one gene more
        tokens = [[5 + (i + k) % 19 for k in range(3)] for i in range(table.num_rows)]
        tokens[0] = [24] if split == "train" and not place else tokens[0]
        if split == "val":
            tokens[1] = [30, 6]
        table = put(table, "length", [len(row) for row in tokens])
        column = pa.array(tokens, table.schema.field(2).type)
        return table.set_column(2, table.schema.field(2), column)

    card = describe_with(tmp_path, few_genes)
    frame_of = frame(tmp_path / "corpus")
    train = frame_of[frame_of["split"] == "train"]["input_ids"]
    seen = pd.Series(np.concatenate(train.to_list())).value_counts()
    assert seen[24] == 1
    assert {5 + i: int(n) for i, n in enumerate(card.gene_cells) if n} == seen.to_dict()
    text = markdown(card)
    assert (
        "20 of 150 genes (13.3%) are a token of at least one training cell, 1 of them in fewer"
        in text
    )
    assert "1 gene only held-out cells have" in text
    assert "0 cells (0%) fill the context of 40 genes; nothing was cut" in text


def test_a_sound_corpus_has_nothing_to_warn_of(card: Card) -> None:
    assert all(check.passed for check in checks(card))
    assert warnings(card) == []
    text = markdown(card)
    assert "Warnings" not in text
    assert "Datasets in more than one split: none found. 3 datasets stand in both val" in text
    assert text.count("none found.") == 3


def test_a_leaked_cell_is_reported(tmp_path: Path) -> None:
    def leak(table: pa.Table, split: str, place: int) -> pa.Table:
        table = by_design(table, split, place)
        hashes = table["cell_hash"].to_pylist()
        if split == "train" and place == 1:
            hashes[3] = hashes[4] = 2**64 - 1
        if split == "test":
            hashes[7] = 2**64 - 1
        return put(table, "cell_hash", pa.array(hashes, pa.uint64()))

    card = describe_with(tmp_path, leak)
    assert card.repeats.within == {"train": 1}
    assert card.repeats.across == {("train", "test"): 1}
    assert [check.name for check in checks(card) if not check.passed] == [
        "Equal cells in different splits", "Equal cells within a split",
    ]  # fmt: skip
    text = markdown(card)
    told = text[text.index("## Warnings") : text.index("## Splits")]
    assert "1 distinct cell in both train and test." in told
    assert "1 repeat in train." in told


def test_a_dataset_on_two_sides_is_reported(tmp_path: Path) -> None:
    def share(table: pa.Table, split: str, place: int) -> pa.Table:
        table = by_design(table, split, place)
        names = table["dataset_id"].to_pylist()
        if split == "val":
            names[:4] = ["train-1"] * 4
        if split == "test_unseen":
            names[0] = "held-2"
        return put(table, "dataset_id", names)

    card = describe_with(tmp_path, share)
    n_train = (
        frame(tmp_path / "corpus").query("split == 'train'")["dataset_id"] == "train-1"
    ).sum()
    (told,) = warnings(card)
    assert f"train-1 has {n_train} cells in train and 4 in val" in told
    assert re.search(r"held-2 has \d+ cells in val and 1 in test_unseen", told)
    assert re.search(r"held-2 has \d+ cells in test and 1 in test_unseen", told)
    assert "stand in both val and test, as is meant" in told


def test_labels_that_training_lacks_are_listed(tmp_path: Path) -> None:
    def lack(table: pa.Table, split: str, place: int) -> pa.Table:
        table = by_design(table, split, place)
        if split == "test":
            table = put(table, "assay", ["Slide-seq"] * 2 + ["assay 1"] * (table.num_rows - 2))
            # sex is not a label that training must cover, and an empty label is none
            table = put(table, "sex", ["other"] * table.num_rows)
            table = put(table, "tissue_general", [""] * table.num_rows)
        return table

    card = describe_with(tmp_path, lack)
    assert warnings(card) == ["Labels of assay that training lacks: Slide-seq (2 cells held out)."]


def test_refused_sources_are_warned_of(tmp_path: Path) -> None:
    refused = [{"name": "log.h5ad", "reason": "its counts are normalised"}]
    card = describe_with(tmp_path, by_design, refused=refused)
    assert warnings(card) == ["Source log.h5ad was left out: its counts are normalised."]


def test_text_of_the_input_stays_text(tmp_path: Path) -> None:
    def attack(table: pa.Table, split: str, place: int) -> pa.Table:
        for column in ("assay", "dataset_id", "source"):
            table = put(table, column, [HOSTILE] * table.num_rows)
        return table

    source = {"name": HOSTILE, "kept": 150, "notes": [HOSTILE], "dropped": {HOSTILE: 1}}
    card = describe_with(
        tmp_path, attack, sources=[source], refused=[{"name": HOSTILE, "reason": HOSTILE}],
        dropped={HOSTILE: 1}, options={"name": HOSTILE}, split={"note": HOSTILE},
    )  # fmt: skip
    text = markdown(card)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert not re.search(r"<(script|a|em|code|h[1-6]>f|details)\b", html)
    plain = " ".join(HOSTILE.split())
    found = tables(text)
    assert found["assay"][1][0] == plain
    assert found["Sources"][1][0] == found["Dropped cells"][1][0] == plain
    assert ["Option: name", plain] in found["How this was made"]
    assert all(len({len(row) for row in rows}) == 1 for rows in found.values())


def test_sources_and_dropped_cells_add_up(card: Card) -> None:
    found = tables(markdown(card))
    header, *rows = found["Sources"]
    for place, name in enumerate(header):
        if name in ("Cells", "Kept") or name.startswith("Dropped"):
            numbers = [count(row[place]) for row in rows]
            assert sum(numbers[:-1]) == numbers[-1]
    kept, read = header.index("Kept"), header.index("Cells")
    assert count(rows[-1][kept]) == card.cells
    assert [row[0] for row in rows] == [*(f"{split}.h5ad" for split in SIZES), "all"]
    _, *dropped = found["Dropped cells"]
    assert sum(count(row[1]) for row in dropped[:-1]) == count(rows[-1][read])
    assert {row[0] for row in dropped} == {"fewer than 5 genes", "duplicate", "kept", "all"}
    facts = dict(found["How this was made"][1:])
    assert facts["Option: seed"] == "0"
    assert facts["Genes chosen"] == "the genes that the tests know"


def test_a_manifest_that_tells_little_leaves_no_empty_section(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "c", {"train": [12]})
    manifest = json.loads((path / "manifest.json").read_text())
    needed = ("format", "version", "labels", "context", "splits", "vocabulary")
    manifest = {key: manifest[key] for key in needed} | {"labels": []}
    manifest["vocabulary"] = {"hash": manifest["vocabulary"]["hash"]}
    writing.write_json(path / "manifest.json", manifest)
    text = markdown(describe(open_corpus(path)))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    assert "Sources" not in headings
    assert "Dropped cells" not in headings
    parts = re.split(r"^#.*$", text, flags=re.M)
    assert sum(not part.strip() for part in parts[1:]) == 1  # that above "Counts a cell"
    assert "None" not in text


def test_many_labels_are_folded_but_all_there(tmp_path: Path) -> None:
    def many(table: pa.Table, split: str, place: int) -> pa.Table:
        return put(table, "assay", [f"assay {i}" for i in range(table.num_rows)])

    text = markdown(describe_with(tmp_path, many))
    rows = tables(text)["assay"]
    assert {row[0] for row in rows[1:-1]} == {f"assay {i}" for i in range(60)}
    section = text[text.index("### assay") : text.index("### sex")]
    assert section.count("<details>") == section.count("</details>") == 1


def test_card_is_the_same_every_time(corpus: Path, card: Card) -> None:
    again = describe(open_corpus(corpus))
    assert markdown(again) == markdown(card)
