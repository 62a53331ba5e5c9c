"""Pages of labels: their figures, their escaping, their words without colours, and in a browser."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from support.browser import Page, complaints, fetched, open_page

from cellscribe.annotation.compare import Way
from cellscribe.annotation.judged import Judged, Learnt, judge_learnt, metrics_text
from cellscribe.annotation.kept_metrics import read_metrics
from cellscribe.annotation.labels import Labelled
from cellscribe.config.finetune import CalibrationOptions
from cellscribe.errors import InputError
from cellscribe.report import label_figures as figures
from cellscribe.report.colours import FOLDED, PALETTE, UNLABELLED
from cellscribe.report.label_page import render_finetuned

HOSTILE = "<script>document.title='owned'</script>"


def judged(
    monkeypatch: pytest.MonkeyPatch,
    n_labels: int = 4,
    *,
    names: list[str] | None = None,
    grouped: bool = True,
    n: int = 600,
) -> Judged:
    """Labels that are learnt well or badly; the baseline is one that reads the truth."""
    rng = np.random.default_rng(n_labels)
    truth = np.sort(rng.integers(n_labels, size=n))
    truth[:n_labels] = np.arange(n_labels)
    group = rng.integers(4, size=n)
    labels = names or [f"type {number} of cells" for number in range(n_labels)]
    labelled = Labelled(
        rows=[np.arange(n)],
        labels=labels,
        truth=truth,
        groups=np.array([f"donor {each}" for each in group], object) if grouped else None,
        sources=[],
        left_out={},
    )
    logits = rng.normal(0, 1.5, (n, n_labels)) + 3 * np.eye(n_labels)[truth]
    learnt = Learnt(
        name="head",
        label="cell_type" if names is None else names[0],
        labelled=labelled,
        vectors=rng.normal(size=(n, 6)),
        folds=group,
        tested=np.ones(n, bool),
        logits=logits,
        known=None,
        seconds=1.0,
    )

    def reads_the_truth(*_: Any, **__: Any) -> list[Way]:
        scores = logits + 2 * np.eye(n_labels)[truth]
        return [Way(name="genes", kind="baseline", logits=scores, seconds=2.0)]

    monkeypatch.setattr("cellscribe.annotation.judged.baselines", reads_the_truth)
    options = CalibrationOptions(group="donor" if grouped else None)
    return judge_learnt(learnt, [], options)


def page_of(*each: Judged, maps: bool = False) -> str:
    shown = [one if maps else replace(one, shown=None) for one in each]
    return render_finetuned(shown, title="mini on cells", source="cells.h5ad", facts={"a": "b"})


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Judged:
    return judged(monkeypatch)


def table_with(page: Page, heading: str) -> list[list[str]]:
    return next(rows for rows in page.tables if rows[0][0] == heading)


def test_the_verdict_comes_first_and_is_not_ours(four: Judged) -> None:
    text = Page(page_of(four)).text
    best = four.metrics["comparison"]["sentence"]
    assert best.startswith("Best on these data is genes (not ours)")
    assert text.index("cells.h5ad") < text.index(best) < text.index("Held-out cells 600")
    wanted = ["Confusion", "Each label", "How sure", "Held-out groups", "Ours and the baselines"]
    places = [text.index(f" {heading} ") for heading in wanted]
    assert places == sorted(places)


def test_tables_have_scikit_learns_numbers(four: Judged) -> None:
    page, held = Page(page_of(four)), four.metrics["held_out"]
    matrix = np.array(held["confusion"])
    truth = np.repeat(np.arange(4), matrix.sum(axis=1))
    best = np.concatenate([np.repeat(np.arange(4), row) for row in matrix])
    np.testing.assert_array_equal(confusion_matrix(truth, best), matrix)
    precision, recall, f1, support = precision_recall_fscore_support(truth, best)
    rows = {row[0]: row for row in table_with(page, "Label")[1:]}
    for number, name in enumerate(f"type {number} of cells" for number in range(4)):
        expected = [f"{support[number]:,}"]
        expected += [f"{each[number]:.3f}" for each in (precision, recall, f1)]
        assert rows[name][1:5] == expected
    shown = table_with(page, "label that cells have")
    for number, row in enumerate(shown[1:]):
        for column, cell in enumerate(row[1:-1]):
            n = matrix[number, column]
            share = n / matrix[number].sum()
            percent = "" if not n else "<1%" if share < 0.005 else f"{share:.0%}"
            assert cell == percent
        assert row[-1] == f"{matrix[number].sum():,}"
    ways = table_with(page, "Way")
    assert [row[0] for row in ways[1:]] == ["genes", "head (saved)"]
    assert ways[1][2] == "best"


def test_the_worst_group_is_named(four: Judged) -> None:
    worst = min(four.metrics["held_out"]["groups"], key=lambda row: row["accuracy"])
    assert (
        f"donor {worst['group']} fared worst: {worst['accuracy']:.0%}" in Page(page_of(four)).text
    )


def test_without_groups_it_warns_and_has_no_section_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = Page(page_of(judged(monkeypatch, grouped=False))).text
    assert "Warning No --group was given" in text
    assert "Held-out groups" not in text


def test_figures_have_words_and_the_page_loads_nothing(four: Judged) -> None:
    page = Page(page_of(four, maps=True))
    for tag, attributes in page.tags:
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]
            assert (attributes["src"] or "").startswith("data:image/png")
        assert tag != "script"
    alts = [a["aria-label"] or "" for t, a in page.tags if t == "svg" and "aria-label" in a]
    assert any(alt.startswith("Reliability curve: ") for alt in alts)
    assert any("ROC curves, area" in alt and "type 3 of cells" in alt for alt in alts)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_a_label_has_one_colour_in_every_figure(four: Judged) -> None:
    text = page_of(four, maps=True)
    colours = figures.label_colours(four.metrics["labelled"])
    found: dict[str, set[str]] = {}
    for colour, name in re.findall(r'background:(#\w{6})"></span>(?:<[^>]+>)*\d* ?'
                                   r"(?:<[^>]+>)*(type \d of cells)", text):  # fmt: skip
        found.setdefault(name, set()).add(colour)
    for colour, name in re.findall(r'stroke="(#\w{6})"[^>]*/></svg><span>(type \d of cells)', text):
        found.setdefault(name, set()).add(colour)
    assert found == {name: {colours[name]} for name in four.metrics["labelled"]}


def test_hostile_labels_stay_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tame = judged(monkeypatch, 3, names=["a", "b", "c"])
    hostile = judged(monkeypatch, 3, names=[HOSTILE, "b\u202e", "c\x1b[2J"])
    first, second = Page(page_of(tame, maps=True)), Page(page_of(hostile, maps=True))
    assert [tag for tag, _ in first.tags] == [tag for tag, _ in second.tags]
    assert second.text.count(HOSTILE) >= 6
    assert "\u202e" not in second.text
    assert "\x1b" not in second.text


def test_several_columns_have_a_part_each(four: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    other = judged(monkeypatch, 2, names=["disease", "healthy"])
    page = Page(page_of(four, other))
    assert page.text.count("Best on these data") >= 2
    headings = [a.get("id") for t, a in page.tags if t == "h2" and a.get("id")]
    assert len(headings) == len(set(headings))


def test_commonest_labels_have_colours_and_unknown_its_own() -> None:
    counts = {f"t{number:02}": 100 - number for number in range(23)} | {"unknown": 500}
    colours = figures.label_colours(counts)
    assert [colours[f"t{number:02}"] for number in range(20)] == list(PALETTE)
    assert {colours[f"t{number}"] for number in (20, 21, 22)} == {FOLDED}
    assert colours["unknown"] == UNLABELLED


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = figures.wilson(0.9, 50)
    assert (low, high) == pytest.approx((0.786398, 0.956524), abs=1e-6)
    assert figures.wilson(1.0, 3)[1] == 1.0


def test_without_the_extra_a_line_says_so(four: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "cellscribe.report.label_page.find_spec",
        lambda name: None if name == "umap" else there(name),
    )
    text = Page(page_of(four, maps=True)).text
    assert 'No map: it needs umap; install the report extra: pip install "cellscribe[report]"' in (
        text
    )


def test_metrics_are_read_again_and_damage_is_refused(four: Judged, tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    path = tmp_path / "metrics.json"
    path.write_text(metrics_text([four]))
    kept = read_metrics(tmp_path)
    assert kept == json.loads(json.dumps([four.metrics]))
    assert page_of(Judged(metrics=kept[0], shown=None)) == page_of(four)
    whole = json.loads(path.read_text())
    for spoil in (
        lambda found: found["columns"][0]["held_out"]["confusion"].pop(),
        lambda found: found["columns"][0]["held_out"].pop("labels"),
        lambda found: found["columns"][0]["comparison"].update(ways="many"),
        lambda found: found["columns"][0]["labelled"].pop("type 1 of cells"),
        lambda found: found["columns"][0]["held_out"]["labels"][0].update(roc=[[0.5]]),
        lambda found: found.update(version=2),
    ):
        spoilt = json.loads(json.dumps(whole))
        spoil(spoilt)
        path.write_text(json.dumps(spoilt))
        with pytest.raises(InputError, match=r"metrics\.json"):
            read_metrics(tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize("n_labels", [2, 30])
def test_it_fits_a_phone_and_complains_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_labels: int
) -> None:
    names = [f"CD{number}-positive, alpha-beta T cell_of_a_kind" for number in range(n_labels - 1)]
    each = judged(monkeypatch, n_labels, names=[*names, HOSTILE])
    page = tmp_path / "page.html"
    text = page_of(each, maps=n_labels == 2)
    page.write_text(text)
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=420,900")
    assert not complaints(done.stderr)
    assert not fetched(tmp_path)
    assert "<title>mini on cells</title>" in done.stdout
    # the policy admits no script, so the one that measures needs it gone
    measure = (
        "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth"
        "</script></body>"
    )
    free = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", measure)
    page.write_text(free)
    done = open_page(tmp_path, page, "--dump-dom", "--window-size=420,900")
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]), "the page is wider than the screen"
