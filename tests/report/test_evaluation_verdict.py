"""The answer at the top of an evaluation: worked out from resamples, and never better than they."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import markdown
from support.browser import Page
from support.evaluations import PROBES, TASKS, folder_of, result, whole

from cellscribe.evaluation import suite
from cellscribe.evaluation.results import Result
from cellscribe.evaluation.scores import Estimate, Scores
from cellscribe.report.evaluation_page import HOW, write_report
from cellscribe.report.evaluation_tables import tables
from cellscribe.report.evaluation_verdict import NO_INTERVAL, NOT_RUN, TITLE, verdicts

NOISE = np.random.default_rng(0).normal(0, 0.05, 60)
"""What resamples of all methods share: their cells."""


@pytest.fixture(autouse=True)
def made_up_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "TASKS", dict.fromkeys(TASKS, "made up"))
    monkeypatch.setattr(suite, "task_module", TASKS.__getitem__)


def estimate(value: float, own: float = 0.0, seed: int = 0) -> Estimate:
    """A figure whose resamples vary with the cells, and by `own` with nothing."""
    draws = value + NOISE + own * np.random.default_rng([7, seed]).normal(size=60)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(value=value, low=low, high=high, draws=tuple(draws))


def judged(
    data: str, values: Mapping[str, float], own: float = 0.002, seen: str = ""
) -> list[Result]:
    """Results of two seeds; PCA-50 is `PROBES[0]` at 0.8."""
    made = []
    for each in whole("celltype", data):
        value = {PROBES[0]: 0.8, **values}.get(each.method, 0.5)
        spread = own if each.kind == "model" else 0.0
        scores = Scores(estimates={"f1": estimate(value, spread, each.seed)})
        made.append(replace(each, scores=scores, seen=seen if each.kind == "model" else ""))
    return made


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((0.85, 0.81), "Yes: of 2 comparisons, better in 2 (macro-F1 on a by 0.050; macro-F1 on b"
         " by 0.010)."),
        ((0.75, 0.75), "No: of 2 comparisons, worse in 2 (macro-F1 on a by 0.050; macro-F1 on b by"
         " 0.050)."),
        ((0.85, 0.75), "In part: of 2 comparisons, better in 1 (macro-F1 on a by 0.050), worse in 1"
         " (macro-F1 on b by 0.050)."),
        ((0.85, 0.8), "In part: of 2 comparisons, better in 1 (macro-F1 on a by 0.050), no"
         " difference seen in 1."),
        ((0.8, 0.75), "No: of 2 comparisons, worse in 1 (macro-F1 on b by 0.050), no difference"
         " seen in 1."),
        ((0.8, 0.8), "No difference seen: of 2 comparisons, no difference seen in 2."),
    ],
)  # fmt: skip
def test_the_answer_counts_every_comparison(values: tuple[float, float], told: str) -> None:
    results = [each for data, value in zip("ab", values, strict=True)
               for each in judged(data, {"mini": value})]  # fmt: skip
    (verdict,) = verdicts(tables(results))
    assert verdict.sentence == f"Is mini better than PCA-50 here? {told}"


def test_ties_are_those_of_the_paired_interval() -> None:
    """0.01 apart, both intervals 0.2 wide: seen where resamples go together, else not."""
    for own, finding in ((0.001, "better"), (0.05, "no difference seen")):
        (verdict,) = verdicts(tables(judged("a", {"mini": 0.81}, own)))
        (comparison,) = verdict.comparisons
        assert comparison.finding == finding
        assert comparison.model.low < comparison.pca.value < comparison.model.high
        # each seed by hand
        gaps = [0.01 + own * np.random.default_rng([7, seed]).normal(size=60) for seed in (0, 1)]
        assert comparison.difference.low == pytest.approx(min(np.percentile(gaps, 2.5, axis=1)))
        assert comparison.difference.high == pytest.approx(max(np.percentile(gaps, 97.5, axis=1)))


def test_less_is_better_where_the_metric_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(TASKS["celltype"].METRICS["f1"], better="lower")
    monkeypatch.setitem(TASKS["celltype"].METRICS, "f1", metric)
    (verdict,) = verdicts(tables(judged("a", {"mini": 0.7})))
    assert verdict.comparisons[0].finding == "better"


def test_files_of_the_training_are_shown_and_not_counted() -> None:
    seen = judged("seen", {"mini": 0.99}, seen="trained on seen")
    (verdict,) = verdicts(tables([*seen, *judged("new", {"mini": 0.7})]))
    assert "No: of 1 comparison, worse in 1 (macro-F1 on new by 0.100)." in verdict.sentence
    assert [row[0].text for row in verdict.grid.rows] == [
        "seen †: macro-F1 ↑", "new: macro-F1 ↑"
    ]  # fmt: skip
    (verdict,) = verdicts(tables(seen))
    assert "Not known: it may have been trained on every file" in verdict.sentence


def test_without_pca_or_without_intervals_nothing_is_claimed() -> None:
    (verdict,) = verdicts(tables(whole("mlm", "a")))
    assert verdict.sentence.endswith(NOT_RUN)
    assert not verdict.comparisons
    (verdict,) = verdicts(tables(whole("celltype", "a", {"mini": (0.99, 0.99)})))
    assert verdict.sentence.endswith(NO_INTERVAL)
    assert [cell.text for cell in verdict.grid.rows[0]][-1] == "not judged"
    assert not any(cell.interval for cell in verdict.grid.rows[0])


def test_each_model_has_an_answer_at_the_top_of_report_and_page(tmp_path: Path) -> None:
    other = [result("celltype", "a", "other", "model", seed, estimates={"f1": estimate(0.9)})
             for seed in (0, 1)]  # fmt: skip
    results = [*judged("a", {"mini": 0.75, "mini, random weights": 0.6}), *other]
    sentences = write_report(folder_of(tmp_path, results))
    assert [each.split(":")[0] for each in sentences] == [
        "Is mini better than PCA-50 here? No", "Is other better than PCA-50 here? Yes"
    ]  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    page = Page((tmp_path / "report.html").read_text())
    for sentence in sentences:
        assert 0 < text.index(sentence) < text.index(HOW)
        assert 0 < page.text.index(sentence) < page.text.index(HOW)
    head, row, *_ = markdown.tables(text)[TITLE]
    assert head == [
        "Data and figure", "mini", "random weights", "PCA-50", "Difference", "The model is"
    ]  # fmt: skip
    assert row[:4] == ["a: macro-F1 ↑", "0.750", "0.600", "0.800"]
    assert row[4].startswith("-0.050 [-0.0")
    assert row[5] == "worse"
    assert "random weights" not in {verdict.model for verdict in verdicts(tables(results))}
