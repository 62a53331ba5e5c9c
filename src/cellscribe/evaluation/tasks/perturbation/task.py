"""Screens of perturbed genes: prediction of responses, and separation from control cells.

One table has both. Response: perturbations are split by GEARS's "simulation", and a method predicts
the mean expression of the unseen ones. A model does so by its vectors of genes in the linear model,
which is a baseline too, so that rows differ in these vectors only. Separation: how well a
classifier distinguishes knock-down and control cells by their vectors. A row has the figures that
its method can give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError
from cellscribe.evaluation.data import CellProvenance, Cells, Data
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap_mean
from cellscribe.evaluation.stats.features import log_norm, most_variable, pca
from cellscribe.evaluation.tasks.perturbation import baselines as predictors
from cellscribe.evaluation.tasks.perturbation import metrics as metrics
from cellscribe.evaluation.tasks.perturbation.conditions import (
    CONTROL,
    MIN_CELLS,
    Conditions,
    read_conditions,
    target_columns,
)
from cellscribe.evaluation.tasks.perturbation.splits import Split, split_perturbations

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from cellscribe.config import EvaluateOptions

NAME = "perturbation"
TITLE = "Perturbation response"
ABOUT = (
    "Response: a quarter of the perturbed genes is held out (the simulation split of GEARS, "
    "Roohani et al. 2023); the mean log expression of their cells is predicted from that of the "
    "others. A model predicts through the linear model of Ahlmann-Eltze et al. 2025, with its own "
    "vectors of genes, over control cells, in place of principal components; genes without a "
    "vector are predicted as the training mean. True and predicted changes are taken from "
    "different halves of the control cells, so that they share no noise. Correlation and plain "
    "errors reward the mean of all perturbations; weighted figures and ranks do not (Mejia et al. "
    "2026). Separation: a logistic regression tells cells of each perturbation from control cells "
    "by their vectors, in cross-validation. Intervals are bootstrapped over perturbations."
)
METRICS = {
    "pearson_delta": Metric(
        title="Pearson delta",
        about="Correlation of predicted and true change from control over genes, mean over unseen "
        "perturbations; a prediction of no change has 0 (GEARS).",
        better="higher",
    ),
    "pearson_delta_top20": Metric(
        title="Pearson delta, top 20",
        about="The same over the 20 genes that change most, by Welch's t against control cells.",
        better="higher",
    ),
    "mse_top20": Metric(
        title="MSE, top 20",
        about="Mean squared error of log expression over these genes.",
        better="lower",
        digits=4,
    ),
    "weighted_mse": Metric(
        title="weighted MSE",
        about="Squared error of log expression, genes weighted by how much they change against "
        "cells of the other perturbations (Mejia et al. 2026).",
        better="lower",
        digits=4,
    ),
    "weighted_r2": Metric(
        title="weighted R2",
        about="Explained part of the change from the mean of all perturbations, with these "
        "weights; that mean has 0 or less (Mejia et al. 2026).",
        better="higher",
    ),
    "l2_expressed": Metric(
        title="L2, top 1,000",
        about="Distance of profiles over the 1,000 genes that control cells express most "
        "(Ahlmann-Eltze et al. 2025).",
        better="lower",
    ),
    "pds": Metric(
        title="discrimination",
        about="Share of other unseen perturbations whose true profile is farther from the "
        "prediction than its own; 0.5 is chance (Virtual Cell Challenge 2025).",
        better="higher",
    ),
    "separation": Metric(
        title="separation",
        about="AUROC of perturbed cells against control cells, 5 folds, mean over perturbations; "
        "0.5 is chance.",
        better="higher",
    ),
}
HEADLINES = ("pearson_delta",)
PCA_ROW = "log-norm PCA-50"
BASELINES = ("no change", "training mean", "additive", "linear model", PCA_ROW)
PCA_BASELINE = PCA_ROW
EXTRA_BASELINES: dict[str, str] = {}

GENES = 5_000
"""Most variable genes, on which responses are scored, as in GEARS; measured targets are added."""
CONTROL_CELLS = 1_000
"""Most control cells for a model's vectors of genes, which are means over them."""
SEPARATED = 200
"""Most cells of a perturbation, and most control cells, for the separation."""
SPLIT: Literal["simulation"] = "simulation"

Predict = Callable[[predictors.Training, predictors.Targets], predictors.Predicted]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Prediction of a method for response and separation; None for what it cannot predict."""

    predict: Predict | None = None
    vectors: npt.NDArray[np.floating] | None = None
    """``[B, D]`` of cells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A screen: cells with their perturbations."""

    cells: Cells
    conditions: Conditions
    columns: dict[str, int | None]
    """Target gene as the file writes it -> its column of the file."""
    models: tuple[Model, ...]
    options: EvaluateOptions
    _profiles: dict[int, metrics.Profiles] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.cells.name

    @cached_property
    def _logs(self) -> csr_matrix:
        return log_norm(self.cells.counts)

    @cached_property
    def genes(self) -> npt.NDArray[np.int64]:
        """Columns of the file that responses are scored on, ascending."""
        measured = [column for column in self.columns.values() if column is not None]
        return np.union1d(most_variable(self._logs, GENES), np.array(measured, np.int64))

    def profiles(self, seed: int) -> metrics.Profiles:
        """Return the measured responses; the seed halves the control cells."""
        if seed not in self._profiles:
            logs = self._logs[:, self.genes]
            names, targets = self.conditions.names, tuple(self.conditions.targets)
            self._profiles[seed] = metrics.profiles(logs, names, targets, CONTROL, seed=seed)
        return self._profiles[seed]

    def places(self, targets: tuple[str, ...]) -> list[int]:
        """Return the places of target genes among `genes`, without those that are not measured."""
        columns = [self.columns[gene] for gene in targets]
        return [int(np.searchsorted(self.genes, each)) for each in columns if each is not None]

    @property
    def about(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "cells": self.cells.n_cells,
            "cells in the file": self.cells.n_in_file,
            "control cells": int(self.conditions.is_control.sum()),
            "perturbations": len(self.conditions.targets),
            "perturbed genes": len(self.columns),
            "of them measured": sum(each is not None for each in self.columns.values()),
            "genes": len(self.genes),
            "split": SPLIT,
        }

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.cells.provenance

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of cells and conditions, and the constants of this module."""
        names = "\n".join(self.conditions.names).encode()
        return {
            "cells": self.cells.hash,
            "column": self.conditions.column,
            "conditions": hashlib.sha256(names).hexdigest()[:16],
            "split": SPLIT,
            "genes": GENES,
            "control cells": CONTROL_CELLS,
            "separated cells": SEPARATED,
            "folds": metrics.FOLDS,
            "least cells": MIN_CELLS,
            "components": predictors.COMPONENTS,
            "ridge": predictors.RIDGE,
            "first seed": self.options.seed,
        }


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Read the perturbations of a file.

    Raises
    ------
    UnfitError
        The data are no file of cells, or have no perturbations, too few to split, or no controls.
    """
    if data.cells is None:
        raise UnfitError(
            f"{data.name}: a corpus tells no perturbations; give a file of cells with --data"
        )
    conditions = read_conditions(data.cells, options)
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            split_perturbations(conditions.targets, SPLIT, seed=seed, validation=False)
        except InputError as error:
            raise UnfitError(
                f"{data.name}: {error}; look at more cells with --max-cells"
            ) from error
    labels = sorted({gene for genes in conditions.targets.values() for gene in genes})
    return [
        Case(
            cells=data.cells,
            conditions=conditions,
            columns=target_columns(data.cells, labels),
            models=tuple(models),
            options=options,
        )
    ]


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: the linear model with its gene vectors, and its vectors of cells."""

    def predict() -> Prediction:
        vectors = model.vectors(case.cells)
        return Prediction(predict=_predict_with(case, model), vectors=vectors)

    return [model.row(predict)]


def baselines(case: Case) -> list[Method]:
    """Return all of `BASELINES`."""
    plain: dict[str, Predict] = {
        "no change": predictors.no_change,
        "training mean": predictors.training_mean,
        "additive": predictors.additive,
        "linear model": partial(_linear, case),
    }
    rows = [
        Method(name=name, kind="baseline", predict=partial(Prediction, predict=predict))
        for name, predict in plain.items()
    ]
    by_pca = lambda: Prediction(vectors=pca(case.cells.counts, 50))
    return [*rows, Method(name=PCA_ROW, kind="baseline", predict=by_pca)]


def score(case: Case, prediction: Prediction, seed: int) -> Scores:
    """Score what a prediction has; the seed decides split, folds and drawn cells."""
    estimates: dict[str, Estimate] = {}
    breakdowns: dict[str, dict[str, float]] = {}
    estimate = partial(bootstrap_mean, draws=case.options.bootstrap, seed=seed)
    if prediction.predict is not None:
        split = split_perturbations(case.conditions.targets, SPLIT, seed=seed, validation=False)
        found, n_fallback = response(case, prediction.predict, split, seed=seed)
        estimates |= {metric: estimate(values) for metric, values in found.items()}
        breakdowns["unseen perturbations, of them predicted as the training mean"] = {
            "unseen": float(len(split.test)),
            "as the mean": float(n_fallback),
        }
        groups = {title: names for title, names in split.groups.items() if names}
        if len(groups) > 1:
            of = dict(zip(split.test, found["pearson_delta"], strict=True))
            breakdowns["Pearson delta by what was seen"] = {
                title: float(np.mean([of[name] for name in names]))
                for title, names in groups.items()
            }
    if prediction.vectors is not None:
        areas = separation(prediction.vectors, case.conditions, seed=seed)
        estimates["separation"] = estimate(list(areas.values()))
        breakdowns["separation by perturbation"] = areas
    return Scores(estimates=estimates, breakdowns=breakdowns)


def response(
    case: Case, predict: Predict, split: Split, *, seed: int
) -> tuple[dict[str, npt.NDArray[np.float64]], int]:
    """Compute metrics of each test perturbation, and count predictions by the training mean.

    `predict` gets neither the test profiles nor the control cells they are compared with.
    """
    seen, targets = case.profiles(seed), case.conditions.targets
    train, test = seen.places(split.train), seen.places(split.test)
    training = predictors.Training(
        targets=tuple(targets[name] for name in split.train),
        deltas=seen.means[train] - seen.start,
        control=seen.start,
    )
    test_targets = [targets[name] for name in split.test]
    predicted = predict(training, test_targets)
    truth, guess, weights = seen.means[test], seen.start + predicted.deltas, seen.weights[test]
    change = truth - seen.control
    top = metrics.top_genes(seen.against_control[test])
    at_top = partial(np.take_along_axis, indices=top, axis=1)
    found = {
        "pearson_delta": metrics.pearson(change, predicted.deltas),
        "pearson_delta_top20": metrics.pearson(at_top(change), at_top(predicted.deltas)),
        "mse_top20": metrics.mse(at_top(truth), at_top(guess)),
        "weighted_mse": metrics.mse(truth, guess, weights),
        "weighted_r2": metrics.weighted_r2(truth, guess, seen.mean, weights),
        "l2_expressed": metrics.l2_expressed(truth, guess, seen.control),
        "pds": metrics.discrimination(truth, guess, [case.places(genes) for genes in test_targets]),
    }
    return found, predicted.n_fallback


def separation(
    vectors: npt.NDArray[np.floating], conditions: Conditions, *, seed: int
) -> dict[str, float]:
    """Compute AUROC of each perturbation's cells against control cells, see `metrics.separation`.

    Up to `SEPARATED` cells of either side are drawn, with the seed and the perturbation's place.
    """
    found = {}
    controls = np.flatnonzero(conditions.is_control)
    for place, name in enumerate(conditions.targets):
        random = np.random.default_rng([seed, place])
        sides = [random.permutation(rows)[:SEPARATED] for rows in (controls, conditions.rows(name))]
        rows = np.concatenate(sides)
        chosen = np.asarray(vectors[rows], np.float64)
        found[name] = metrics.separation(chosen, ~conditions.is_control[rows], seed=seed)
    return found


def _linear(
    case: Case, training: predictors.Training, targets: predictors.Targets
) -> predictors.Predicted:
    """Predict by the linear model; a perturbation's vector is its gene's row of the components."""
    genes = predictors.gene_components(training)
    vectors = {
        label: genes[case.places((label,))[0]]
        for label, column in case.columns.items()
        if column is not None
    }
    return predictors.linear(training, targets, genes, vectors)


def _predict_with(case: Case, model: Model) -> Predict | None:
    """Return the linear model with a model's vectors of genes; None for a family without them."""
    if not model.has_gene_vectors:
        return None
    controls = np.flatnonzero(case.conditions.is_control)
    controls = np.random.default_rng(case.options.seed).permutation(controls)[:CONTROL_CELLS]
    found = model.gene_vectors(case.cells.take(np.sort(controls)))
    rows = predictors.principal(found.vectors.astype(np.float64))
    cells = case.cells
    tokens = model.header.map_genes(
        cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
    ).token
    row_of = {int(token): row for row, token in enumerate(found.tokens)}
    vectors = {
        label: rows[row_of[int(tokens[column])]]
        for label, column in case.columns.items()
        if column is not None and int(tokens[column]) in row_of
    }
    return partial(_scaled, vectors, float(np.sqrt(np.mean(rows**2) or 1.0)))


def _scaled(
    vectors: dict[str, npt.NDArray[np.float64]],
    size: float,
    training: predictors.Training,
    targets: predictors.Targets,
) -> predictors.Predicted:
    """Predict with vectors scaled to the size of the baseline's, since both share one ridge."""
    genes = predictors.gene_components(training)
    factor = float(np.sqrt(np.mean(genes**2))) / size
    return predictors.linear(
        training, targets, genes, {label: factor * each for label, each in vectors.items()}
    )
