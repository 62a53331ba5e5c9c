"""Results of `cellscribe evaluate` as tables: the rows that a table must have, and averages.

A table without its baselines or random weights is an error, and so is one whose rows were measured
on different problems: a column holds only figures that can be compared. Of the results in a folder,
those of the one problem that is complete are used, older ones are left out with a note; several
complete problems are an error, because the newest is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellscribe.errors import InputError
from cellscribe.evaluation import suite
from cellscribe.evaluation.results import Result, by_table
from cellscribe.evaluation.scores import Curve, Estimate, Kind, Metric
from cellscribe.evaluation.stats.estimates import over_seeds
from cellscribe.evaluation.task import Task

KINDS: tuple[Kind, ...] = ("model", "random", "baseline")
"""Order of the rows."""
WEIGHTLESS = frozenset({"performance"})
"""Tasks whose figures do not depend on the weights: they need no network of random weights."""
INSTALL = 'pip install "cellscribe[eval]"'


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of a method over all seeds of its table."""

    method: str
    kind: Kind
    seen: str
    """Why the model may know the data; "" if nothing says so."""
    estimates: dict[str, Estimate]
    """Finite estimates by metric."""
    breakdowns: dict[str, dict[str, Estimate]]
    """Mean over seeds, from the lowest to the highest seed; by title and column."""
    curves: dict[str, Curve]
    """Mean over seeds, by title."""


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """The results of all methods on one data set."""

    data: str
    rows: tuple[Row, ...]
    about: dict[str, Any]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    """Further notes for the reader."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A headline metric of all methods on all data sets."""

    metric: str
    """Its name in the task's metrics."""
    figures: dict[str, dict[str, Estimate]]
    """Estimates by method and data; without methods that have none."""
    marked: frozenset[tuple[str, str]]
    """Pairs of a method and data that it may know."""
    averaged: tuple[str, ...]
    """Data that all methods have and none may know."""
    averages: dict[str, Estimate]
    """Averages by method over `averaged`; empty if that is empty."""


@dataclass(frozen=True, kw_only=True)
class TaskTables:
    """Everything that a report shows of a task."""

    task: Task
    tables: tuple[DataTable, ...]
    kinds: dict[str, Kind]
    """Kinds of all methods, in the order of the rows."""
    summaries: tuple[Summary, ...]
    """One for each headline of which there is a figure."""


def tables(results: Iterable[Result]) -> list[TaskTables]:
    """Make the tables of results, in the order of `evaluation.suite.TASKS`.

    Raises
    ------
    InputError
        A table lacks a mandatory baseline or the random weights of a model, its rows have no
        seed in common, or are of different problems; or there is no such task.
    """
    found = by_table(results)
    if strange := sorted({task for task, _ in found} - set(suite.TASKS)):
        raise InputError(
            f"results name the task {strange[0]!r}, which this cellscribe has not; remove them"
        )
    parts = []
    for name in suite.TASKS:
        of_task = {data: each for (task, data), each in found.items() if task == name}
        if of_task:
            task = suite.task_module(name)
            made = tuple(_data_table(task, data, each) for data, each in of_task.items())
            parts.append(_task_tables(task, made))
    return parts


def best(figures: Mapping[str, Estimate], metric: Metric) -> frozenset[str]:
    """Return the names with the best figure after rounding; none if there is only one figure."""
    values = {
        name: round(each.value, metric.digits)
        for name, each in figures.items()
        if math.isfinite(each.value)
    }
    if metric.better is None or len(values) < 2:
        return frozenset()
    top = max(values.values()) if metric.better == "higher" else min(values.values())
    return frozenset(name for name, value in values.items() if value == top)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Average figures over data sets.

    Data sets are independent, so the squares of the half widths of their intervals add up.
    """
    n = len(estimates)
    value = sum(each.value for each in estimates) / n
    return Estimate(
        value=value,
        low=value - math.hypot(*(each.value - each.low for each in estimates)) / n,
        high=value + math.hypot(*(each.high - each.value for each in estimates)) / n,
    )


def _data_table(task: Task, data: str, results: list[Result]) -> DataTable:
    kept, notes = _of_one_problem(task, data, results)
    methods: dict[str, list[Result]] = {}
    for result in kept:
        methods.setdefault(result.method, []).append(result)
    _check_methods(task, data, methods)
    shared = set.intersection(*({each.seed for each in of} for of in methods.values()))
    if not shared:
        raise InputError(
            f"{task.NAME} on {data}: its rows have no seed in common; run cellscribe evaluate "
            "again with the same --seed and --seeds for all models"
        )
    if spare := sorted({each.seed for each in kept} - shared):
        notes.append(f"Left out: seed {_listed(spare)}, which some rows lack.")
    if absent := [name for name in task.EXTRA_BASELINES if name not in methods]:
        notes.append(
            f"Not measured: {_listed(absent)}; {INSTALL} brings what is needed, if the data do."
        )
    rows = []
    for name in sorted(methods, key=lambda name: _place(task, methods[name][0])):
        of = sorted((each for each in methods[name] if each.seed in shared), key=lambda r: r.seed)
        row, remarks = _row(task, of)
        rows.append(row)
        notes += remarks
    return DataTable(
        data=data,
        rows=tuple(rows),
        about=kept[0].about,
        seeds=tuple(sorted(shared)),
        notes=tuple(notes),
    )


def _of_one_problem(task: Task, data: str, results: list[Result]) -> tuple[list[Result], list[str]]:
    """Return the results of the one complete problem, and notes on the others."""
    problems: dict[str, list[Result]] = {}
    for result in results:
        problems.setdefault(_key(result.identity.get("problem")), []).append(result)
    lacks = {key: _missing(task, each) for key, each in problems.items()}
    whole = [key for key in problems if not lacks[key]]
    if not whole:
        fullest = max(problems, key=lambda key: len(problems[key]))
        raise InputError(
            f"{task.NAME} on {data}: no table without {_listed(lacks[fullest])}; run cellscribe "
            f"evaluate again with --task {task.NAME}, the same models and data, to measure what "
            "is missing"
        )
    if len(whole) > 1:
        raise InputError(
            f"{task.NAME} on {data}: results of {len(whole)} different settings or versions of the "
            "data lie in one folder; name another folder with -o, or remove those that are old"
        )
    old = {each.method for key in problems if key not in whole for each in problems[key]}
    notes = []
    if old:
        notes.append(
            f"Left out, measured with other settings or other cells: {_listed(sorted(old))}."
        )
    return problems[whole[0]], notes


def _missing(task: Task, results: Sequence[Result]) -> list[str]:
    """List the mandatory rows that are missing."""
    methods = {each.method for each in results}
    lacks = [name for name in task.BASELINES if name not in methods]
    if task.NAME in WEIGHTLESS:
        return lacks
    twins = {_shape(each) for each in results if each.kind == "random"}
    for result in results:
        name = f"random weights of {result.method}"
        if result.kind == "model" and _shape(result) not in twins and name not in lacks:
            lacks.append(name)
    return lacks


def _shape(result: Result) -> tuple[Any, Any]:
    """Return family and size, which a model and its random weights share."""
    facts = result.model or {}
    return facts.get("family"), facts.get("parameters")


def _check_methods(task: Task, data: str, methods: Mapping[str, list[Result]]) -> None:
    for name, results in methods.items():
        if len({_key(each.identity) for each in results}) > 1:
            raise InputError(
                f"{task.NAME} on {data}: the seeds of {name} were measured with different weights "
                "or settings; run cellscribe evaluate again with --overwrite, or remove the old "
                "files of results"
            )


def _place(task: Task, result: Result) -> tuple[int, int, str]:
    known = [*task.BASELINES, *task.EXTRA_BASELINES]
    place = known.index(result.method) if result.method in known else len(known)
    return KINDS.index(result.kind), place, result.method


def _row(task: Task, results: Sequence[Result]) -> tuple[Row, list[str]]:
    """Combine a method's seeds into a row; return notes too."""
    first, estimates, notes = results[0], {}, []
    for name, metric in task.METRICS.items():
        found = [each.scores.estimates[name] for each in results if name in each.scores.estimates]
        finite = [each for each in found if math.isfinite(each.value)]
        if finite:
            estimates[name] = _together(finite)
            if len(finite) < len(results):
                # those of another method would be of other seeds
                estimates[name] = replace(estimates[name], draws=())
                notes.append(
                    f"{metric.title} of {first.method}: over {len(finite)} of {len(results)} "
                    "seeds; it has no value for the others."
                )
    row = Row(
        method=first.method,
        kind=first.kind,
        seen=next((each.seen for each in results if each.seen), ""),
        estimates=estimates,
        breakdowns=_breakdowns(results),
        curves=_curves(results),
    )
    return row, notes


def _together(seeds: Sequence[Estimate]) -> Estimate:
    """Combine the figures of seeds; a single one without interval gets none."""
    alone = len(seeds) == 1 and not math.isfinite(seeds[0].high - seeds[0].low)
    return seeds[0] if alone else over_seeds(seeds)


def _breakdowns(results: Sequence[Result]) -> dict[str, dict[str, Estimate]]:
    found: dict[str, dict[str, list[Estimate]]] = {}
    for result in results:
        for title, row in result.scores.breakdowns.items():
            columns = found.setdefault(title, {})
            for name, value in row.items():
                point = Estimate(value=value, low=value, high=value)
                columns.setdefault(name, []).extend([point] if math.isfinite(value) else [])
    return {
        title: {name: over_seeds(points) for name, points in columns.items() if points}
        for title, columns in found.items()
    }


def _curves(results: Sequence[Result]) -> dict[str, Curve]:
    found: dict[str, list[Curve]] = {}
    for result in results:
        for title, curve in result.scores.curves.items():
            found.setdefault(title, []).append(curve)
    return {title: _mean_curve(curves) for title, curves in found.items()}


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    points: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in zip(curve.x, curve.y, strict=True):
            points.setdefault(float(x), []).extend([y] if math.isfinite(y) else [])
    places = sorted(points)
    return Curve(
        x=places,
        y=[float(np.mean(points[place])) if points[place] else math.nan for place in places],
        x_label=curves[0].x_label,
        y_label=curves[0].y_label,
        log_x=curves[0].log_x,
    )


def _task_tables(task: Task, made: tuple[DataTable, ...]) -> TaskTables:
    kinds: dict[str, Kind] = {}
    for kind in KINDS:
        kinds |= {row.method: kind for table in made for row in table.rows if row.kind == kind}
    measured = {name for table in made for row in table.rows for name in row.estimates}
    summaries = (_summary(name, kinds, made) for name in task.HEADLINES if name in measured)
    return TaskTables(task=task, tables=made, kinds=kinds, summaries=tuple(summaries))


def _summary(metric: str, methods: Iterable[str], made: Sequence[DataTable]) -> Summary:
    rows = [(table.data, row) for table in made for row in table.rows]
    figures: dict[str, dict[str, Estimate]] = {name: {} for name in methods}
    for data, row in rows:
        if metric in row.estimates:
            figures[row.method][data] = row.estimates[metric]
    figures = {name: of for name, of in figures.items() if of}
    marked = frozenset((row.method, data) for data, row in rows if row.seen)
    seen = {data for _, data in marked}
    averaged = tuple(
        table.data
        for table in made
        if table.data not in seen and all(table.data in of for of in figures.values())
    )
    averages = (
        {name: average([of[data] for data in averaged]) for name, of in figures.items()}
        if averaged
        else {}
    )
    return Summary(
        metric=metric, figures=figures, marked=marked, averaged=averaged, averages=averages
    )


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
