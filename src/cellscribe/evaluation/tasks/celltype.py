"""Cell types: how well simple classifiers predict them from the frozen vector of a cell.

Models and baselines have the same folds, classifiers and choice of strength. No fold splits a donor
or batch where one is known: cells of one donor share more than their type, and a random split
rewards features of the donor. Every figure is of predictions for held-out cells.

Letters: ``B`` cells of the file, ``N`` labelled ones that take part, ``K`` classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.columns import has_label
from cellscribe.errors import InputError
from cellscribe.evaluation.corpus_pca import corpus_rows
from cellscribe.evaluation.data import CellProvenance, Cells, Data, column
from cellscribe.evaluation.models import Method
from cellscribe.evaluation.scores import Curve, Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap
from cellscribe.evaluation.stats.probe import (
    FOLDS,
    INNER_FOLDS,
    PLAIN_STRENGTH,
    STRENGTHS,
    Fold,
    Folds,
    Integers,
    accuracy,
    class_f1,
    confusion,
    folds_of,
    macro_f1,
    predict_forest,
    predict_logistic,
    predict_logistic_cv,
    predict_near,
    side_by_side,
    standardised,
)

if TYPE_CHECKING:
    from cellscribe.config import EvaluateOptions
    from cellscribe.evaluation.models import Model

NAME = "celltype"
TITLE = "Cell types"
ABOUT = (
    "Cell types read off frozen vectors by logistic regression (features standardised on the "
    "training cells; C of 0.01, 0.1, 1 chosen by three folds inside them, for models and baselines "
    "alike) and by the 15 nearest neighbours. Five folds, grouped by donor or batch where one is "
    "known, else of random cells; every cell is predicted once, by a classifier that never saw it "
    "or another cell of its donor. Baselines' features are fitted on all cells of the file without "
    "labels, as a model may read them all. The few-shot curve trains on 1, 5, 10, 50 cells a class "
    "of a fold's training part (all of a class that has fewer) and tests on the held-out part, "
    "with C 0.1. PCA-10 with a random forest is the baseline of the lineage's model card, as it "
    "stands there: without neighbours and few-shot. Left out: cells without a label, classes of "
    "fewer than 10 cells (the rule of cz-benchmarks) and, where folds are grouped, classes of a "
    "single group. Intervals resample cells, or groups where there are ten or more. The lineage's "
    "own benchmark is Crohn's ileum (Elmentaite 2020; CELLxGENE dataset "
    "8e47ed12-c658-4252-b126-381df8d52a3d): give its file, with --label cell_type."
)
METRICS = {
    "macro_f1": Metric(
        title="Macro-F1",
        about="F1 of logistic regression, mean over classes: rare types count as much as common.",
        better="higher",
    ),
    "accuracy": Metric(
        title="Accuracy",
        about="Share of cells whose type logistic regression tells.",
        better="higher",
    ),
    "knn_macro_f1": Metric(
        title="kNN macro-F1",
        about="F1 of the type that most of a cell's 15 nearest training cells have, by cosine of "
        "vectors less the training cells' mean; mean over classes. Nothing is trained, so it says "
        "what the distances themselves are worth.",
        better="higher",
    ),
    "knn_accuracy": Metric(
        title="kNN accuracy",
        about="Share of cells whose type those neighbours tell.",
        better="higher",
    ),
}
HEADLINES = ("macro_f1", "knn_macro_f1")
HVG_LR = "log-norm HVG 2,000 + logistic regression"
PCA_LR = "log-norm PCA-50 + logistic regression"
PCA_FOREST = "log-norm PCA-10 + random forest"
SCVI_LR = "scVI + logistic regression"
BASELINES = (HVG_LR, PCA_LR, PCA_FOREST)
PCA_BASELINE = PCA_LR
EXTRA_BASELINES = {SCVI_LR: "scvi"}

GROUPS = ("donor", "donor_id", "individual", "batch", "library", "sample", "replicate", "plate")
"""Columns of obs to look for, in this order, when no group is named."""
FEWEST_CELLS = 10
"""Fewest cells of a class."""
SHOTS = (1, 5, 10, 50)
FEWEST_GROUPS = 10
"""Fewest groups for intervals that resample groups; percentiles of fewer are too coarse."""
PROTOCOL = 2
"""Raised when figures change for the same data and settings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Labelled cells of a file."""

    name: str
    models: Sequence[Model]
    cells: Cells
    """All cells of the file, labelled or not."""
    rows: Integers
    """``[N]`` rows of the cells that take part, ascending."""
    classes: list[str]
    """``[K]`` sorted."""
    truth: Integers
    """``[N]`` class of each cell."""
    groups: Integers | None
    """``[N]`` group of each cell; no fold splits one."""
    bootstrap: int
    seed: int
    """Seed of the baselines' features."""
    about: dict[str, Any]
    identity: dict[str, Any]

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.cells.provenance


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Input of the classifiers."""

    vectors: npt.NDArray[np.floating]
    """``[N, D]``."""
    forest: bool = False
    """Whether a random forest is the only classifier."""


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Find labels and groups of a file of cells.

    Raises
    ------
    UnfitError
        No file of cells, no label column, or fewer than two classes of `FEWEST_CELLS` cells.
    InputError
        There is no such group column.
    """
    cells = data.cells
    if cells is None:
        raise UnfitError(f"{data.name}: a corpus has no cell types; give a file of labelled cells")
    labels = column(cells, options.label, "--label")
    known = has_label(labels)
    left_out = {"no label": int((~known).sum())}
    names, numbers = np.unique(labels[known], return_counts=True)
    small = set(names[numbers < FEWEST_CELLS])
    left_out[f"{len(small)} classes of fewer than {FEWEST_CELLS} cells"] = _drop(
        known, np.isin(labels, list(small))
    )
    _check(cells.name, options.label, list(names), numbers)
    by, groups = _groups(cells, options.group, labels, known)
    if groups is not None:
        left_out["no group"] = _drop(known, groups == "")
        alone = _of_one_group(labels[known], groups[known])
        left_out[f"{len(alone)} classes of one {by} alone"] = _drop(known, np.isin(labels, alone))
        _check_groups(cells.name, labels[known], groups[known], str(by))
    rows = np.flatnonzero(known)
    classes, truth = np.unique(labels[rows], return_inverse=True)
    numbered = None if groups is None else np.unique(groups[rows], return_inverse=True)[1]
    n_groups = 0 if numbered is None else int(numbered.max()) + 1
    texts = [*labels[rows], *([] if groups is None else groups[rows])]
    return [
        Case(
            name=cells.name, models=models, cells=cells, rows=rows, classes=list(classes),
            truth=truth, groups=numbered, bootstrap=options.bootstrap, seed=options.seed,
            about={
                "cells": len(rows),
                "classes": len(classes),
                "label": options.label,
                "folds": f"{FOLDS}, random cells" if numbered is None
                else f"{min(FOLDS, n_groups)}, by {by} ({n_groups})",
                "left out": {why: n for why, n in left_out.items() if n},
                "intervals resample": "cells" if n_groups < FEWEST_GROUPS else str(by),
            },
            identity={
                "data": cells.hash,
                "labels": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16],
                "rows": hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16],
                "label": options.label,
                "group": by,
                "features seed": options.seed,
                "strengths": list(STRENGTHS),
                "protocol": PROTOCOL,
            },
        )
    ]  # fmt: skip


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: its vectors."""
    return [model.row(lambda: Features(vectors=model.vectors(case.cells)[case.rows]))]


def baselines(case: Case) -> list[Method]:
    """Return the rows of the standard workflow, of scVI, and of the training corpora's PCA."""
    from cellscribe.evaluation.stats.features import HVG, hvg, pca, scvi_latent

    counts, rows, seed = case.cells.counts, case.rows, case.seed
    made: dict[str, Callable[[], Features]] = {
        HVG_LR: lambda: Features(vectors=hvg(counts, HVG)[rows]),
        PCA_LR: lambda: Features(vectors=pca(counts, 50, seed=seed)[rows]),
        PCA_FOREST: lambda: Features(vectors=pca(counts, 10, seed=seed)[rows], forest=True),
    }
    if find_spec("scvi") is not None:
        made[SCVI_LR] = lambda: Features(vectors=scvi_latent(case.cells, seed=seed)[rows])
    methods = [Method(name=name, kind="baseline", predict=make) for name, make in made.items()]
    return methods + corpus_rows(
        case.models,
        lambda corpus: Features(vectors=corpus.scores(case.cells)[rows]),
        " + logistic regression",
    )


def score(case: Case, prediction: Features, seed: int) -> Scores:
    """Score features: every cell is predicted once, under the folds of the seed."""
    vectors, truth = prediction.vectors, case.truth
    folds = folds_of(truth, case.groups, seed)
    predicted = np.empty(len(truth), np.int64)
    near = np.empty(len(truth), np.int64)

    def predict(fold: Fold) -> None:
        train, test = fold
        if prediction.forest:
            predicted[test] = predict_forest(vectors[train], truth[train], vectors[test], seed)
            return
        groups = None if case.groups is None else case.groups[train]
        inner = folds_of(truth[train], groups, seed, INNER_FOLDS)
        predicted[test] = predict_logistic_cv(vectors[train], truth[train], vectors[test], inner)
        near[test] = predict_near(vectors[train], truth[train], vectors[test])

    side_by_side(predict, folds)
    estimates = {
        "macro_f1": _estimate(case, predicted, seed, macro_f1),
        "accuracy": _estimate(case, predicted, seed, accuracy),
    }
    curves = {}
    if not prediction.forest:
        estimates["knn_macro_f1"] = _estimate(case, near, seed, macro_f1)
        estimates["knn_accuracy"] = _estimate(case, near, seed, accuracy)
        curves["Few-shot"] = _few_shot(case, vectors, folds, seed)
    by_class = class_f1(confusion(truth, predicted, len(case.classes)))
    return Scores(
        estimates=estimates,
        breakdowns={"F1 by class": dict(zip(case.classes, by_class.tolist(), strict=True))},
        curves=curves,
    )


def _estimate(
    case: Case,
    predicted: Integers,
    seed: int,
    statistic: Callable[[npt.NDArray[np.int64]], float],
) -> Estimate:
    """Estimate a statistic of the confusion matrix over resampled cells or groups."""
    truth, size, draws = case.truth, len(case.classes), case.bootstrap
    groups = case.groups
    if groups is None or groups.max() + 1 < FEWEST_GROUPS:
        return bootstrap(
            lambda rows: statistic(confusion(truth[rows], predicted[rows], size)),
            len(truth), draws=draws, seed=seed,
        )  # fmt: skip
    parts = np.stack([
        confusion(truth[groups == group], predicted[groups == group], size)
        for group in range(int(groups.max()) + 1)
    ])  # fmt: skip
    return bootstrap(
        lambda rows: statistic(parts[rows].sum(axis=0)), len(parts), draws=draws, seed=seed
    )


def _few_shot(case: Case, vectors: npt.NDArray[np.floating], folds: Folds, seed: int) -> Curve:
    """Compute macro-F1 by the labelled cells of a class; each set of cells contains the smaller."""
    truth, size = case.truth, len(case.classes)
    predicted = np.empty((len(SHOTS), len(truth)), np.int64)

    def learn(fold: int) -> None:
        train, test = folds[fold]
        # few labelled cells come with many unlabelled ones, so the scale is that of all
        fit, held = standardised(vectors[train], vectors[test])
        order = np.random.default_rng([seed, fold]).permutation(len(train))
        for place, shots in enumerate(SHOTS):
            found = [order[truth[train[order]] == each][:shots] for each in range(size)]
            few = np.concatenate(found)
            predicted[place, test] = predict_logistic(
                fit[few], held, truth[train[few]], PLAIN_STRENGTH
            )

    side_by_side(learn, range(len(folds)))
    scores = [macro_f1(confusion(truth, each, size)) for each in predicted]
    return Curve(
        x=[float(shots) for shots in SHOTS],
        y=scores,
        x_label="labelled cells of a class",
        y_label="macro-F1",
        log_x=True,
    )


def _drop(known: npt.NDArray[np.bool_], out: npt.NDArray[np.bool_]) -> int:
    """Remove cells from the known ones, in place; return their number."""
    gone = known & out
    known &= ~out
    return int(gone.sum())


def _check(name: str, label: str, names: list[str], numbers: npt.NDArray[np.int64]) -> None:
    """Refuse labels with fewer than two classes."""
    fix = "name another column with --label"
    if not names:
        raise UnfitError(f"{name}: no cell has a label in {label!r}; {fix}")
    if len(names) == 1:
        raise UnfitError(
            f"{name}: all labelled cells are {names[0]!r} ({label}), and one class cannot be told "
            f"from others; {fix}"
        )
    if (numbers >= FEWEST_CELLS).sum() < 2:
        raise UnfitError(
            f"{name}: {label} has {len(names)} classes, but fewer than two of them have "
            f"{FEWEST_CELLS} cells (the largest has {numbers.max()}); {fix}, or look at more "
            "cells with --max-cells"
        )


def _groups(
    cells: Cells,
    named: str | None,
    labels: npt.NDArray[np.object_],
    known: npt.NDArray[np.bool_],
) -> tuple[str | None, npt.NDArray[np.object_] | None]:
    """Choose the column of groups, and read it.

    A column that the user did not name is only taken if every labelled cell has a group, groups
    have ten cells on average, and at least half of the classes occur in two groups. Otherwise a
    file of sorted populations, with a library each, would leave nothing to learn.
    """
    if named is not None:
        return named, column(cells, named, "--group")
    for name in GROUPS:
        if name not in cells.obs:
            continue
        values = column(cells, name, "--group")
        there = values[known]
        many = len(np.unique(there))
        if "" in there or many < 2 or many * FEWEST_CELLS > len(there):
            continue
        if 2 * len(_of_one_group(labels[known], there)) <= len(np.unique(labels[known])):
            return name, values
    return None, None


def _of_one_group(labels: npt.NDArray[np.object_], groups: npt.NDArray[np.object_]) -> list[str]:
    """Return the classes that occur in one group only."""
    return [name for name in np.unique(labels) if len(np.unique(groups[labels == name])) < 2]


def _check_groups(
    name: str, labels: npt.NDArray[np.object_], groups: npt.NDArray[np.object_], by: str
) -> None:
    """Refuse groups of which none can be held out."""
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"{name}: fewer than two classes occur in two or more groups of {by!r}, so none can be "
            "held out; name another column with --group"
        )
