"""The report page: its numbers, its escaping, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import complaints, open_page

from cellscribe.errors import InputError
from cellscribe.report.depth import DepthExplained
from cellscribe.report.embedding_page import EmbeddingReport, render_page, write_report

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
DARK = ("--blink-settings=preferredColorScheme=0",)
VOID = {"meta", "link", "img", "br", "hr", "input"}


def make_report(n_cells: int = 300, n_shown: int = 120, **changes: Any) -> EmbeddingReport:
    rng = np.random.default_rng(11)
    umis = rng.integers(500, 20_000, n_cells)
    genes = rng.integers(200, 1_500, n_cells)
    genes_known = (genes * rng.uniform(0.7, 0.95, n_cells)).astype(np.int64)
    values: dict[str, Any] = {
        "title": "Test cells",
        "source": "cells.h5ad",
        "embeddings": rng.normal(size=(n_shown, 24)).astype(np.float32),
        "shown": np.sort(rng.choice(n_cells, n_shown, replace=False)),
        "n_cells": n_cells,
        "labels": [("T cell", "B cell", "NK cell")[i % 3] for i in range(n_shown)],
        "label_name": "cell_type",
        "umis": umis,
        "umis_known": (umis * rng.uniform(0.8, 0.99, n_cells)).astype(np.int64),
        "genes": genes,
        "genes_known": genes_known,
        "tokens": np.minimum(genes_known, 1_024),
        "context": 1_024,
        "empty_cells": np.array([], dtype=np.int64),
        "gene_summary": "Genes were found in var_names.",
        "warnings": [],
        "facts": {"model": "mini", "cells/s": "431", "command": "cellscribe embed cells.h5ad"},
    }
    return EmbeddingReport(**(values | changes))


def coordinates(report: EmbeddingReport) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(len(report.shown), 2))


def page_of(**changes: Any) -> str:
    report = make_report(**changes)
    return render_page(report, coordinates(report))


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def points(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def test_numbers_are_those_of_the_data() -> None:
    report = make_report(empty_cells=np.array([7, 19]))
    text = Page(render_page(report, coordinates(report))).text
    known, total = sum(map(int, report.umis_known)), sum(map(int, report.umis))
    cut = sum(int(g) > 1_024 for g in report.genes_known) / 300
    assert cut > 0
    for expected in (
        "Cells 300 ",
        "Dimensions 24 ",
        f"Median genes {sorted_median(report.genes):,.0f} ",
        f"UMIs known {known / total:.1%} ",
        "Cells per second 431 ",
        "Empty cells 2 ",
        f"In the median cell {sorted_median(report.umis_known / report.umis):.1%} of the UMIs",
        f"knows {sorted_median(report.genes_known / report.genes):.1%} of the detected genes",
        f"{cut:.1%} of the cells have more and were cut",
        f"the median cell has {sorted_median(report.tokens):,.0f} tokens",
        f"The median cell has {sorted_median(report.umis):,.0f} UMIs",
        "2 cells have no gene that the model knows",
        "120 of 300 cells drawn",
        "command cellscribe embed cells.h5ad",
    ):
        assert expected in text


def sorted_median(values: np.ndarray) -> float:
    ordered = sorted(values.tolist())
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def test_points_are_the_shown_cells() -> None:
    report = make_report()
    xy = coordinates(report)
    xy[10] = np.nan
    page = Page(render_page(report, xy))
    points = page.points
    place = {int(row): i for i, row in enumerate(report.shown)}
    assert sorted(points["row"]) == sorted(set(place) - {int(report.shown[10])})
    for x, row, code, umis in zip(
        points["x"], points["row"], points["code"], points["umis"], strict=True
    ):
        assert points["names"][code] == report.labels[place[row]]  # type: ignore[index]
        assert umis == report.umis[row]
        assert 0 <= x <= points["grid"]
    drawn = np.array([xy[place[row], 0] for row in points["row"]])
    assert np.corrcoef(drawn, points["x"])[0, 1] == pytest.approx(1, abs=1e-6)
    assert "1 cells whose vector is not finite" not in page.text
    assert "1 cell whose vector is not finite is left out" in page.text


def test_all_cells_drawn_needs_no_remark() -> None:
    assert "cells drawn" not in page_of(n_cells=120)


@pytest.mark.parametrize("labelled", [True, False])
def test_page_loads_nothing_from_elsewhere(labelled: bool) -> None:
    text = page_of() if labelled else page_of(labels=None, label_name=None)
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")], tag
    # every url() is a clip path on the page itself
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "@import" not in text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_references_within_the_page_are_met_once() -> None:
    text = page_of()
    page = Page(text)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    wanted += [a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")]
    assert set(wanted) <= set(ids)


def test_hostile_text_stays_text() -> None:
    hostile = page_of(
        title=HOSTILE,
        source=HOSTILE,
        labels=[HOSTILE] * 120,
        label_name=HOSTILE,
        gene_summary=HOSTILE,
        warnings=[HOSTILE],
        facts={HOSTILE: HOSTILE, "cells/s": HOSTILE},
    )
    tame = page_of(
        labels=["x"] * 120, label_name="x", warnings=["x"], facts={"x": "x", "cells/s": "x"}
    )
    page = Page(hostile)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(tame).tags]
    assert page.points["names"] == [HOSTILE]
    assert page.text.count(HOSTILE) >= 8


def test_headings_and_texts_for_those_who_do_not_see() -> None:
    page = Page(page_of(warnings=["careful"]))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag in ("svg", "canvas"):
            assert attributes["aria-label"], tag
            assert attributes["role"] == "img"


def test_warnings_box_only_when_there_are_some() -> None:
    assert "Warning" not in Page(page_of()).text
    assert "Warning careful" in Page(page_of(warnings=["careful"])).text


def test_the_page_tells_how_far_vectors_follow_depth_and_warns() -> None:
    above = DepthExplained(n_cells=1_500, vectors=0.79, pca=0.15)
    alike = DepthExplained(n_cells=1_500, vectors=0.2, pca=0.15)
    for found in (above, alike):
        text = Page(page_of(depth=found)).text
        assert found.sentence in text
        assert ("The vectors follow sequencing depth" in text) == (found is above)
    assert "follow depth was not measured" in Page(page_of()).text


def test_empty_cells_are_listed_up_to_twenty() -> None:
    page = Page(page_of(empty_cells=np.arange(100, 133)))
    assert "33 cells have no gene" in page.text
    assert " 119 and 13 more" in page.text
    assert " 120 " not in page.text.split("counted from 0:")[1].split("How this")[0]


def test_nothing_but_empty_cells() -> None:
    nothing = np.zeros(3, dtype=np.int64)
    report = make_report(
        n_cells=3, n_shown=3, embeddings=np.zeros((3, 4)), labels=None, label_name=None,
        shown=np.arange(3), umis=nothing, umis_known=nothing, genes=nothing, genes_known=nothing,
        tokens=nothing, empty_cells=np.arange(3), facts={},
    )  # fmt: skip
    text = Page(render_page(report, np.zeros((3, 2)))).text
    assert "UMIs known –" in text
    assert "No cell has any UMI." in text
    assert "PCA, coloured by sequencing depth" in text
    assert "Cells per second" not in text


def test_lengths_that_differ_are_a_defect() -> None:
    with pytest.raises(ValueError, match="tokens: 5 values, 300 cells"):
        make_report(tokens=np.zeros(5))
    with pytest.raises(ValueError, match="labels: 1, 120 cells shown"):
        make_report(labels=["one"])
    with pytest.raises(ValueError, match="umap_xy: 3 rows"):
        render_page(make_report(), np.zeros((3, 2)))


def test_same_report_gives_same_bytes() -> None:
    assert page_of() == page_of()


def test_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", disk_full)
    report = make_report()
    with pytest.raises(InputError, match="the disk is full"):
        write_report(path, report, coordinates(report))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


@pytest.mark.browser
def test_script_draws_every_point_in_a_browser(tmp_path: Path) -> None:
    report = make_report(labels=[HOSTILE if i % 2 else "B cell" for i in range(120)])
    page = tmp_path / "report.html"
    write_report(page, report, coordinates(report))
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=1280,1000")
    assert not complaints(done.stderr)
    shown = Page(done.stdout)
    canvas = next(a for t, a in shown.tags if t == "canvas")
    assert canvas["data-drawn"] == "120"
    assert "hidden" not in canvas
    assert int(canvas["width"] or 0) > 500
    assert "owned" not in next(re.finditer(r"<title>(.*?)</title>", done.stdout)).group(1)
    assert "Median genes" in shown.text


@pytest.mark.browser
def test_legend_lifts_out_its_class(tmp_path: Path) -> None:
    # the policy admits no script but ours, so the one that presses the button needs it gone
    text = re.sub(r"<meta http-equiv[^>]*>", "", page_of())
    press = "<script>document.querySelector('[data-code=\"1\"]').click()</script></body>"
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", press))
    done = open_page(tmp_path, page, "--dump-dom")
    assert not complaints(done.stderr)
    shown = Page(done.stdout)
    assert next(a for t, a in shown.tags if t == "canvas")["data-lifted"] == "1"
    pressed = [a["aria-pressed"] for t, a in shown.tags if t == "button"]
    assert pressed == ["false", "true", "false"]


@pytest.mark.browser
def test_browser_blocks_what_is_not_ours(tmp_path: Path) -> None:
    # proves that `complaints` sees the console, and that the policy is in force
    page = tmp_path / "report.html"
    page.write_text(page_of().replace("</main>", "<script>document.title='owned'</script></main>"))
    done = open_page(tmp_path, page, "--dump-dom")
    assert any("Content Security Policy" in line for line in complaints(done.stderr))
    assert "<title>Test cells</title>" in done.stdout


@pytest.mark.browser
@pytest.mark.parametrize(
    ("size", "options"),
    [((1280, 1600), ()), ((500, 1600), ()), ((1280, 1600), DARK)],
    ids=["desktop", "narrow", "dark"],
)
def test_page_looks_like_something(
    tmp_path: Path, size: tuple[int, int], options: tuple[str, ...]
) -> None:
    from matplotlib.image import imread

    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    report = make_report()
    write_report(page, report, coordinates(report))
    window = f"--window-size={size[0]},{size[1]}"
    done = open_page(tmp_path, page, window, f"--screenshot={picture}", *options)
    assert not complaints(done.stderr)
    pixels = np.rint(imread(picture)[..., :3] * 255).astype(int)
    assert pixels.shape[:2] == (size[1], size[0])
    corner = pixels[2, 2]
    assert (corner < 40).all() if options else (corner > 230).all()
    drawn = (np.abs(pixels - corner).max(axis=2) > 60).mean()
    assert 0.01 < drawn < 0.5
    # each class's colour is on the page, in both themes
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)):
        assert (np.abs(pixels - colour).max(axis=2) <= 2).sum() > 50
