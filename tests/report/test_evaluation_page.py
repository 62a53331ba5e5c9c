"""The report of an evaluation: what it refuses to show, and that it shows what was measured."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import markdown
from support.browser import Page, complaints, fetched, open_page
from support.evaluations import (
    FACTS,
    HOSTILE,
    LOSSES,
    PROBES,
    TASKS,
    around,
    folder_of,
    result,
    rows_of,
    whole,
)

from cellscribe.errors import InputError
from cellscribe.evaluation import suite
from cellscribe.evaluation.results import Result, read_all
from cellscribe.evaluation.scores import Curve, Estimate, Scores
from cellscribe.report.evaluation_grids import figure
from cellscribe.report.evaluation_page import tables, write_report
from cellscribe.report.evaluation_tables import average


@pytest.fixture(autouse=True)
def made_up_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks with few columns, in place of the real ones."""
    monkeypatch.setattr(suite, "TASKS", dict.fromkeys(TASKS, "made up"))
    monkeypatch.setattr(suite, "task_module", TASKS.__getitem__)


def report(path: Path, results: Sequence[Result]) -> tuple[str, Page]:
    write_report(folder_of(path, results))
    html = (path / "report.html").read_text(encoding="utf-8")
    return (path / "report.md").read_text(encoding="utf-8"), Page(html)


@pytest.fixture
def rich() -> list[Result]:
    """Two tasks, two data sets, a seen one, curves and breakdowns."""
    made = [*whole("mlm", "corpus"), *whole("celltype", "blood"), *whole("celltype", "pancreas")]
    for place, each in enumerate(made):
        known = each.data == "pancreas" and each.kind == "model"
        made[place] = replace(
            each,
            seen="trained on pancreas" if known else "",
            about={"cells": 2_700, "largest_class": "T cell", "folds": 5},
            made={"date": "2026-01-02", "cellscribe": "0.1"},
            scores=replace(
                each.scores,
                breakdowns={
                    "by kind": {"mask": 6.9 + each.seed, "kept": 0.1},
                    "by class": {f"class {n}": n / 10 for n in range(9)},
                },
                curves={
                    "few shots": Curve(
                        x=[1, 5, 10, 50],
                        y=[0.1 * place, 0.4, math.nan, 0.6 + 0.2 * each.seed],
                        x_label="cells a class",
                        y_label="macro-F1",
                        log_x=True,
                    )
                },
            ),
        )
    return made


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        ({"uniform"}, ["uniform"]),
        ({"uniform", "unigram"}, ["uniform, unigram"]),
        ({"mini, random weights"}, ["random weights of mini"]),
        ({"unigram", "mini, random weights"}, ["unigram, random weights of mini"]),
    ],
)
def test_no_table_without_what_it_must_stand_beside(
    tmp_path: Path, dropped: set[str], named: list[str]
) -> None:
    results = [each for each in whole("mlm", "some data") if each.method not in dropped]
    with pytest.raises(InputError) as refusal:
        write_report(folder_of(tmp_path, results))
    told = str(refusal.value)
    assert "\n" not in told
    for part in ("mlm", "some data", "run cellscribe evaluate again", *named):
        assert part in told
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


def test_each_shape_needs_random_weights_of_its_own() -> None:
    results = whole("mlm", "d")
    other = FACTS | {"parameters": 99}
    larger = [result("mlm", "d", "large", "model", seed, model=other) for seed in (0, 1)]
    with pytest.raises(InputError, match="without random weights of large"):
        tables([*results, *larger])
    twins = [result("mlm", "d", "large, x", "random", seed, model=other) for seed in (0, 1)]
    (part,) = tables([*results, *larger, *twins])
    assert [row.method for row in part.tables[0].rows] == [
        "large", "mini", "large, x", "mini, random weights", *LOSSES
    ]  # fmt: skip
    same = [result("mlm", "d", "sister", "model", seed) for seed in (0, 1)]
    assert tables([*results, *same])


def test_speed_needs_no_random_weights_but_its_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = SimpleNamespace(**vars(TASKS["mlm"]) | {"NAME": "performance"})
    monkeypatch.setitem(TASKS, "performance", speed)
    monkeypatch.setattr(suite, "TASKS", dict.fromkeys(TASKS, "made up"))
    results = [each for each in whole("performance", "d") if each.kind != "random"]
    assert [row.method for row in tables(results)[0].tables[0].rows] == ["mini", *LOSSES]
    with pytest.raises(InputError, match="no table without unigram"):
        tables([each for each in results if each.method != "unigram"])


def test_figures_are_those_of_the_files(tmp_path: Path, rich: list[Result]) -> None:
    """Every figure of the Markdown and of the page, worked out again from the JSON alone."""
    text, _ = report(tmp_path, rich)
    found: dict[tuple[str, str, str], list[list[float]]] = {}
    for file in (tmp_path / "results").iterdir():
        told = json.loads(file.read_text())
        of = told["scores"]["estimates"][TASKS[told["task"]].HEADLINES[0]]
        found.setdefault((told["task"], told["data"], told["method"]), []).append(
            [of["value"], of["low"], of["high"]]
        )
    shown = markdown.tables(text)
    for (_, data, method), seeds in found.items():
        mean = sum(value for value, _, _ in seeds) / len(seeds)
        low, high = min(low for _, low, _ in seeds), max(high for _, _, high in seeds)
        expected = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        rows = {row[0].removesuffix(" †"): row for row in shown[data][1:]}
        assert rows[method][1] == expected
        assert any(
            row[0].removesuffix(" †") == method and row[1].replace(" †", "") == expected
            for row in rows_of(tmp_path)
        )
    assert shown["corpus"][0] == ["Method", "loss ↓"]


def test_best_is_bold_in_its_own_direction_and_as_far_as_it_is_shown(tmp_path: Path) -> None:
    values = {"mini": (0.31,), "mini, random weights": (0.9,), "uniform": (0.9001,)}
    lower = whole("mlm", "d", values | {"unigram": (0.8,)})
    probes = dict(zip(PROBES, ((0.9001,), (0.8,)), strict=True))
    higher = whole("celltype", "d", {**values, **probes})
    text, page = report(tmp_path, [*lower, *higher])
    bold = re.findall(r"^\| (.*?) \| \*\*([\d.]+)\*\*", text, re.M)
    assert bold == [
        ("mini", "0.310"),
        ("mini, random weights", "0.900"),
        (PROBES[0], "0.900"),
    ]
    strong = [tag for tag, _ in page.tags if tag == "strong"]
    tiles = sum(attributes.get("class") == "tile" for _, attributes in page.tags)
    assert len(strong) == len(bold) + tiles


def test_a_figure_that_only_describes_is_never_bold(tmp_path: Path) -> None:
    results = [
        replace(each, scores=Scores(estimates={"tokens": around(1_234.0 + place, 0)}))
        for place, each in enumerate(whole("mlm", "d"))
    ]
    text, _ = report(tmp_path, results)
    assert "1,234" in text
    assert "| **" not in text


@pytest.mark.parametrize(("top", "interval"), [(0.125, "[0.12, 0.50]"), (math.nan, "[–, –]")])
def test_nothing_measured_is_a_dash_and_so_is_what_is_no_number(
    tmp_path: Path, top: float, interval: str
) -> None:
    results = [
        replace(
            each,
            scores=Scores(
                estimates={
                    "loss": Estimate(value=2.0 + each.seed, low=math.nan, high=math.nan),
                    "top": around(math.nan if each.kind == "model" or each.seed else 0.25, top),
                }
            ),
        )
        for each in whole("mlm", "d")
    ]
    text, page = report(tmp_path, results)
    rows = {row[0]: row[1:] for row in markdown.tables(text)["d"]}
    # the seeds' own reach, where there is no other interval
    assert rows["mini"] == ["2.500 [2.000, 3.000]", "–"]
    assert rows["uniform"] == ["2.500 [2.000, 3.000]", f"0.25 {interval}"]
    # the third metric, which no row has, is no column
    assert all(len(row) == 2 for row in rows.values())
    assert "top-1 of uniform: over 1 of 2 seeds" in page.text
    assert "nan" not in text.lower()
    assert "NaN" not in (tmp_path / "report.html").read_text()


def test_seen_rows_are_marked_and_out_of_averages_and_never_best(tmp_path: Path) -> None:
    seen = [
        replace(each, seen="trained on pancreas" if each.kind == "model" else "")
        for each in whole("celltype", "pancreas", {"mini": (0.99, 0.99)})
    ]
    new = [*whole("celltype", "blood", {"mini": (0.7,) * 2}),
           *whole("celltype", "lung", {"mini": (0.8,) * 2})]  # fmt: skip
    text, page = report(tmp_path, [*seen, *new])
    shown = markdown.tables(text)
    assert shown["pancreas"][1][0] == "mini †"
    assert "**0.990**" not in text
    assert "† mini: trained on pancreas." in text
    assert "mini may know pancreas: trained on pancreas." in page.text
    head, *rows = shown["All data: macro-F1"]
    assert head == ["Method", "blood", "lung", "pancreas", "average of 2"]
    mini = dict(zip(head, rows[0], strict=True))
    assert mini["pancreas"].startswith("0.990 †")
    assert mini["average of 2"].startswith("0.750 [")
    assert "Average over blood, lung, not over pancreas." in text
    # 0.01 below and 0.02 above each of two, which are drawn apart
    assert mini["average of 2"] == f"0.750 [{0.75 - 0.01 / 2**0.5:.3f}, {0.75 + 0.02 / 2**0.5:.3f}]"


def test_an_average_is_over_data_that_every_method_has(tmp_path: Path) -> None:
    results = [*whole("mlm", "a"), *whole("mlm", "b")]
    results += [result("mlm", "a", "other", "model", seed) for seed in (0, 1)]
    text, _ = report(tmp_path / "x", results)
    head, *rows = markdown.tables(text)["All data: loss"]
    assert head[-1] == "average of 1"
    assert [row[0] for row in rows][:2] == ["mini", "other"] or rows[0][0] == "other"
    assert next(row for row in rows if row[0] == "other")[2] == "–"
    apart = [*whole("mlm", "a"), *whole("mlm", "b")]
    apart += [result("mlm", data, f"only {data}", "model", s) for data in "ab" for s in (0, 1)]
    text, _ = report(tmp_path / "y", apart)
    assert "average of" not in text
    assert "No average:" in text


def test_average_of_equal_data_narrows_as_independent_ones_do() -> None:
    one = Estimate(value=3.0, low=2.0, high=5.0)
    four = average([one] * 4)
    assert four == Estimate(value=3.0, low=2.5, high=4.0)
    assert average([one]) == one
    assert math.isnan(average([one, replace(one, low=math.nan)]).low)


def test_rows_of_other_problems_do_not_stand_in_a_table(tmp_path: Path) -> None:
    now = whole("mlm", "d")
    old = [result("mlm", "d", "older model", "model", seed, settings="other") for seed in (0, 1)]
    text, page = report(tmp_path, [*now, *old])
    assert "older model" not in {row[0] for row in markdown.tables(text)["d"]}
    assert "Left out, measured with other settings or other cells: older model." in text
    assert "older model." in page.text.split("Masked genes")[1]
    both = [*now, *(replace(each, seed=9) for each in whole("mlm", "d", settings="other"))]
    with pytest.raises(InputError, match="mlm on d: results of 2 different settings"):
        tables(both)
    mixed = [replace(now[0], identity={**now[0].identity, "model": "retrained"}), *now[1:]]
    with pytest.raises(InputError, match="seeds of mini were measured with different weights"):
        tables(mixed)


def test_all_rows_of_a_table_have_the_same_seeds() -> None:
    results = whole("mlm", "d", {"mini": (1.0, 2.0, 30.0)})
    (part,) = tables(results)
    assert part.tables[0].seeds == (0, 1)
    assert part.tables[0].rows[0].estimates["loss"].value == pytest.approx(1.5)
    assert "seed 2, which some rows lack" in " ".join(part.tables[0].notes)
    with pytest.raises(InputError, match="no seed in common"):
        tables([replace(r, seed=7) if r.kind == "model" else r for r in whole("mlm", "d")])


def test_extra_baselines_that_are_absent_are_named(tmp_path: Path) -> None:
    text, _ = report(tmp_path / "x", whole("celltype", "d"))
    assert "Not measured: scVI + regression; pip install" in text
    more = [result("celltype", "d", "scVI + regression", "baseline", seed) for seed in (0, 1)]
    text, _ = report(tmp_path / "y", [*whole("celltype", "d"), *more])
    assert "Not measured" not in text


def test_published_losses_never_share_a_table_with_ours(tmp_path: Path, rich: list[Result]) -> None:
    text, page = report(tmp_path, rich)
    shown = markdown.tables(text)
    published = {row[0]: row[1] for row in shown["Published losses"][1:]}
    assert list(published.values()) == ["3.35", "2.79", "2.50"]
    assert all("not comparable" in row[2] for row in shown["Published losses"][1:])
    for rows in [rows for heading, rows in shown.items() if heading != "Published losses"]:
        assert not {row[0] for row in rows} & set(published)
    assert page.text.count("not comparable") == 3
    text, _ = report(tmp_path / "other", whole("celltype", "d"))
    assert "Published" not in text


def test_breakdowns_and_curves_are_tables_too(tmp_path: Path, rich: list[Result]) -> None:
    text, page = report(tmp_path, rich)
    shown = markdown.tables(text)
    assert shown["by kind"][0] == ["Method", "mask", "kept"]
    # two seeds, one apart; and what both agree on
    assert shown["by kind"][1][1:] == ["7.400 [6.900, 7.900]", "0.100"]
    assert [row[0] for row in shown["by class"][1:10]] == [f"class {n}" for n in range(9)]
    head, *points = shown["few shots"][:5]
    assert head[0] == "cells a class"
    assert [row[0] for row in points] == ["1", "5", "10", "50"]
    assert points[3][1] == "0.700"
    assert points[2][1] == "–"
    assert [tag for tag, _ in page.tags].count("details") == 2 + 3 * 3


def test_rows_of_kinds_are_in_order_and_sizes_are_told(tmp_path: Path, rich: list[Result]) -> None:
    text, _ = report(tmp_path, rich)
    rows = [row[0] for row in markdown.tables(text)["blood"][1:]]
    assert rows == ["mini", "mini, random weights", *PROBES]
    assert "cells 2,700; largest class T cell; folds 5; seeds 0, 1." in text
    assert text.index("Masked genes") < text.index("Cell types")
    assert "8,446,293" in text
    assert markdown.tables(text)["How this was made"][1] == ["date", "2026-01-02"]


def test_a_figure_that_does_not_vary_has_no_interval() -> None:
    third = 10.143
    noisy = Estimate(value=third, low=third * (1 - 1e-15), high=third * (1 + 1e-15))
    assert figure(noisy, 3).interval == ""
    assert figure(replace(noisy, high=third + 0.001), 3).interval == "[10.143, 10.144]"


def hostile_results() -> list[Result]:
    made = whole("celltype", HOSTILE)
    for place, each in enumerate(made):
        method = f"{HOSTILE} {each.method}" if each.kind == "model" else each.method
        curve = Curve(x=[1, 2], y=[0.1, 0.2], x_label=HOSTILE, y_label=HOSTILE)
        made[place] = replace(
            each,
            method=method,
            about={HOSTILE: HOSTILE},
            seen=HOSTILE if each.kind == "model" else "",
            made={HOSTILE: HOSTILE},
            model=FACTS | {"hash": HOSTILE} if each.model else None,
            scores=replace(
                each.scores, breakdowns={HOSTILE: {HOSTILE: 1.5}}, curves={HOSTILE + "2": curve}
            ),
        )
    return made


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    text, page = report(tmp_path, hostile_results())
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count(HOSTILE) > 12
    assert HOSTILE in markdown.tables(text)
    assert not re.search("<script|<img", text)


def test_the_page_loads_nothing_and_is_in_order(tmp_path: Path, rich: list[Result]) -> None:
    _, page = report(tmp_path, rich)
    assert "script" not in {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")}
    assert wanted <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    drawn = [a for t, a in page.tags if t == "svg" and a.get("aria-hidden") != "true"]
    # a dot plot and a figure of lines for each of three tables
    assert len(drawn) == 6
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)


def test_the_same_bytes_every_time(tmp_path: Path, rich: list[Result]) -> None:
    folder = folder_of(tmp_path, rich)
    write_report(folder)
    before = {name: (folder / name).read_bytes() for name in ("report.md", "report.html")}
    assert len(read_all(folder / "results")) == len(rich)
    write_report(folder)
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert {path.name for path in folder.iterdir()} == {"results", *before}


def test_no_results_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results; run cellscribe evaluate"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="'knitting'"):
        tables([replace(each, task="knitting") for each in whole("mlm", "d")])


@pytest.mark.browser
def test_the_page_opens_in_a_browser(tmp_path: Path, rich: list[Result]) -> None:
    write_report(folder_of(tmp_path / "e", [*rich, *hostile_results()]))
    done = open_page(tmp_path, tmp_path / "e" / "report.html", "--dump-dom")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    assert "<title>Evaluation of " in done.stdout
