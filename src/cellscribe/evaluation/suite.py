"""`cellscribe evaluate`: every model and every baseline, in every task, on all data.

The loops are data, task, case, method, seed. Each result is written at once, so an interrupted
evaluation goes on where it stopped, and the report is made of the results on disk.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.data import Cells, Data, read_data
from cellscribe.evaluation.leakage import seen
from cellscribe.evaluation.models import Method, Model, read_models
from cellscribe.evaluation.results import (
    FOLDER,
    Result,
    made_here,
    plain,
    read,
    slug,
    write,
)
from cellscribe.evaluation.scores import Scores, UnfitError
from cellscribe.evaluation.task import Case, Task

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder

TASKS = {
    "mlm": "cellscribe.evaluation.tasks.mlm.task",
    "celltype": "cellscribe.evaluation.tasks.celltype",
    "integration": "cellscribe.evaluation.tasks.integration",
    "confounding": "cellscribe.evaluation.tasks.confounding",
    "perturbation": "cellscribe.evaluation.tasks.perturbation.task",
    "deletion": "cellscribe.evaluation.tasks.deletion",
    "genes": "cellscribe.evaluation.tasks.genes",
    "scaling": "cellscribe.evaluation.tasks.scaling",
    "performance": "cellscribe.evaluation.tasks.performance",
}
"""Modules of the tasks, in the order of a report."""
SUITES = {
    "core": ("mlm", "celltype", "integration", "confounding", "perturbation", "deletion", "genes"),
    "full": tuple(TASKS),
}
VECTORS = "vectors"
"""Folder of the models' vectors, in the folder of an evaluation."""
_NOTHING = Scores(estimates={})


def task_module(name: str) -> Task:
    """Return the module of a task."""
    return cast(Task, importlib.import_module(TASKS[name]))


def chosen_tasks(names: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Return the chosen tasks, and those of them that may be left out (chosen by a suite only).

    Raises
    ------
    InputError
        There is no such task.
    """
    found: list[str] = []
    for name in names:
        if name not in TASKS and name not in SUITES:
            known = ", ".join([*TASKS, *SUITES])
            raise InputError(f"no task {name!r}; there are {known}")
        found += [task for task in SUITES.get(name, (name,)) if task not in found]
    return found, frozenset(found).difference(names)


def run_suite(
    models: Sequence[str | Path | Embedder],
    data: Sequence[str | Path],
    out: Path,
    options: EvaluateOptions,
    tasks: Sequence[str],
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> list[Result]:
    """Measure all results that are not on disk; parameters as in `api.evaluate`."""
    names, lenient = chosen_tasks(tasks)
    found = read_models(models, options, out / VECTORS)
    cases = list(_cases(names, data, found, options, lenient=lenient, log=log))
    if not cases:
        raise InputError("none of the tasks fits the data; see the lines above")
    _check_names(cases)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for place, task_case in enumerate(cases):
        if progress is not None:
            progress(place, len(cases), f"{task_case.task.NAME}, {task_case.case.name}")
        results += _evaluate(task_case, out / FOLDER, options, log)
    if progress is not None:
        progress(len(cases), len(cases), "done")
    return results


@dataclass(frozen=True, kw_only=True)
class _TaskCase:
    task: Task
    case: Case
    data: Data

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the figures of every method, as stored in a result's file."""
        cells = self.data.cells
        labels = None if cells is None else cells.labels_hash
        return plain({"labels": labels, **self.case.identity})


def _cases(
    tasks: Sequence[str],
    data: Sequence[str | Path],
    models: Sequence[Model],
    options: EvaluateOptions,
    *,
    lenient: Collection[str],
    log: Log,
) -> Iterator[_TaskCase]:
    """Make all cases of all data; a task that does not fit is refused, or left out of a suite."""
    for path in data:
        opened: Data = read_data(Path(path), options)
        if opened.cells is not None:
            _check_genes(opened.cells, models)
        for name in tasks:
            task = task_module(name)
            try:
                found = task.load(opened, models, options)
            except UnfitError as error:
                if name not in lenient:
                    raise
                log(f"{name} is left out: {error}")
                continue
            for case in found:
                yield _TaskCase(task=task, case=case, data=opened)


def _check_genes(cells: Cells, models: Sequence[Model]) -> None:
    """Refuse cells with too few genes that a model knows, before anything is measured."""
    for model in models:
        if not model.random:
            model.header.map_genes(
                cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
            )


def _check_names(cases: Sequence[_TaskCase]) -> None:
    """Refuse cases whose results would have the same file names."""
    names = [(task_case.task.NAME, slug(task_case.case.name)) for task_case in cases]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(
                f"two data are called {cases[place].case.name}; rename a file, "
                "or give them an evaluation each"
            )


def _evaluate(
    task_case: _TaskCase, folder: Path, options: EvaluateOptions, log: Log
) -> list[Result]:
    """Run all methods of a case, and score those without a result on disk."""
    task, case = task_case.task, task_case.case
    methods: list[Method] = []
    for model in case.models:
        try:
            methods += task.methods(case, model)
        except UnfitError as error:
            log(f"{task.NAME}, {case.name}: {error}")
    methods += task.baselines(case)
    for name, package in task.EXTRA_BASELINES.items():
        if find_spec(package) is None:
            log(f'{task.NAME}: {name} is not measured, pip install "cellscribe[eval]" brings it')
    all_fields = [_fields(task_case, method, options) for method in methods]
    _clear(task_case, {fields["method"]: fields["identity"] for fields in all_fields}, folder, log)
    results = []
    for method, fields in zip(methods, all_fields, strict=True):
        prediction, predicted = None, False
        for seed in range(options.seed, options.seed + options.seeds):
            empty = Result(scores=_NOTHING, seed=seed, **fields)
            path = folder / empty.file
            if path.exists() and not options.overwrite:
                results.append(read(path))
                continue
            began = time.perf_counter()
            if not predicted:
                prediction, predicted = method.predict(), True
            scores = _keep_draws(task.score(case, prediction, seed), task.HEADLINES)
            seconds = round(time.perf_counter() - began, 3)
            result = dataclasses.replace(empty, scores=scores, seconds=seconds)
            write(folder, result)
            results.append(result)
    return results


def _keep_draws(scores: Scores, names: Collection[str]) -> Scores:
    """Drop the resampled values of figures that no report compares pair by pair."""
    estimates = {
        name: each if name in names else dataclasses.replace(each, draws=())
        for name, each in scores.estimates.items()
    }
    return dataclasses.replace(scores, estimates=estimates)


def _clear(
    task_case: _TaskCase, identities: dict[str, dict[str, Any]], folder: Path, log: Log
) -> None:
    """Remove results of the same table that came from other data, settings or weights.

    They would be averaged with new results that they cannot be compared with.

    Parameters
    ----------
    identities
        Method -> the identity of its results.
    """
    n = 0
    for path in folder.glob(f"{slug(task_case.task.NAME)}--{slug(task_case.case.name)}--*.json"):
        old = read(path)
        if (old.task, old.data) != (task_case.task.NAME, task_case.case.name):
            continue
        wanted = identities.get(old.method, old.identity)
        if old.identity != wanted or old.identity.get("problem") != task_case.identity:
            path.unlink()
            n += 1
    if n:
        where = f"{task_case.task.NAME}, {task_case.case.name}"
        log(f"{where}: {n:,} results of other data, settings or weights are removed")


def _fields(task_case: _TaskCase, method: Method, options: EvaluateOptions) -> dict[str, Any]:
    """Return all fields of a method's results except scores and seed."""
    model, case = method.model, task_case.case
    return {
        "task": task_case.task.NAME,
        "data": case.name,
        "method": method.name,
        "kind": method.kind,
        "about": plain(case.about),
        "identity": {
            "problem": task_case.identity,
            "model": method.fitted if model is None else model.fingerprint,
            "bootstrap": options.bootstrap,
        },
        "model": None if model is None else model.facts,
        "seen": "" if model is None else seen(model, case.provenance),
        "made": made_here(),
    }
