"""The data card's page: its figures, its escaping, and how it behaves in a real browser."""

from __future__ import annotations

import itertools
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.browser import Page, complaints, fetched, open_page
from support.corpus import write_corpus

from cellscribe.corpus.card import Card, describe
from cellscribe.corpus.store import LABELS, open_corpus
from cellscribe.errors import InputError
from cellscribe.report.data_card_page import render_card, write_card, write_card_page
from cellscribe.report.figures import bars_svg

HOSTILE = "</title></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
TRICKY = [' id="gone"', "#010203", "$x$", "日本語", "two\nlines", "url(#p1", "", "x" * 60]
SIZES = {"train": [400, 300], "val": [80], "test": [70], "test_unseen": [50]}
DARK = ("--blink-settings=preferredColorScheme=0",)


def relabel(table: pa.Table, **columns: list[str]) -> pa.Table:
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        column = pa.array([values[i % len(values)] for i in range(table.num_rows)], pa.string())
        table = table.set_column(place, table.schema.field(place), column.dictionary_encode())
    return table


def corpus_of(folder: Path, more: dict[str, Any] | None = None, **columns: list[str]) -> Path:
    def change(table: pa.Table, split: str, place: int) -> pa.Table:
        side = "held" if split in ("val", "test") else split
        datasets = [f"{side}-{i}" for i in range(30 if split == "train" else 2)]
        return relabel(table, **({"dataset_id": datasets} | columns))

    return write_corpus(folder, SIZES, change=change, more=more)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("page") / "atlas")


@pytest.fixture(scope="module")
def card(corpus: Path) -> Card:
    return describe(open_corpus(corpus))


@pytest.fixture(scope="module")
def text(card: Card) -> str:
    return render_card(card)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = {"name": HOSTILE, "cells": 900, "notes": [HOSTILE], "dropped": {HOSTILE: 1}}
    folder = corpus_of(
        tmp_path_factory.mktemp("hostile") / "x",
        {
            "sources": [source], "refused": [{"name": HOSTILE, "reason": HOSTILE}],
            "dropped": {HOSTILE: 1}, "options": {HOSTILE: HOSTILE}, "split": {"note": HOSTILE},
        },
        assay=[HOSTILE, *TRICKY], dataset_id=[HOSTILE], source=[HOSTILE],
    )  # fmt: skip
    return render_card(describe(open_corpus(folder)))


def test_tables_are_whole_and_add_up(text: str, card: Card) -> None:
    page = Page(text)
    found = {rows[0][0]: rows for rows in page.tables if rows[0][0] in card.columns}
    assert list(found) == [*LABELS, "dataset_id"]
    for column, (_, *rows) in found.items():
        assert {row[0] for row in rows[:-1]} == set(card.labels(column))
        for place in range(1, len(rows[0])):
            numbers = [int(row[place].split(" ")[0].replace(",", "")) for row in rows]
            assert sum(numbers[:-1]) == numbers[-1] > 0
    assert found["assay"][-1][1] == "900 (100%)"


def test_tiles_tell_the_corpus(text: str, card: Card) -> None:
    words = Page(text).text
    tokens = sum(split.tokens for split in card.splits.values())
    for expected in (
        "Cells 900 22.2% held out",
        f"Tokens {tokens:,} {tokens / 900:,.0f} a cell",
        "Datasets 34 by dataset_id",
        "Sources 4 ",
        "Genes 150 100% seen in training",
        "Dropped cells 20 2.2% of the cells read",
        f"corpus {card.hash}",
    ):
        assert expected in words
    assert "Warning" not in words


def test_long_label_lists_are_folded_in_the_figure_only(text: str) -> None:
    page = Page(text)
    assert "9 others" in page.text
    datasets = next(rows for rows in page.tables if rows[0][0] == "dataset_id")
    assert len(datasets) == 1 + 34 + 1


def test_a_leak_stands_in_a_box(tmp_path: Path) -> None:
    leaky = corpus_of(tmp_path / "c", dataset_id=["same"])
    page = Page(render_card(describe(open_corpus(leaky))))
    box = next(a for tag, a in page.tags if tag == "section")
    assert "alert" in (box["class"] or "")
    assert "Warning Datasets in more than one split: same has 700 cells in train" in page.text


def test_page_loads_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")], tag
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "script" not in {tag for tag, _ in page.tags}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_references_within_the_page_are_met_once(text: str, hostile: str) -> None:
    for page in (Page(text), Page(hostile)):
        ids = [a["id"] for _, a in page.tags if a.get("id")]
        assert len(ids) == len(set(ids))
        wanted = {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")}
        for _, attributes in page.tags:
            for name, value in attributes.items():
                if name != "aria-label":
                    wanted |= set(re.findall(r"(?:^#|url\(#)([^)]+)", value or ""))
        assert wanted <= set(ids)


def test_headings_and_texts_for_those_who_do_not_see(text: str) -> None:
    page = Page(text)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"
    drawn = [a for t, a in page.tags if t == "svg"]
    assert len(drawn) == len(LABELS) + 1 + 3 + 2
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)
    assert all(a.get("aria-label") for _, a in page.tags if a.get("role") == "region")


def test_hostile_text_stays_text(hostile: str) -> None:
    page = Page(hostile)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count(HOSTILE) >= 8
    cells = {cell for rows in page.tables for row in rows for cell in row}
    assert {name or "(empty)" for name in TRICKY} <= cells


def test_little_told_leaves_no_empty_section(tmp_path: Path) -> None:
    nothing = {"labels": [], "sources": [], "dropped": {}, "options": {}, "split": {}}
    page = Page(render_card(describe(open_corpus(corpus_of(tmp_path / "c", nothing)))))
    for heading in ("Notes on sources", "Sources Source", "Reason"):
        assert heading not in page.text
    assert all(len(rows) > 1 for rows in page.tables)


def test_bars_show_names_as_they_are_on_one_line_and_cut() -> None:
    names = [HOSTILE, *TRICKY, "$ 5 and $ 6"]
    svg = bars_svg(names, [0.1] * len(names), ["10%"] * len(names), name="x", alt="x")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    shown = ["".join(element.itertext()).strip() for element in root.iter("text")]
    assert [text for text in shown if text != "10%"] == [
        HOSTILE[:25] + "…", 'id="gone"', "#010203", "$x$", "日本語", "two lines", "url(#p1",
        "x" * 25 + "…", "$ 5 and $ 6",
    ]  # fmt: skip


def test_bars_have_the_shares_as_lengths() -> None:
    svg = bars_svg(
        ["<a>", "b", "rest"], [0.5, 0.25, 0.125], ["50%", "25%", "12%"], name="x",
        alt='a "quoted" <alt>', rings=[0.1, 0.2, 0.4], folded=True,
    )  # fmt: skip
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == 'a "quoted" <alt>'
    texts = ["".join(element.itertext()).strip() for element in root.iter("text")]
    assert texts == ["<a>", "50%", "b", "25%", "rest", "12%"]
    bars = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--(accent|muted)\)', svg)
    widths = []
    for outline, _ in bars:
        x = np.array(re.findall(r"[ML] ([\d.]+) ", outline), dtype=float)
        widths.append(x.max() - x.min())
    np.testing.assert_allclose(np.array(widths) / widths[0], [1, 0.5, 0.25], rtol=1e-3)
    assert [ink for _, ink in bars] == ["accent", "accent", "muted"]
    start = min(float(x) for x in re.findall(r"M ([\d.]+) ", bars[0][0]))
    rings = np.array(re.findall(r'<use [^>]*?x="([\d.]+)"[^>]*var\(--ink\)', svg), dtype=float)
    np.testing.assert_allclose((rings - start) / widths[0], [0.2, 0.4, 0.8], rtol=1e-3)
    assert "#0102" not in svg


def test_two_files_and_the_same_bytes_every_time(tmp_path: Path, corpus: Path) -> None:
    before = {p: p.read_bytes() for p in corpus.rglob("*") if p.is_file()}
    write_card(corpus)
    written = {p for p in corpus.rglob("*") if p.is_file()} - set(before)
    assert written == {corpus / "card.md", corpus / "card.html"}
    assert {p: p.read_bytes() for p in before} == before
    write_card(corpus, html=tmp_path / "a.html", md=tmp_path / "b.md")
    assert (tmp_path / "a.html").read_bytes() == (corpus / "card.html").read_bytes()
    assert (tmp_path / "b.md").read_bytes() == (corpus / "card.md").read_bytes()
    for path in written:
        path.unlink()


def test_missing_matplotlib_is_told_before_any_work(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "cellscribe\[report\]"'):
        write_card(corpus, html=tmp_path / "a.html", md=tmp_path / "b.md")
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_are_refused(tmp_path: Path, corpus: Path) -> None:
    manifest = (corpus / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"manifest\.json cannot be the card; name a file that"):
        write_card(corpus, md=corpus / "manifest.json")
    assert (corpus / "manifest.json").read_bytes() == manifest
    with pytest.raises(InputError, match="no such folder; make it first"):
        write_card(corpus, html=tmp_path / "nowhere" / "a.html")
    with pytest.raises(InputError, match="holds no corpus; make one"):
        write_card(tmp_path)
    assert not (corpus / "card.md").exists()


@pytest.mark.browser
def test_page_opens_without_complaint_or_network(tmp_path: Path, card: Card) -> None:
    page = tmp_path / "card.html"
    write_card_page(page, card)
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=1280,1000")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    shown = Page(done.stdout)
    assert sum(tag == "svg" for tag, _ in shown.tags) == len(LABELS) + 1 + 3 + 2
    assert "Who and what the cells are" in shown.text


@pytest.mark.browser
def test_browser_runs_and_fetches_nothing_of_the_input(tmp_path: Path, hostile: str) -> None:
    page = tmp_path / "card.html"
    page.write_text(hostile)
    done = open_page(tmp_path, page, "--dump-dom")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    assert "<title>Corpus x</title>" in done.stdout
    # and these are seen where they happen: the policy is in force, a request is logged
    page.write_text(hostile.replace("</main>", "<script>1</script></main>"))
    assert any(
        "Content Security" in x for x in complaints(open_page(tmp_path, page, "--dump-dom").stderr)
    )
    page.write_text('<img src="https://nowhere.invalid/x.png">')
    open_page(tmp_path, page, "--dump-dom")
    assert fetched(tmp_path) == {"https://nowhere.invalid/x.png"}


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "options"), [(1200, ()), (400, ()), (1200, DARK)], ids=["desktop", "phone", "dark"]
)
def test_page_looks_like_something(
    tmp_path: Path, card: Card, width: int, options: tuple[str, ...]
) -> None:
    from matplotlib.image import imread

    page, picture = tmp_path / "card.html", tmp_path / "page.png"
    write_card_page(page, card)
    # a window of Chromium is never as narrow as a phone, but a frame is
    frame = tmp_path / "frame.html"
    style = f"display:block;width:{width}px;height:5000px;border:0"
    frame.write_text(f'<body style="margin:0"><iframe src="card.html" style="{style}"></iframe>')
    done = open_page(
        tmp_path, frame, "--window-size=1300,5000", f"--screenshot={picture}", *options
    )
    assert not complaints(done.stderr)
    pixels = np.rint(imread(picture)[:, :width, :3] * 255).astype(int)
    corner = pixels[2, 2]
    assert (corner < 40).all() if options else (corner > 230).all()
    drawn = np.abs(pixels - corner).max(axis=2) > 60
    assert 0.01 < drawn.mean() < 0.5
    # nothing is wider than the page: its margin stays empty
    margin = 10 if width == 400 else 20
    assert not drawn[:, -margin:].any()
    accent = (0x4F, 0xB3, 0xB8) if options else (0x2A, 0x7F, 0x86)
    assert (np.abs(pixels - accent).max(axis=2) <= 2).sum() > 5_000
