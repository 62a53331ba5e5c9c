"""The loop of `cellscribe evaluate`, with a made-up task: what is computed, kept and refused."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support.tiny import real_genes, save_model, some_counts

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation import suite
from cellscribe.evaluation.data import CellProvenance, Cells, column, provenance_of
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.results import read_all
from cellscribe.evaluation.scores import Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.suite import chosen_tasks, run_suite

MADE_UP = "cellscribe_made_up_task"
OPTIONS = EvaluateOptions(label="kind", seeds=2, threads=1, bootstrap=20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    name: str
    models: list[Model]
    cells: Cells
    setting: Any

    @property
    def about(self) -> dict[str, Any]:
        return {"cells": np.int64(self.cells.n_cells)}

    @property
    def provenance(self) -> CellProvenance:
        return provenance_of(self.cells)

    @property
    def identity(self) -> dict[str, Any]:
        # a tuple and a number of NumPy, as a task may well have them
        return {"cells": self.cells.hash, "setting": (self.setting, np.int64(5))}


class MadeUp(ModuleType):
    """A task that counts its predictions."""

    NAME, TITLE, ABOUT, HEADLINES = "made", "Made up", "Nothing.", ("size",)
    METRICS = {"size": Metric(title="Size", about="Mean length of a vector.", better="higher")}  # noqa: RUF012
    BASELINES = ("ones",)
    PCA_BASELINE = None
    EXTRA_BASELINES = {"clouds": "no_such_package_anywhere"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(MADE_UP)
        self.predicted: Counter[str] = Counter()
        self.scored: list[tuple[float, int]] = []
        self.setting: Any = 1
        self.unable: set[str] = set()
        self.stop_at: int | None = None

    def load(self, data: Any, models: list[Model], options: EvaluateOptions) -> list[Case]:
        column(data.cells, options.label, "--label")
        return [Case(name=data.name, models=models, cells=data.cells, setting=self.setting)]

    def methods(self, case: Case, model: Model) -> list[Method]:
        if model.name in self.unable:
            raise UnfitError(f"{model.name} cannot")

        def predict() -> Any:
            self.predicted[model.name] += 1
            return model.vectors(case.cells)

        kind = "random" if model.random else "model"
        return [Method(name=model.name, kind=kind, predict=predict, model=model)]

    def baselines(self, case: Case) -> list[Method]:
        def predict() -> Any:
            self.predicted["ones"] += 1
            return np.ones((case.cells.n_cells, 4), np.float32)

        return [Method(name="ones", kind="baseline", predict=predict)]

    def score(self, case: Case, prediction: Any, seed: int) -> Scores:
        if self.stop_at is not None and len(self.scored) == self.stop_at:
            raise KeyboardInterrupt
        size = float(np.linalg.norm(prediction, axis=1).mean()) + seed
        self.scored.append((size, seed))
        return Scores(estimates={"size": Estimate(value=size, low=size, high=np.float32(size))})


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeUp]:
    made = MadeUp()
    monkeypatch.setitem(sys.modules, MADE_UP, made)
    monkeypatch.setitem(suite.TASKS, "made", MADE_UP)
    monkeypatch.setitem(suite.SUITES, "core", ("made",))
    yield made


def write_cells(path: Path, *, kind: str = "a", seed: int = 0) -> Path:
    n = 60
    obs = pd.DataFrame({"kind": [kind] * n}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=real_genes(200)[0])
    path.parent.mkdir(exist_ok=True)
    ad.AnnData(csr_matrix(some_counts(n, seed=seed)), obs=obs, var=var).write_h5ad(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "data/some.h5ad")


def measure(model: Any, data: Any, out: Path, tasks: tuple[str, ...] = ("made",), **changes: Any):
    """Results, and what was said."""
    lines: list[str] = []
    models = model if isinstance(model, list) else [model]
    files = data if isinstance(data, list) else [data]
    found = run_suite(models, files, out, replace(OPTIONS, **changes), tasks, log=lines.append)
    return found, lines


def test_every_method_is_scored_under_every_seed(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    found, lines = measure(tiny_model, data, tmp_path / "out")
    rows = [(r.method, r.kind, r.seed) for r in found]
    twin = "tiny, random weights"
    assert rows == [
        (name, kind, seed)
        for name, kind in (("tiny", "model"), (twin, "random"), ("ones", "baseline"))
        for seed in (0, 1)
    ]
    assert task.predicted == {"tiny": 1, twin: 1, "ones": 1}, "a prediction serves all seeds"
    assert [r.scores.estimates["size"].value for r in found[4:]] == [2.0, 3.0]
    assert lines == ['made: clouds is not measured, pip install "cellscribe[eval]" brings it']
    assert {r.file: r for r in read_all(tmp_path / "out/results")} == {r.file: r for r in found}
    assert {r.data for r in found} == {"some"}
    assert found[0].model["parameters"] > 0
    assert found[4].model is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results", "vectors"}


def test_nothing_is_measured_twice(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    first, _ = measure(tiny_model, data, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json")}
    task.scored.clear()
    task.predicted.clear()
    again, _ = measure(tiny_model, data, tmp_path / "out")
    assert again == first
    assert not task.scored
    assert not task.predicted
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json")} == times
    # one seed more: only it
    more, _ = measure(tiny_model, data, tmp_path / "out", seeds=3)
    assert [seed for _, seed in task.scored] == [2, 2, 2]
    assert len(more) == 9
    # and everything, if asked for
    task.scored.clear()
    measure(tiny_model, data, tmp_path / "out", overwrite=True)
    assert len(task.scored) == 6


@pytest.mark.parametrize("change", ["setting", "labels", "counts", "bootstrap", "max_cells"])
def test_other_settings_or_data_are_measured_anew(
    change: str, task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """And what does not go with them is gone, seeds that are not asked for now among it."""
    measure(tiny_model, data, tmp_path / "out")
    task.scored.clear()
    more: dict[str, Any] = {"seeds": 1}
    if change == "setting":
        task.setting = 2
    elif change == "labels":
        write_cells(data, kind="b")
    elif change == "counts":
        write_cells(data, seed=1)
    else:
        more[change] = 50
    found, lines = measure(tiny_model, data, tmp_path / "out", **more)
    assert len(task.scored) == 3
    assert "made, some: 6 results of other data, settings or weights are removed" in lines
    assert {r.file for r in read_all(tmp_path / "out/results")} == {r.file for r in found}


def test_another_model_of_the_name_takes_its_rows(task: MadeUp, data: Path, tmp_path: Path) -> None:
    """Its own rows only: baselines and other models stay."""
    first = save_model(tmp_path / "a/model")
    before, _ = measure(first, data, tmp_path / "out")
    task.scored.clear()
    second = save_model(tmp_path / "b/model", seed=1)
    found, _ = measure(second, data, tmp_path / "out", seeds=1)
    assert len(task.scored) == 2, "the model and its twin"
    left = read_all(tmp_path / "out/results")
    assert Counter(r.method for r in left) == {
        "model": 1,
        "model, random weights": 1,
        "ones": 2,
    }
    assert found[0].model["hash"] != before[0].model["hash"]


def test_what_is_measured_outlives_an_interruption(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    task.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        measure(tiny_model, data, tmp_path / "out")
    kept = read_all(tmp_path / "out/results")
    assert len(kept) == 3
    assert not list((tmp_path / "out").rglob("*partial*"))
    task.stop_at = None
    found, _ = measure(tiny_model, data, tmp_path / "out")
    assert len(found) == 6
    assert len(task.scored) == 3 + 3


def test_evaluations_of_several_models_add_up(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", seed=3)
    measure(tiny_model, data, tmp_path / "out")
    measure(other, data, tmp_path / "out")
    assert len(task.scored) == 6 + 4, "baselines are there already"
    names = {r.method for r in read_all(tmp_path / "out/results")}
    assert names == {"tiny", "tiny, random weights", "other", "other, random weights", "ones"}


def test_a_model_that_cannot_is_passed_over_and_named(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    task.unable = {"tiny"}
    found, lines = measure(tiny_model, data, tmp_path / "out")
    assert "made, some: tiny cannot" in lines
    assert {r.method for r in found} == {"tiny, random weights", "ones"}


def test_a_suite_passes_over_what_a_named_task_refuses(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    other = write_cells(tmp_path / "data/other.h5ad")
    plain = ad.read_h5ad(other)
    del plain.obs["kind"]
    plain.write_h5ad(other)
    out = tmp_path / "out"
    for tasks in (("made",), ("core", "made")):
        with pytest.raises(UnfitError, match="other: obs has no column 'kind'"):
            measure(tiny_model, [data, other], out, tasks)
        assert not out.exists()
    found, lines = measure(tiny_model, [data, other], out, ("core",))
    assert {r.data for r in found} == {"some"}
    assert lines[0].startswith("made is left out: other: obs has no column 'kind'")
    with pytest.raises(InputError, match="none of the tasks fits"):
        measure(tiny_model, other, tmp_path / "none", ("core",))
    assert not (tmp_path / "none").exists()


def test_two_files_of_one_name_are_refused(
    task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    other = write_cells(tmp_path / "elsewhere/some.h5ad", seed=2)
    with pytest.raises(InputError, match="two data are called some"):
        measure(tiny_model, [data, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_models_that_know_the_cells_are_marked(
    task: MadeUp, data: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "trained")
    config = json.loads((folder / "config.json").read_text())
    config["cellscribe"]["provenance"]["trained on"] = ["some (60 cells)"]
    (folder / "config.json").write_text(json.dumps(config))
    found, _ = measure(folder, data, tmp_path / "out", seeds=1)
    assert [r.seen for r in found] == ["trained on some", "", ""]


def test_progress_is_told(task: MadeUp, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    told: list[Any] = []
    run_suite(
        [tiny_model], [data], tmp_path / "out", OPTIONS, ["made"],
        progress=lambda *now: told.append(now), log=lambda line: None,
    )  # fmt: skip
    assert told == [(0, 1, "made, some"), (1, 1, "done")]


def test_tasks_by_name() -> None:
    assert chosen_tasks(["genes", "mlm", "genes"]) == (["genes", "mlm"], frozenset())
    core, lenient = chosen_tasks(["genes", "core"])
    assert core[0] == "genes"
    assert set(core) == set(suite.SUITES["core"])
    assert lenient == set(core) - {"genes"}
    assert chosen_tasks(["full"])[0] == list(suite.TASKS)
    with pytest.raises(InputError, match=r"no task 'cores'; there are mlm, celltype, .*full"):
        chosen_tasks(["cores"])


@pytest.mark.parametrize("name", sorted(suite.TASKS))
def test_every_task_has_what_the_loop_asks_for(name: str) -> None:
    """The modules themselves, as `evaluation.task.Task` says."""
    module: Any = suite.task_module(name)
    assert name == module.NAME
    assert module.HEADLINES
    assert all(isinstance(metric, Metric) for metric in module.METRICS.values())
    for headline in module.HEADLINES:
        assert module.METRICS[headline].better in ("higher", "lower")
    assert module.PCA_BASELINE is None or module.PCA_BASELINE in module.BASELINES
    assert set(module.BASELINES).isdisjoint(module.EXTRA_BASELINES)
    for function in ("load", "methods", "baselines", "score"):
        assert callable(getattr(module, function))
    assert len(module.ABOUT) > 100
