"""The pages' tables of an evaluation are those of its files: README's summary, the model card's."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from benchmarks import render_tables as script
from support import markdown

from cellscribe.errors import InputError
from cellscribe.evaluation import suite
from cellscribe.evaluation.results import Result, write
from cellscribe.evaluation.scores import Estimate, Kind, Metric, Scores

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ("weak", "strong")


def task(name: str, better: str) -> SimpleNamespace:
    return SimpleNamespace(
        NAME=name,
        TITLE=f"Task {name}",
        ABOUT="",
        METRICS={
            "figure": Metric(title="figure", about="", better=better),  # type: ignore[arg-type]
            "other": Metric(title="other", about="", digits=0),
        },
        HEADLINES=("figure",),
        BASELINES=BASELINES,
        PCA_BASELINE="weak" if name == "celltype" else None,
        EXTRA_BASELINES={},
    )


TASKS = {
    "mlm": task("mlm", "lower"),
    "celltype": task("celltype", "higher"),
    "performance": task("performance", "higher"),
}


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def made_up_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "TASKS", dict.fromkeys(TASKS, "made up"))
    monkeypatch.setattr(suite, "task_module", TASKS.__getitem__)


def results_of(name: str, data: str, values: tuple[float, ...], *, seen: str = "") -> list[Result]:
    kinds: dict[str, Kind] = {"mini": "model", "mini, random weights": "random"}
    kinds |= dict.fromkeys(BASELINES, "baseline")
    return [
        Result(
            task=name,
            data=data,
            method=method,
            kind=kind,
            seed=0,
            scores=Scores(
                estimates={
                    "figure": Estimate(value=value, low=value - 0.01, high=value + 0.02),
                    "other": Estimate(value=1_234.0, low=1_000.0, high=2_000.0),
                }
            ),
            about={"cells": 3_874},
            identity={"problem": {"cells": 3_874}},
            seen=seen if kind == "model" else "",
            made={"cpu": "Some CPU", "cellscribe": "0.9", "date": "2026-01-02"},
        )
        for (method, kind), value in zip(kinds.items(), values, strict=True)
    ]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    for each in (
        *results_of("mlm", "blood", (6.5, 9.9, 8.0, 6.9)),
        *results_of("celltype", "blood", (0.85, 0.6, 0.7, 0.9)),
        *results_of("celltype", "lung", (0.75, 0.6, 0.7, 0.7)),
        *results_of("celltype", "pancreas", (0.99, 0.6, 0.7, 0.8), seen="trained on pancreas"),
        *results_of("performance", "blood", (250.0, 251.0, 40.0, 50.0)),
    ):
        write(tmp_path / "results", each)
    return tmp_path


def filled(name: str, evaluation: Path) -> str:
    text = f"before\n<!-- evaluate:{name} -->\nold\n<!-- /evaluate:{name} -->\nafter"
    rendered = script.render(text, evaluation / "none", evaluation)
    assert rendered.startswith("before")
    assert rendered.endswith("after")
    assert "\nold\n" not in rendered
    assert script.render(rendered, evaluation / "none", evaluation) == rendered
    assert "Measured on Some CPU; cellscribe 0.9; 2026-01-02." in rendered
    return rendered


def test_how_good_has_the_best_baseline_on_files_never_seen(evaluation: Path) -> None:
    text, published = filled("how-good", evaluation).split("Masked genes, as others")
    assert [row[1] for row in markdown.tables(published)[""]] == [
        "Loss of masked genes", "3.35", "2.79", "2.50",
    ]  # fmt: skip
    head, *rows = markdown.tables(text)[""]
    assert head == [
        "measured",
        "data",
        "mini",
        "random weights",
        "PCA-50",
        "best baseline",
        "which is",
    ]
    assert rows == [
        ["Task mlm: figure ↓", "blood", "6.500 [6.490, 6.520]", "9.900 [9.890, 9.920]",
         "–", "6.900 [6.890, 6.920]", "strong"],
        ["Task celltype: figure ↑", "blood", "0.850 [0.840, 0.870]", "0.600 [0.590, 0.620]",
         "0.700 [0.690, 0.720]", "0.900 [0.890, 0.920]", "strong"],
        ["Task celltype: figure ↑", "lung", "0.750 [0.740, 0.770]", "0.600 [0.590, 0.620]",
         "0.700 [0.690, 0.720]", "0.700 [0.690, 0.720]", "weak"],
    ]  # fmt: skip
    assert [part.split("**")[0] for part in text.split("| **")[1:]] == ["6.500", "0.900", "0.750"]


def test_the_card_shows_every_baseline_and_marks_what_was_seen(evaluation: Path) -> None:
    text, published = filled("card-accuracy", evaluation).split("Masked genes, as others")
    assert published.count("not comparable") == 3
    head, *rows = markdown.tables(text)[""]
    assert head == ["Method", "blood", "lung", "pancreas", "average of 2"]
    assert [row[0] for row in rows] == ["mini", "mini, random weights", *BASELINES]
    assert rows[0][3].startswith("0.990 †")
    assert rows[0][4].startswith("0.800 [")
    assert "† mini, pancreas: trained on pancreas." in text
    assert "mlm" not in text
    head, *rows = markdown.tables(filled("card-performance", evaluation))[""]
    assert head == ["Method", "figure ↑", "other"]
    assert rows[0] == ["mini", "250.000 [249.990, 250.020]", "1,234 [1,000, 2,000]"]


def test_losses_are_shown_by_what_was_done_to_a_gene(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    kinds = {"mask": 7.25, "random": 8.5, "kept": 0.5}
    for each in results_of("mlm", "blood", (6.5, 9.9, 8.0, 6.9)):
        split = replace(each.scores, breakdowns={"by corruption": kinds, "by length": {"1-9": 3.0}})
        write(tmp_path / "results", replace(each, scores=split))
    text = filled("by-corruption", tmp_path)
    head, *rows = markdown.tables(text)[""]
    assert head == ["Method", *kinds]
    assert rows[0] == ["mini", "7.250", "8.500", "0.500"]
    assert len(rows) == 4
    assert "**blood**" in text
    assert "1-9" not in text
    for path in (tmp_path / "results").iterdir():
        path.unlink()
    write(tmp_path / "results", results_of("performance", "blood", (1.0, 1.0, 1.0, 1.0))[0])
    with pytest.raises(InputError):
        filled("by-corruption", tmp_path)


def test_check_covers_evaluations(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = evaluation / "README.md"
    stale = "<!-- evaluate:card-accuracy -->\n<!-- /evaluate:card-accuracy -->\n"
    card.write_text(stale)
    arguments = ["--page", str(card), "--evaluation", str(evaluation)]
    assert script.main([*arguments, "--check"]) == 1
    assert card.read_text() == stale
    assert script.main(arguments) == 0
    assert script.main([*arguments, "--check"]) == 0
    write(evaluation / "results", results_of("celltype", "lung", (0.8, 0.6, 0.7, 0.7))[0])
    assert script.main([*arguments, "--check"]) == 1
    # a result that is taken away takes its whole table with it
    next((evaluation / "results").glob("celltype--lung--strong*")).unlink()
    assert script.main(arguments) == 2
    assert "no table without strong" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["how-good", "card-accuracy", "by-corruption", "knitting"])
def test_markers_without_results_are_refused(tmp_path: Path, name: str) -> None:
    page = f"<!-- evaluate:{name} -->\n<!-- /evaluate:{name} -->"
    with pytest.raises(InputError, match=f"evaluate:{name}, which has no result"):
        script.render(page, tmp_path, tmp_path)


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for each in results_of("celltype", "blood", (0.9, 0.6, 0.7, 0.8), seen="trained on blood"):
        write(tmp_path / "results", each)
    with pytest.raises(InputError, match="no file that mini never saw"):
        filled("how-good", tmp_path)
    with pytest.raises(InputError, match="no result of the task performance"):
        filled("card-performance", tmp_path)


def test_a_card_made_anew_has_the_markers(tmp_path: Path, evaluation: Path) -> None:
    pytest.importorskip("torch")
    card = tmp_path / "README.md"
    card.write_text("# mini\n\n## Benchmarks\n\nx\n\n## Limits\n\n- few\n")
    bundle = load_script("bundle_model")
    bundle.mark_sections(card)
    text = card.read_text()
    assert script.render(text, tmp_path, evaluation) != text
    order = ["# mini", "## Downstream task accuracy", "## Performance benchmarks"]
    places = [text.index(heading) for heading in [*order, "## Limits\n\n- few\n"]]
    assert places == sorted(places)
    assert "## Benchmarks" not in text
    card.write_text("# mini\n")
    with pytest.raises(SystemExit, match="limits"):
        bundle.mark_sections(card)


def test_two_settings_of_one_table_are_not_mixed(evaluation: Path) -> None:
    for each in results_of("celltype", "blood", (0.1, 0.1, 0.1, 0.1)):
        write(evaluation / "results", replace(each, seed=1, identity={"problem": {"cells": 9}}))
    with pytest.raises(InputError, match="celltype on blood: results of 2 different settings"):
        script.render(
            "<!-- evaluate:how-good -->\n<!-- /evaluate:how-good -->", evaluation, evaluation
        )
