"""Results as JSON files: what is written is read back, and nothing else is taken for a result."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from cellscribe.errors import InputError
from cellscribe.evaluation import results
from cellscribe.evaluation.results import Result
from cellscribe.evaluation.scores import Curve, Estimate, Scores

AUC = Estimate(value=0.5, low=0.25, high=0.75)
SCORES = Scores(
    estimates={"auc": AUC},
    breakdowns={"by kind": {"mask": 6.5, "kept": 0.125}},
    curves={"few": Curve(x=[1.0, 2.0], y=[0.5, 0.75], x_label="cells", y_label="F1", log_x=True)},
)
RESULT = Result(
    task="celltype",
    data="pbmc, by donor",
    method="log-norm PCA-50 + logistic regression",
    kind="baseline",
    seed=2,
    scores=SCORES,
    about={"cells": 12},
    identity={"problem": {"cells": "abc", "folds": [1, 2]}},
    seen="trained on pbmc",
    seconds=1.5,
    made={"date": "2026-11-24"},
)


def test_a_result_is_read_back(tmp_path: Path) -> None:
    path = results.write(tmp_path, RESULT)
    assert path.name == "celltype--pbmc-by-donor--log-norm-pca-50-+-logistic-regression--2.json"
    assert results.read(path) == RESULT
    assert results.read_all(tmp_path) == [RESULT]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_no_number_is_null_and_comes_back(tmp_path: Path) -> None:
    nan = float("nan")
    scores = Scores(
        estimates={"auc": Estimate(value=nan, low=nan, high=float("inf"))},
        curves={"c": Curve(x=[1.0], y=[nan], x_label="x", y_label="y")},
    )
    changed = Result(task="t", data="d", method="m", kind="model", seed=0, scores=scores)
    path = results.write(tmp_path, changed)
    assert "NaN" not in path.read_text()
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    found = results.read(path).scores
    assert math.isnan(found.estimates["auc"].value)
    assert math.isnan(found.curves["c"].y[0])


def test_resampled_values_are_one_line_and_come_back(tmp_path: Path) -> None:
    draws = (0.123456, math.nan, -3.0, 1e-7)
    scores = Scores(
        estimates={"auc": Estimate(value=0.5, low=0.25, high=0.75, draws=draws), "bare": AUC}
    )
    path = results.write(tmp_path, dataclasses.replace(RESULT, scores=scores))
    assert json.loads(path.read_text())["scores"]["estimates"]["bare"].keys() == {
        "value", "low", "high"
    }  # fmt: skip
    found = results.read(path).scores.estimates
    assert found["auc"].draws == pytest.approx(draws, rel=1e-4, nan_ok=True)
    assert found["bare"].draws == ()


def test_numbers_of_numpy_are_plain_ones(tmp_path: Path) -> None:
    told = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        1: (np.bool_(True), np.arange(2)),
        "where": Path("a/b"),
        "nan": np.float32("nan"),
    }
    plain = results.plain(told)
    assert plain == {"a": 0.5, "b": 3, "1": [True, [0, 1]], "where": "a/b", "nan": None}
    # what identities are compared by: the same before and after the file
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    "change",
    [
        lambda told: "no json",
        lambda told: "[]",
        lambda told: json.dumps({**told, "version": 99}),
        lambda told: json.dumps({**told, "format": "cellscribe corpus"}),
        lambda told: json.dumps({k: v for k, v in told.items() if k != "scores"}),
        lambda told: json.dumps({**told, "strange": 1}),
        lambda told: json.dumps(told)[:-20],
    ],
)
def test_another_file_is_no_result(tmp_path: Path, change) -> None:
    path = results.write(tmp_path, RESULT)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError, match="not a result") as refusal:
        results.read(path)
    assert path.name in str(refusal.value)


def test_tables_are_by_task_and_data() -> None:
    def one(task: str, data: str) -> Result:
        return Result(task=task, data=data, method="m", kind="model", seed=0, scores=SCORES)

    some = [one("a", "x"), one("b", "x"), one("a", "y"), one("a", "x")]
    found = results.by_table(some)
    assert {key: len(rows) for key, rows in found.items()} == {
        ("a", "x"): 2,
        ("b", "x"): 1,
        ("a", "y"): 1,
    }


def test_what_it_was_made_with() -> None:
    import sklearn

    made = results.made_here()
    assert made["scikit-learn"] == sklearn.__version__
    assert json.loads(json.dumps(made)) == made


def test_every_field_of_a_result_is_refused_by_name_or_read(tmp_path: Path) -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.6)
    curve = Curve(x=[1.0, 2.0], y=[0.1, math.nan], x_label="x", y_label="y")
    scores = Scores(estimates={"f1": estimate}, breakdowns={"by": {"a": 1.0}}, curves={"c": curve})
    result = Result(task="t", data="d", method="m", kind="model", seed=0, scores=scores)
    path = results.write(tmp_path, result)
    told = json.loads(path.read_text())
    ways = [(key,) for key in told] + [("scores", key) for key in told["scores"]]
    ways += [("scores", "estimates", "f1", key) for key in ("value", "low", "high")]
    ways += [("scores", "curves", "c", key) for key in ("x", "y", "x_label", "log_x")]
    for way in ways:
        for value in (None, True, 10**400, -1, "x", [], [None], {"a": {"b": 1}}, ...):
            changed = json.loads(json.dumps(told))
            inner = changed
            for key in way[:-1]:
                inner = inner[key]
            inner.pop(way[-1], None)
            if value is not ...:
                inner[way[-1]] = value
            path.write_text(json.dumps(changed))
            try:
                found = results.read(path)
            except InputError as error:
                assert path.name in str(error)
                continue
            assert isinstance(found.scores.estimates, dict)
            assert found.kind in ("model", "random", "baseline")
            assert type(found.seed) is int
