"""Runs as read from their folders: pandas over the lines, sums by hand, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.training_runs import metrics, write_run

from cellscribe.errors import InputError
from cellscribe.training.runs import (
    best,
    last,
    loss_at,
    read_run,
    smooth,
    smoothing_window,
    summarise,
    tokens_per_second,
    warnings,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = metrics(230, every=40, skipped=(17, 18))
    return write_run(tmp_path_factory.mktemp("runs") / "some", lines)


def test_columns_are_those_that_pandas_reads(folder: Path) -> None:
    run = read_run(folder)
    table = pd.read_json(folder / "metrics.jsonl", lines=True)
    for name in ("step", "loss", "learning_rate", "gradient_norm", "tokens", "cells", "seconds"):
        np.testing.assert_allclose(getattr(run, name), table[name], rtol=1e-9)
    assert list(run.validation) == ["val", "test_unseen"]
    for split, (steps, losses) in run.validation.items():
        there = table[table[f"loss_{split}"].notna()]
        np.testing.assert_array_equal(steps, there["step"])
        np.testing.assert_allclose(losses, there[f"loss_{split}"], rtol=1e-9)
    assert run.skipped == 2
    assert run.name == "some"
    assert run.header == json.loads((folder / "run.json").read_text())
    assert run.guessing == pytest.approx(math.log(25_424))


def test_summary_by_hand(tmp_path: Path) -> None:
    lines = metrics(4, every=2)
    for line, seconds, tokens in zip(lines, (2, 4, 4, 14), (100, 300, 50, 1000), strict=True):
        line |= {"seconds": seconds, "tokens": tokens, "cells": 10}
    told = summarise(read_run(write_run(tmp_path / "r", lines)))
    assert (told.steps, told.cells, told.tokens) == (4, 40, 1450)
    assert told.hours == 14 / 3600
    assert told.epochs == 40 / 5000
    # 50, 150 and 100 tokens a second; the third step took no time that was told
    assert told.tokens_per_second == 100
    assert np.isnan(tokens_per_second(read_run(tmp_path / "r"))[2])


def test_best_and_last_are_those_of_the_lines(folder: Path) -> None:
    run = read_run(folder)
    table = pd.read_json(folder / "metrics.jsonl", lines=True).set_index("step")
    for split in ("val", "test_unseen"):
        losses = table[f"loss_{split}"].dropna()
        assert best(run, split) == (losses.idxmin(), pytest.approx(losses.min()))
        assert last(run, split) == (230, pytest.approx(losses.loc[230]))
        assert loss_at(run, 40, split) == pytest.approx(losses.loc[40])
        assert math.isnan(loss_at(run, 41, split))
    assert best(run, "test") is None
    assert last(run, "test") is None


def test_no_validation_loss_that_is_not_finite_is_the_best(tmp_path: Path) -> None:
    lines = metrics(6, every=2)
    lines[1]["loss_val"], lines[5]["loss_val"] = None, None
    run = read_run(write_run(tmp_path / "r", lines))
    assert best(run) == (4, lines[3]["loss_val"])
    for line in lines:
        line.pop("loss_val", None)
    assert best(read_run(write_run(tmp_path / "r", lines))) is None


@given(st.integers(0, 200))
def test_a_run_cut_anywhere_in_its_last_line_is_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = write_run(tmp_path_factory.mktemp("cut") / "r", metrics(5, every=5))
    path = folder / "metrics.jsonl"
    raw = path.read_bytes()
    size = len(raw.splitlines(keepends=True)[-1])
    path.write_bytes(raw[: len(raw) - min(cut, size)])
    # without its newline the line is still whole
    assert len(read_run(folder).step) == (5 if cut <= 1 else 4)


@given(
    st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), min_size=1, max_size=60),
    st.integers(0, 40).map(lambda half: 2 * half + 1),
)
def test_smoothing_is_the_mean_of_what_is_there(values: list[float], window: int) -> None:
    half = window // 2
    found = smooth(np.array(values), window)
    for place, mean in enumerate(found):
        around = np.array(values[max(place - half, 0) : place + half + 1])
        around = around[np.isfinite(around)]
        if len(around):
            assert mean == pytest.approx(around.mean(), abs=1e-9)
        else:
            assert math.isnan(mean)


@given(st.integers(1, 10**6))
def test_window_is_odd_and_about_a_hundredth(n: int) -> None:
    assert smoothing_window(n) % 2 == 1
    assert abs(smoothing_window(n) - n / 100) <= 2


def test_warnings_tell_what_happened_and_nothing_else(tmp_path: Path) -> None:
    good = read_run(write_run(tmp_path / "good", metrics(400)))
    assert warnings(good) == []
    learned = metrics(400, memorised=200, skipped=(7,))
    bad = read_run(write_run(tmp_path / "bad", learned))
    first, second = warnings(bad)
    assert first.startswith("1 of 400 steps were skipped")
    step, loss = best(bad) or (0, 0.0)
    risen = learned[-1]["loss_val"] / loss - 1
    assert f"lowest at step {step:,} ({loss:.3f})" in second
    assert f"step 400 (+{risen:.1%})" in second
    short = write_run(
        tmp_path / "short", metrics(9), finished=False, training={"schedule_steps": 1_000}
    )
    assert warnings(read_run(short))[0] == "Not finished: 9 of 1,000 steps."
    # a model from before the run was given more steps
    (short / "model").mkdir()
    assert not read_run(short).finished
    # it ended early, for val no longer fell
    ended = write_run(short, metrics(9), training={"schedule_steps": 1_000, "patience": 3})
    assert not any("finished" in text for text in warnings(read_run(ended)))


def test_a_rise_at_the_very_end_is_no_overfitting(tmp_path: Path) -> None:
    lines = metrics(400, every=40)
    lines[-1]["loss_val"] = lines[359]["loss_val"] * 1.05
    assert warnings(read_run(write_run(tmp_path / "r", lines))) == []


def without(key: str) -> Any:
    return lambda header: header.pop(key)


HEADERS: dict[str, tuple[Any, str]] = {
    "later": (lambda h: h.update(version=2), "version 2; this cellscribe reads a cellscribe run"),
    "other": (lambda h: h.update(format="cellscribe corpus"), "is a cellscribe corpus of version"),
    "no version": (without("version"), "is not a run's header"),
    "no corpus": (without("corpus"), "lacks 'corpus'"),
    "no model": (without("model"), "lacks 'model'"),
    "no vocabulary": (lambda h: h["model"].pop("vocab_size"), "model.vocab_size is missing"),
    "no sessions": (lambda h: h.update(sessions=[]), "damaged: sessions is empty"),
}


@pytest.mark.parametrize(("change", "told"), HEADERS.values(), ids=HEADERS)
def test_headers_that_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    folder = write_run(tmp_path / "r", 5)
    header = json.loads((folder / "run.json").read_text())
    change(header)
    (folder / "run.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match=told):
        read_run(folder)


LINES: dict[str, tuple[Any, str]] = {
    "damaged": (lambda lines: lines.__setitem__(2, "{"), "line 3 is damaged; restore"),
    "no object": (lambda lines: lines.__setitem__(2, "7"), "line 3 lacks a step"),
    "gap": (lambda lines: lines.pop(2), "line 3 is of step 4"),
    "twice": (lambda lines: lines.insert(2, lines[1]), "line 3 is of step 2"),
    "no loss": (lambda lines: lines.__setitem__(1, '{"step": 2}'), "line 2 lacks cells"),
    "text": (
        lambda lines: lines.__setitem__(1, lines[1].replace('"cells": 64', '"cells": "64"')),
        "step 2 has cells '64'",
    ),
    "empty": (lambda lines: lines.clear(), "is empty: the run has no step yet"),
}


@pytest.mark.parametrize(("change", "told"), LINES.values(), ids=LINES)
def test_metrics_that_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    folder = write_run(tmp_path / "r", 5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    change(lines)
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(InputError, match=told):
        read_run(folder)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no training run: no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is no training run: no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run\.json: damaged JSON"):
        read_run(tmp_path)
    folder = write_run(tmp_path / "r", 5)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match="the run has no step yet"):
        read_run(folder)


def test_neither_runs_nor_cards_import_torch() -> None:
    code = "import sys, cellscribe.training.runs, cellscribe.report.model_card\n"
    code += "import cellscribe.report.training_page\nassert 'torch' not in sys.modules\n"
    code += "assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
