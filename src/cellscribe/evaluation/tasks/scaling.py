"""Whether more training cells, or more parameters, make better vectors: one point a run.

The folders of training runs hold the numbers of cells and parameters. The score is that of
`celltype`, with its folds, and its baseline is drawn as a level. The losses are those that the run
itself measured on its validation cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.evaluation.data import CellProvenance, Data
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Curve, Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.tasks import celltype
from cellscribe.training.runs import JUDGE, Run, best, read_run, summarise

if TYPE_CHECKING:
    from cellscribe.config import EvaluateOptions

UNSEEN = "test_unseen"
LEAST_RUNS = 2
LEVEL = "log-norm PCA-50 + logistic regression"
OVER_CELLS, OVER_PARAMETERS = "macro-F1 over training cells", "macro-F1 over parameters"
SIZES = "the run in numbers"

NAME = "scaling"
TITLE = "Scaling"
ABOUT = (
    "Models of training runs, scored as the task celltype does (logistic regression on frozen "
    "vectors, its folds), against the training cells of their corpus and against their number of "
    "parameters; counted as the run counts them. The baseline, fitted on the judged cells alone, "
    "is drawn as a level, and so are random weights over training cells. Losses are the run's own, "
    "at the step whose weights are its model: compare them between runs on one corpus only. Their "
    "intervals are not of a bootstrap: they span that validation and the ones just before and "
    "after it. DenAdel et al. (Nature Methods 2026) find that such curves level off early."
)
METRICS = {
    "macro_f1": celltype.METRICS["macro_f1"],
    "accuracy": celltype.METRICS["accuracy"],
    "loss_val": Metric(
        title="Loss on val",
        about="Masked-gene loss on held-out cells of the training data's own datasets, natural "
        "logarithm, by the run's own validation.",
        better="lower",
    ),
    "loss_unseen": Metric(
        title="Loss on unseen data",
        about="The same, on datasets that the run was not trained on.",
        better="lower",
    ),
}
HEADLINES = ("macro_f1",)
BASELINES = (LEVEL,)
PCA_BASELINE = LEVEL
EXTRA_BASELINES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A file of labelled cells, and the runs whose models are evaluated on it."""

    inner: celltype.Case
    models: Sequence[Model]
    """Of runs, and their twins."""
    runs: Mapping[str, Run]
    """By `Model.path`, which is the same for a model and its twin."""

    @property
    def name(self) -> str:
        """The file's."""
        return self.inner.name

    @property
    def about(self) -> dict[str, Any]:
        """Sizes."""
        corpora = sorted({run.header["corpus"]["name"] for run in self.runs.values()})
        return {**self.inner.about, "runs": len(self.runs), "corpora": ", ".join(corpora)}

    @cached_property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.inner.provenance

    @property
    def identity(self) -> dict[str, Any]:
        """What the cells are, and the runs: the axes of one point depend on all of them."""
        return {
            "celltype": self.inner.identity,
            "runs": sorted(
                [run.name, *map(float, sizes(run).values())] for run in self.runs.values()
            ),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Input of the classifier, and numbers of the run that it comes from."""

    features: celltype.Features
    cells: list[float]
    """Training cells of the run; without training, the smallest and largest of all runs."""
    parameters: list[float]
    """Likewise."""
    run: Run | None = None
    step: int | None = None
    """Step of the model's weights."""


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Read the runs, and the labels of a file of cells.

    Raises
    ------
    UnfitError
        Fewer than two models are of runs, or a run does not list its cells; as `celltype.load`.
    InputError
        As `training.runs.read_run` and `celltype.load`.
    """
    folders = {model.path: model.run for model in models if model.run is not None}
    if len(folders) < LEAST_RUNS:
        raise UnfitError(
            f"{NAME} compares training runs, and {len(folders) or 'none'} of the models is one; "
            f"name {LEAST_RUNS} folders or more that cellscribe train made"
        )
    runs = {path: read_run(folder) for path, folder in folders.items()}
    for path, run in runs.items():
        if not run.train_cells:
            raise UnfitError(
                f"{folders[path]}: run.json does not tell how many cells it was trained on; "
                f"leave the run out of {NAME}"
            )
    of_runs = [model for model in models if model.path in runs]
    return [
        Case(inner=inner, models=of_runs, runs=runs)
        for inner in celltype.load(data, of_runs, options)
    ]


def sizes(run: Run) -> dict[str, float]:
    """Return the sizes of a run, and the steps, cells and tokens it has trained on so far."""
    summary = summarise(run)
    return {
        "training cells": float(run.train_cells),
        "parameters": float(run.header["parameters"]),
        "steps": float(summary.steps),
        "cells seen": float(summary.cells),
        "tokens seen": float(summary.tokens),
    }


def methods(case: Case, model: Model) -> list[Method]:
    """Return the row of a run's model or of its twin: vectors, and their place on the axes."""
    run = case.runs[model.path]
    own = sizes(run)
    step = None
    if not model.random:
        lowest = best(run)
        step = model.header.provenance.get("step", None if lowest is None else lowest[0])

    def made(method: Method) -> Point:
        return Point(
            features=method.predict(),
            cells=_span(case, "training cells") if model.random else [own["training cells"]],
            parameters=[own["parameters"]],
            run=None if model.random else run,
            step=step,
        )

    return [
        Method(name=each.name, kind=each.kind, predict=lambda each=each: made(each), model=model)  # type: ignore[misc]
        for each in celltype.methods(case.inner, model)
    ]


def baselines(case: Case) -> list[Method]:
    """Return the baseline of `celltype` that is drawn as a level."""

    def made(method: Method) -> Point:
        return Point(
            features=method.predict(),
            cells=_span(case, "training cells"),
            parameters=_span(case, "parameters"),
        )

    return [
        Method(name=each.name, kind=each.kind, predict=lambda each=each: made(each))  # type: ignore[misc]
        for each in celltype.baselines(case.inner)
        if each.name in BASELINES
    ]


def score(case: Case, prediction: Point, seed: int) -> Scores:
    """Score the vectors as `celltype` does, and place the figure on the axes."""
    found = celltype.score(case.inner, prediction.features, seed)
    estimates = {name: found.estimates[name] for name in ("macro_f1", "accuracy")}
    height = estimates["macro_f1"].value
    breakdowns = {}
    if prediction.run is not None:
        for name, split in (("loss_val", JUDGE), ("loss_unseen", UNSEEN)):
            loss = own_loss(prediction.run, split, prediction.step)
            if loss is not None:
                estimates[name] = loss
        breakdowns[SIZES] = sizes(prediction.run)
    axes = {
        OVER_CELLS: (prediction.cells, "training cells"),
        OVER_PARAMETERS: (prediction.parameters, "parameters"),
    }
    curves = {
        title: Curve(x=x, y=[height] * len(x), x_label=label, y_label="macro-F1", log_x=True)
        for title, (x, label) in axes.items()
    }
    return Scores(estimates=estimates, breakdowns=breakdowns, curves=curves)


def own_loss(run: Run, split: str, step: int | None) -> Estimate | None:
    """Return the loss of a split at a step, with an interval from the validations around it.

    None where the run did not validate the split there.
    """
    if split not in run.validation:
        return None
    steps, losses = run.validation[split]
    at = np.flatnonzero(steps == step)
    if not len(at) or not np.isfinite(losses[at[0]]):
        return None
    near = losses[max(at[0] - 1, 0) : at[0] + 2]
    return Estimate(
        value=float(losses[at[0]]), low=float(np.nanmin(near)), high=float(np.nanmax(near))
    )


def _span(case: Case, size: str) -> list[float]:
    """Return the smallest and largest value of all runs; one value if they are equal."""
    values = [sizes(run)[size] for run in case.runs.values()]
    return sorted({min(values), max(values)})
