"""Pages of finetune and annotate as a user meets them, and what --compare prints."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.browser import Page
from support.command import Cli, nothing_new, refused
from support.typed_cells import saved, typed_cells

import cellscribe

pytestmark = pytest.mark.usefixtures("one_thread")
COLUMNS = ("--label", "cell_type", "--group", "donor")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("cells") / "labelled.h5ad", typed_cells(90))


@pytest.fixture(scope="module")
def learnt(labelled: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "ft"
    cellscribe.finetune(tiny_model, labelled, out, label="cell_type", group="donor")
    return out


def test_a_model_has_a_page_and_metrics(learnt: Path) -> None:
    page = Page((learnt / "report.html").read_text())
    kept = json.loads((learnt / "metrics.json").read_text())["columns"][0]
    assert kept["comparison"]["sentence"] in page.text
    assert {row["name"] for row in kept["comparison"]["ways"]} == {
        "head", "logistic regression on genes", "CellTypist's recipe",
    }  # fmt: skip
    assert kept["held_out"]["cells"] == 90
    assert "report.html" in (learnt / "SHA256SUMS").read_text()
    # the figures are those that the head itself is judged by
    head = json.loads((learnt / "head.json").read_text())["calibration"]["crossed"]
    for name in ("accuracy", "macro_f1", "error", "coverage", "accuracy_called"):
        assert kept["held_out"][name] == pytest.approx(head[name])


def test_no_report_leaves_neither(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    out = tmp_path / "ft"
    ran = run("finetune", tiny_model, labelled, "-o", out, *COLUMNS, "--no-report")
    assert ran.status == 0, ran.err
    assert not (out / "report.html").exists()
    assert not (out / "metrics.json").exists()
    ran = run("finetune", tiny_model, labelled, "-o", out, *COLUMNS, "--overwrite")
    assert ran.status == 0, ran.err
    assert (out / "report.html").exists()
    ran = run("finetune", tiny_model, labelled, "-o", out, *COLUMNS, "--overwrite", "--no-report")
    assert ran.status == 0, ran.err
    assert not (out / "report.html").exists()


def test_annotate_by_a_model_begins_with_the_shift(
    labelled: Path, learnt: Path, tmp_path: Path, run: Cli
) -> None:
    page = tmp_path / "page.html"
    ran = run("annotate", labelled, "--model", learnt, "-o", tmp_path / "l.csv", "--report", page)
    assert ran.status == 0, ran.err
    assert ran.out == f"{tmp_path / 'l.csv'}\n{page}\n"
    text = Page(page.read_text()).text
    about = json.loads((tmp_path / "l.csv.json").read_text())
    places = [
        text.index(about["shift"]["sentence"]),
        text.index("What was called"),
        text.index("On held-out cells of what the labels come from"),
        text.index("Confusion"),
        text.index("Ours and the baselines"),
    ]
    assert places == sorted(places)
    assert text.index(about["shift"]["sentence"]) < 300
    # a model without metrics has no such part, and says why
    bare = tmp_path / "bare"
    bare.mkdir()
    for each in learnt.iterdir():
        if each.name not in ("metrics.json", "SHA256SUMS"):
            (bare / each.name).write_bytes(each.read_bytes())
    out = tmp_path / "m.csv"
    ran = run("annotate", labelled, "--model", bare, "-o", out, "--report", page)
    assert ran.status == 0, ran.err
    text = Page(page.read_text()).text
    assert "keeps no figures of single labels" in text
    assert "Confusion" not in text


def test_annotate_by_a_reference_has_baselines_too(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    cells = saved(tmp_path / "new.h5ad", typed_cells(60, seed=1))
    page, out = tmp_path / "page.html", tmp_path / "l.h5ad"
    words = ("--model", tiny_model, "--reference", labelled, *COLUMNS, "--n-neighbors", "5")
    ran = run("annotate", cells, *words, "-o", out, "--report", page)
    assert ran.status == 0, ran.err
    text = Page(page.read_text()).text
    assert "Saved here: annotate --reference" not in text
    assert "logistic regression on genes" in text
    assert "CellTypist's recipe" in text
    assert "fared worst" in text
    again = run("annotate", cells, *words, "-o", tmp_path / "n.h5ad")
    assert again.status == 0, again.err


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("l.csv", "is named for two outputs"),
        ("l.csv.json", "is named for two outputs"),
        ("notes.txt", "is there, and no page or picture"),
        ("folder", "is a folder; name a file"),
        ("no/page.html", "no such folder"),
    ],
)
def test_pages_that_would_lose_something(
    report: str, told: str, labelled: Path, learnt: Path, tmp_path: Path, run: Cli
) -> None:
    (tmp_path / "notes.txt").write_text("dear")
    (tmp_path / "folder").mkdir()
    words = ("--model", learnt, "-o", tmp_path / "l.csv", "--report", tmp_path / report)
    assert told in refused(run("annotate", labelled, *words))
    nothing_new(tmp_path, "notes.txt", "folder")
    assert (tmp_path / "notes.txt").read_text() == "dear"


def test_a_page_needs_its_extra(
    labelled: Path, learnt: Path, tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellscribe.report.embedding_files.find_spec", lambda name: None)
    words = ("--model", learnt, "-o", tmp_path / "l.csv", "--report", tmp_path / "page.html")
    assert 'pip install "cellscribe[report]"' in refused(run("annotate", labelled, *words))
    nothing_new(tmp_path)


def test_compare_prints_every_way_and_what_is_left_out(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    words = (*COLUMNS, "--compare", "--epochs", "1", "--layers", "1")
    ran = run("finetune", tiny_model, labelled, "-o", tmp_path / "ft", *words)
    assert ran.status == 0, ran.err
    found = json.loads((tmp_path / "ft" / "metrics.json").read_text())["columns"][0]["comparison"]
    assert found["sentence"] in ran.err
    names = [
        "head", "last", "15 nearest cells", "logistic regression on genes", "CellTypist's recipe",
        "CellTypist's recipe, genes chosen first",
    ]  # fmt: skip
    assert sorted(row["name"] for row in found["ways"]) == sorted(names)
    for row in found["ways"]:
        assert re.search(rf"  {row['macro_f1']:.3f} \(.*\)  {re.escape(row['name'])}\b", ran.err)
        assert row["cells"] == 90
        assert row["seconds"] > 0
    assert "  left out: lora: --mode lora needs peft" in ran.err
    page = Page((tmp_path / "ft" / "report.html").read_text()).text
    assert found["sentence"] in page
    assert "Left out: lora (--mode lora needs peft" in page
    assert "labels learnt with --mode head" in ran.err


def test_compare_is_of_cells(tiny_model: Path, labelled: Path, tmp_path: Path, run: Cli) -> None:
    words = ("--gene-list", tmp_path / "genes.csv", "--compare")
    told = refused(run("finetune", tiny_model, labelled, "-o", tmp_path / "ft", *words))
    assert "--compare is of labels of cells" in told


def test_stopped_while_baselines_are_fitted_nothing_is_left(
    labelled: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellscribe.annotation.judged.baselines", stop)
    with pytest.raises(KeyboardInterrupt):
        cellscribe.finetune(tiny_model, labelled, tmp_path / "ft", label="cell_type")
    nothing_new(tmp_path)
