"""finetune and annotate as a user meets them: what they print, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.command import Cli, nothing_new, refused
from support.typed_cells import saved, typed_cells

from cellscribe.config import AnnotateOptions, FinetuneOptions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return saved(tmp_path / "labelled.h5ad", typed_cells(90))


@pytest.mark.parametrize(
    ("verb", "kind"), [("finetune", FinetuneOptions), ("annotate", AnnotateOptions)]
)
def test_every_option_is_explained(verb: str, kind: Any, run: Cli) -> None:
    text = run(verb, "--help").out
    for field in fields(kind):
        name = f"--{field.name.replace('_', '-')} "
        line = next(line for line in text.splitlines() if line.startswith("│") and name in line)
        assert len(line.strip(" │*").split("  ")) > 1, f"{name} stands there alone"


def test_from_labelled_cells_to_labels(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    out = tmp_path / "ft"
    more = saved(tmp_path / "more.h5ad", typed_cells(60, seed=1))
    columns = ("--label", "cell_type", "--group", "donor")
    ran = run("finetune", tiny_model, labelled, more, "-o", out, *columns)
    assert ran.status == 0, ran.err
    assert ran.out == f"{out}\n"
    assert "150 cells of 3 labels learnt with --mode head." in ran.err
    assert "Warning: no --group" not in ran.err
    ran = run("annotate", more, "--model", out, "-o", tmp_path / "labels.csv", "--json")
    assert ran.status == 0, ran.err
    told = json.loads(ran.out)
    assert told["written"] == [str(tmp_path / "labels.csv")]
    table = pd.read_csv(tmp_path / "labels.csv")
    assert list(table) == ["cell_id", "label", "probability", "best", "second", "distance"]
    assert len(table) == 60
    assert told["cells"] == table["label"].value_counts().to_dict()
    assert f"{(table['label'] == 'unknown').sum():>9,}  unknown" in ran.err
    told = run("info", out).out
    assert "labels" in told
    assert "type 2" in told
    assert run("embed", more, "--model", out, "-o", tmp_path / "x.npy").status == 0


def test_without_groups_there_is_a_warning(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    ran = run("finetune", tiny_model, labelled, "-o", tmp_path / "ft", "--label", "cell_type")
    assert ran.status == 0
    assert "cells of one donor stand on both sides" in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--label", "celltype"], "no column 'celltype' (--label); near it: cell_type"),
        (["--label", "cell_type", "--group", "patient"], "no column 'patient' (--group)"),
        (["--label", "one"], "one has only 'x'"),
        (["--label", "cell_type", "--group", "one"], "all labelled cells are of one one ('x')"),
        (["--label", "donor", "--group", "donor"], "no label occurs in two groups"),
        (["--label", "cell_type", "--min-cells", "1000"], "cell_type has none"),
        (["--label", "cell_type", "--mode", "last", "--layers", "9"], "the model has 2"),
        (["--label", "cell_type", "--mode", "half"], '"head", "last"'),
        (["--label", "cell_type", "--accuracy", "90"], "accuracy 90.0 is not a share"),
        (["--label", "cell_type", "--folds", "1"], "at least 2"),
        (["--label", "cell_type", "--epochs", "0"], "epochs must be positive"),
        ([], "--label"),
    ],
)
def test_what_finetune_refuses(
    words: list[str], told: str, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    adata = typed_cells(60)
    adata.obs["one"] = "x"
    source = saved(tmp_path / "in.h5ad", adata)
    ran = run("finetune", tiny_model, source, "-o", tmp_path / "ft", *words)
    assert told in ran.err.splitlines()[-1]
    assert ran.status == 2
    nothing_new(tmp_path, "in.h5ad")


def test_adapters_need_peft(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    words = ("--label", "cell_type", "--group", "donor", "--mode", "lora")
    told = run("finetune", tiny_model, labelled, "-o", tmp_path / "ft", *words)
    assert told.status == 2
    assert 'pip install "cellscribe[finetune]"' in told.err


def test_outputs_that_would_lose_something(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    words = ("--label", "cell_type")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("dear")
    for out, told in (
        (tiny_model, "is the input itself"),
        (folder, "exists already"),
        (tmp_path / "no" / "ft", "no such folder"),
    ):
        assert told in refused(run("finetune", tiny_model, labelled, "-o", out, *words))
    again = run("finetune", tiny_model, labelled, "-o", folder, *words, "--overwrite")
    assert "holds notes.txt, which cellscribe did not write" in refused(again)
    assert (folder / "notes.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "tiny is a model without a head; fine-tune it (cellscribe finetune) or give"),
        (["--label", "cell_type"], "--label is the reference's; give --reference too"),
        (["--reference", "SELF"], "which column of the reference's obs"),
        (["--reference", "SELF", "--label", "kind"], "no column 'kind' (--label)"),
        (["--reference", "no.h5ad", "--label", "cell_type"], "no.h5ad"),
        (["--reference", "SELF", "--label", "cell_type", "--n-neighbors", "80"], "--n-neighbors"),
        (["--model", "nope"], "no model 'nope'"),
        (["--layer", "counts"], "no layer 'counts'"),
    ],
)
def test_what_annotate_refuses(
    words: list[str], told: str, labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    model = [] if "--model" in words else ["--model", tiny_model]
    words = [str(labelled) if word == "SELF" else word for word in words]
    ran = run("annotate", labelled, "-o", tmp_path / "out.csv", *model, *words)
    assert ran.status == 2
    assert told in ran.err.splitlines()[-1]
    nothing_new(tmp_path, "labelled.h5ad")


def test_annotate_refuses_outputs(
    labelled: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    assert "end the output's name in one of" in refused(
        run("annotate", labelled, "-o", tmp_path / "out.txt", "--model", tiny_model)
    )
    (tmp_path / "out.csv").write_text("dear")
    assert "exists already" in refused(
        run("annotate", labelled, "-o", tmp_path / "out.csv", "--model", tiny_model)
    )
    assert "is the input itself" in refused(
        run("annotate", labelled, "-o", labelled, "--model", tiny_model, "--overwrite")
    )
    assert (tmp_path / "out.csv").read_text() == "dear"
