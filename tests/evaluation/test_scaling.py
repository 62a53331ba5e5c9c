"""Runs on axes: points where the runs say, heights that `celltype` gives, levels beside them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.simulate import simulate
from support.tiny import N_GENES, real_genes, save_model
from support.training_runs import write_run

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells, Data, read_cells
from cellscribe.evaluation.models import Model, read_models
from cellscribe.evaluation.scores import Scores, UnfitError
from cellscribe.evaluation.tasks import celltype, scaling
from cellscribe.training.runs import read_run

OPTIONS = EvaluateOptions(bootstrap=20, threads=1, device="cpu")
SMALL, LARGE = 5_000, 80_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, on 5,000 and 80,000 cells, of one shape, with weights of their own."""
    made = []
    for seed, cells in enumerate((SMALL, LARGE)):
        folder = write_run(
            tmp_path_factory.mktemp("runs") / f"run{cells}",
            corpus={"splits": {"train": {"cells": cells, "tokens": 9}}, "name": f"c{cells}"},
            parameters=1_000 * (seed + 1),
        )
        shutil.rmtree(folder / "model")
        save_model(folder / "model", seed=seed)
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def cells() -> Cells:
    adata = simulate(real_genes(N_GENES)[0], cells=120, types=3, seed=2)
    return read_cells(adata, OPTIONS, name="made")


@pytest.fixture(scope="module")
def case(folders: list[Path], cells: Cells) -> scaling.Case:
    [case] = scaling.load(data_of(cells), read_models(folders, OPTIONS), OPTIONS)
    return case


@pytest.fixture(scope="module")
def scores(case: scaling.Case) -> dict[str, Scores]:
    """Of every row."""
    methods = [each for model in case.models for each in scaling.methods(case, model)]
    methods += scaling.baselines(case)
    return {each.name: scaling.score(case, each.predict(), 0) for each in methods}


def data_of(cells: Cells) -> Data:
    return Data(name=cells.name, path=Path(), cells=cells)


def test_a_run_is_a_model_of_its_folder(folders: list[Path], tmp_path: Path) -> None:
    models = read_models([folders[0], tmp_path / ".." / folders[1]], OPTIONS)
    assert [model.name for model in models] == ["run5000", "run80000", "run5000, random weights"]
    assert [model.run for model in models[:2]] == [folders[0], tmp_path / ".." / folders[1]]
    assert models[2].run is None
    assert Path(models[0].path) == folders[0] / "model"
    plain = read_models([folders[0] / "model"], OPTIONS)[0]
    assert (plain.run, plain.name) == (None, "run5000")
    assert plain.facts["hash"] == models[0].facts["hash"] != models[1].facts["hash"]


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "young", 40, finished=False)
    with pytest.raises(InputError, match="young: the run has no model yet"):
        read_models([folder], OPTIONS)


def test_rows_and_points(case: scaling.Case, scores: dict[str, Scores]) -> None:
    """A run is a point; what was not trained is a level over all training cells."""
    [level] = scaling.BASELINES
    assert level in celltype.BASELINES
    over_cells = {name: each.curves[scaling.OVER_CELLS].x for name, each in scores.items()}
    assert over_cells == {
        "run5000": [SMALL],
        "run80000": [LARGE],
        "run5000, random weights": [SMALL, LARGE],
        level: [SMALL, LARGE],
    }
    over_size = {name: each.curves[scaling.OVER_PARAMETERS].x for name, each in scores.items()}
    assert over_size == {
        "run5000": [1_000],
        "run80000": [2_000],
        "run5000, random weights": [1_000],
        level: [1_000, 2_000],
    }
    for each in scores.values():
        for curve in each.curves.values():
            assert set(curve.y) == {each.estimates["macro_f1"].value}
            assert len(curve.y) == len(curve.x)
    assert case.about["corpora"] == "c5000, c80000"
    assert case.about["runs"] == 2


def test_heights_are_those_of_celltype(
    case: scaling.Case, scores: dict[str, Scores], cells: Cells
) -> None:
    [inner] = celltype.load(data_of(cells), case.models, OPTIONS)
    model = case.models[1]
    [method] = celltype.methods(inner, model)
    expected = celltype.score(inner, method.predict(), 0).estimates
    for name in ("macro_f1", "accuracy"):
        assert scores[model.name].estimates[name] == expected[name]
    assert scores[model.name].estimates != scores["run5000"].estimates


def test_losses_are_the_runs_own(
    folders: list[Path], case: scaling.Case, scores: dict[str, Scores]
) -> None:
    """At the step of the lowest loss on val, read from the file by hand."""
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "loss_val" in line]
    at = int(np.argmin([line["loss_val"] for line in told]))
    near = [line["loss_test_unseen"] for line in told[max(at - 1, 0) : at + 2]]
    found = scores["run5000"].estimates
    assert found["loss_val"].value == min(line["loss_val"] for line in told)
    unseen = found["loss_unseen"]
    assert unseen.value == told[at]["loss_test_unseen"]
    assert (unseen.low, unseen.high) == (min(near), max(near))
    sizes = scores["run5000"].breakdowns[scaling.SIZES]
    assert sizes["steps"] == len(lines)
    assert sizes["cells seen"] == sum(line["cells"] for line in lines)
    for untrained in ("run5000, random weights", *scaling.BASELINES):
        assert set(scores[untrained].estimates) == {"macro_f1", "accuracy"}
        assert not scores[untrained].breakdowns
    assert set(found) == set(scaling.METRICS)


def test_the_step_of_the_weights_counts(case: scaling.Case) -> None:
    """A model says at which step its weights were taken, be it the best or not."""
    model = case.models[0]
    steps, losses = case.runs[model.path].validation["val"]
    assert losses[1] > losses.min()
    for step, expected in ((int(steps[1]), losses[1]), (int(steps[1]) + 1, None)):
        header = replace(model.header, provenance={**model.header.provenance, "step": step})
        [method] = scaling.methods(case, replace(model, header=header))
        found = scaling.score(case, method.predict(), 0).estimates
        if expected is None:
            assert "loss_val" not in found
        else:
            assert found["loss_val"].value == expected
    assert scaling.own_loss(case.runs[model.path], "another", int(steps[1])) is None


def test_signal_is_above_noise(case: scaling.Case) -> None:
    """Vectors that know the type, and vectors that do not."""
    truth = case.inner.truth
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(truth), 5))
    heights = []
    for vectors in (np.eye(3, 5)[truth] * 6 + noise, noise):
        prediction = scaling.Point(
            features=celltype.Features(vectors=vectors), cells=[1.0], parameters=[1.0]
        )
        heights.append(scaling.score(case, prediction, 0).curves[scaling.OVER_CELLS].y[0])
    assert heights[0] > 0.95
    assert abs(heights[1] - 1 / 3) < 0.17


def test_fewer_than_two_runs_are_refused(
    folders: list[Path], cells: Cells, tiny_model: Path
) -> None:
    for paths, n in (([folders[0], tiny_model], "1"), ([tiny_model], "none")):
        with pytest.raises(UnfitError, match=f"{n} of the models is one; name 2 folders"):
            scaling.load(data_of(cells), read_models(paths, OPTIONS), OPTIONS)
    models = read_models([*folders, tiny_model], OPTIONS)
    [case] = scaling.load(data_of(cells), models, OPTIONS)
    assert {model.path for model in case.models} == {str(each / "model") for each in folders}


def test_what_a_run_does_not_tell_is_refused(
    folders: list[Path], cells: Cells, tmp_path: Path
) -> None:
    silent = shutil.copytree(folders[1], tmp_path / "silent")
    change_header(silent, lambda header: header["corpus"]["splits"].pop("train"))
    with pytest.raises(UnfitError, match=r"silent: run\.json does not tell how many cells"):
        scaling.load(data_of(cells), read_models([folders[0], silent], OPTIONS), OPTIONS)
    (silent / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no step yet"):
        scaling.load(data_of(cells), read_models([folders[0], silent], OPTIONS), OPTIONS)


def test_labels_are_asked_for(folders: list[Path], cells: Cells) -> None:
    options = EvaluateOptions(label="kind")
    with pytest.raises(UnfitError, match="no column 'kind'"):
        scaling.load(data_of(cells), read_models(folders, options), options)


def test_other_runs_are_another_problem(
    folders: list[Path], case: scaling.Case, cells: Cells, tmp_path: Path
) -> None:
    """The ends of a level depend on all runs, so results of other runs are not read again."""
    more = shutil.copytree(folders[1], tmp_path / "run80000")
    change_header(more, lambda header: header.update(parameters=5))
    models: list[Model] = read_models([folders[0], more], OPTIONS)
    [other] = scaling.load(data_of(cells), models, OPTIONS)
    assert other.identity != case.identity
    assert other.identity["celltype"] == case.identity["celltype"]
    assert read_run(more).name == read_run(folders[1]).name
    json.dumps(other.identity)


def change_header(folder: Path, change: Any) -> None:
    header = json.loads((folder / "run.json").read_text())
    change(header)
    (folder / "run.json").write_text(json.dumps(header))
