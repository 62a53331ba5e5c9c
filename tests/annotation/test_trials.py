"""A search for a recipe: it is recorded, repeatable, and takes the best of what it tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import Cli, nothing_new, refused
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.annotation import held_out
from cellscribe.config import FinetuneOptions
from cellscribe.model.heads import load_head

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("one_thread")


def finetuned(model: Path, out: Path, **more: Any) -> dict[str, Any]:
    options = FinetuneOptions(
        label="cell_type", group="donor", mode="last", layers=1, epochs=2, **more
    )
    cellscribe.finetune(model, typed_cells(60), out, options, log=lambda _: None)
    return load_head(out).about


def test_the_best_trial_is_taken_and_all_are_recorded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[FinetuneOptions] = []
    plain = held_out.tune

    def spied(*words: Any, **settings: Any) -> Any:
        seen.append(words[6])
        return plain(*words, **settings)

    monkeypatch.setattr(held_out, "tune", spied)
    about = finetuned(tiny_model, tmp_path / "ft", trials=4)
    trials = about["trials"]
    assert len(trials) == 4
    first = trials[0]
    assert (first["learning_rate"], first["layers"], first["epochs"]) == (pytest.approx(3e-4), 1, 2)
    assert {each["layers"] for each in trials} <= {1, 2}
    assert len({each["learning_rate"] for each in trials}) == 4
    best = min(trials, key=lambda each: each["loss"])
    # four trials, then the training that calibrates and the one on all cells, both by the best
    assert len(seen) == 6
    for options in seen[4:]:
        assert options.learning_rate == best["learning_rate"]
        assert (options.layers, options.epochs) == (best["layers"], best["epochs"])
    assert about["options"]["learning_rate"] == best["learning_rate"]
    rows = (tmp_path / "ft" / "README.md").read_text().split("## Trials")[1].split("## Labels")[0]
    assert sum(line[:3] in [f"| {n}" for n in range(1, 5)] for line in rows.splitlines()) == 4
    # the recorded loss is that of a training by that recipe alone
    again = finetuned(
        tiny_model, tmp_path / "again", trials=1, learning_rate=first["learning_rate"]
    )
    assert again["trials"] == [first]


def test_a_recipe_that_breaks_is_passed_over(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = held_out.tune, []

    def broken(*words: Any, **settings: Any) -> Any:
        calls.append(words)
        if len(calls) == 1:
            raise cellscribe.errors.InputError("the loss is no longer finite")
        return plain(*words, **settings)

    monkeypatch.setattr(held_out, "tune", broken)
    trials = finetuned(tiny_model, tmp_path / "ft", trials=2)["trials"]
    assert trials[0]["loss"] is None
    assert trials[1]["loss"] is not None
    header = json.loads((tmp_path / "ft" / "head.json").read_text())
    assert header["options"]["learning_rate"] == trials[1]["learning_rate"]


def test_what_is_refused(
    tiny_model: Path, tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = saved(tmp_path / "cells.h5ad", typed_cells(60))
    words = ("finetune", tiny_model, cells, "-o", tmp_path / "ft", "--label", "cell_type")
    assert "take --mode last, lora or all" in refused(run(*words, "--trials", "3"))
    told = refused(run(*words, "--mode", "last", "--trials", "0"))
    assert "trials must be positive" in told
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    told = refused(run(*words, "--mode", "last", "--trials", "3"))
    assert 'pip install "cellscribe[finetune]"' in told
    nothing_new(tmp_path, "cells.h5ad")
