"""Learn a number: from cells with a value to a model whose head predicts it with an interval.

With ``mode = "head"`` a ridge regression on the frozen encoder's vectors is the head; otherwise
layers are trained from there on, by the squared error of the standardised value. On the same folds
two baselines are fitted: the mean of the cells that are learnt from, and ridge regression on
principal components of log-normalised counts. All penalties are those of least held-out error, ours
and the baseline's alike.

Letters: ``B`` cells with a value, ``H`` held-out ones, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.annotation.conformal import Interval, fit_interval
from cellscribe.annotation.finetune import plain_options, save_finetuned
from cellscribe.annotation.judged import PAGE
from cellscribe.annotation.linear import LinearHead, fit_ridge
from cellscribe.annotation.measured import Measured
from cellscribe.annotation.model_readme import coverage_said, verdict
from cellscribe.annotation.peers import read_logs
from cellscribe.annotation.targets import NumberTarget
from cellscribe.annotation.trained import embed_rows, train, trained_model, training_on
from cellscribe.callbacks import Progress, in_step
from cellscribe.cells.log_norm import most_variable
from cellscribe.config import FinetuneOptions
from cellscribe.inference.session import Cells, Session
from cellscribe.model.several_heads import NumberHead

if TYPE_CHECKING:
    from cellscribe.annotation.tuning import Tuned

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Shares of the cells that are tried as the penalty of ridge regression."""
COVERAGE = 0.9
"""Share of new cells that an interval holds, if nothing else is asked for."""
COMPONENTS = 50
"""Principal components of the baseline, of scanpy's customary number."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Features = Callable[[npt.NDArray[np.bool_]], tuple[Floats, Floats]]
"""From a mask of held-out cells to features of the others, and of these."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How predictions of held-out cells fare."""

    mae: float
    """Mean absolute error, in the unit of the number."""
    r2: float
    """1 less the squared error over that of the held-out cells' own mean."""
    spearman: float | None
    """Rank correlation; None of predictions that do not tell cells of a fold apart."""


@dataclass(frozen=True, kw_only=True)
class HeldOutNumbers:
    """Held-out cells, in the unit of the number."""

    values: Floats
    """``[H]``."""
    predicted: Floats
    """``[H]``."""
    groups: npt.NDArray[np.object_] | None
    """``[H]``."""


NumberPage = Callable[[HeldOutNumbers, NumberHead], str]
"""Makes a page of held-out cells and of a head."""


@dataclass(frozen=True, kw_only=True)
class FinetunedNumber:
    """What `finetune_number` made."""

    head: NumberHead
    interval: Interval
    measured: Measured
    figures: dict[str, Figures]
    """On held-out cells, of ``model``, ``ridge`` and ``mean``."""
    epochs: int
    """Passes over the cells where layers are trained."""
    held_out: HeldOutNumbers
    """What held-out cells were told."""

    def lines(self, mode: str) -> list[str]:
        """What was learnt and how it fared, for the terminal."""
        n = len(self.measured.values)
        return [
            f"{n:,} cells with {self.head.target} learnt with --mode {mode}.",
            verdict(self.head),
            coverage_said(self.head),
        ]


def finetune_number(
    session: Session,
    sources: Sequence[Cells],
    measured: Measured,
    out: Path,
    options: FinetuneOptions,
    *,
    page: NumberPage | None = None,
    progress: Progress | None = None,
) -> FinetunedNumber:
    """Fine-tune a model to predict a number, and save it.

    Parameters
    ----------
    session
        The model and the device.
    sources
        Opened files of raw counts.
    measured
        Their values, from `read_target`.
    out
        The new model's directory; it appears whole or not at all.
    options
        Mode and recipe.
    page
        Makes the page that stands next to the weights.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        Bad input, see `Measured.check` and `tune`.
    """
    trained = trained_model(session, options)
    vectors, filled = embed_rows(session, sources, measured.rows, progress)
    measured = measured.keep(filled)
    measured.check(sources[0].counts.name, options.group, session.log)
    folds = measured.folds(options.folds, options.seed)
    centre, scale = float(measured.values.mean()), float(measured.values.std())
    standard = (measured.values - centre) / scale
    tuned: Tuned | None = None
    trials: list[dict[str, Any]] = []
    tested = np.ones(len(folds), bool)
    if trained is None:
        penalty, predicted = held_out_ridge(_given(vectors), standard, folds)
        head = fit_ridge(vectors, standard, penalty)
        how = "each fold of groups by a head that did not see it"
    else:
        training = training_on(
            session, trained, sources, measured.rows, [NumberTarget(truth=standard)], vectors,
            folds, measured.strata, options,
        )  # fmt: skip
        tuned, held_out, trials, options = train(session, training, progress)
        head, predicted = tuned.model.linear_heads()[0], held_out[0].logits[:, 0]
        tested, how = held_out[0].tested, held_out[0].how
    if measured.groups is None:
        how = how.replace("groups", "cells drawn at random")
    values = measured.values
    errors = np.abs(centre + scale * predicted - values)[tested]
    groups = None if measured.groups is None else measured.groups[tested]
    interval = fit_interval(errors, groups, folds[tested], options.coverage or COVERAGE)
    every = np.arange(len(values))
    logs = read_logs(sources, measured.rows, every, in_step(progress, "Baselines"))
    baselines = baselines_of(logs, standard, folds, tested, options.seed)
    figures = {
        name: figures_of(centre + scale * each[tested], values[tested], ranked=name != "mean")
        for name, each in {"model": predicted, **baselines}.items()
    }
    facts = _about(session, measured, figures, interval, how, tuned, options)
    saved = _number_head(head, centre, scale, interval, measured, facts, trials)
    told = HeldOutNumbers(
        values=values[tested], predicted=centre + scale * predicted[tested], groups=groups
    )
    more = {} if page is None else {PAGE: page(told, saved)}
    save_finetuned(out, session, [saved], tuned, more)
    return FinetunedNumber(
        head=saved,
        interval=interval,
        measured=measured,
        figures=figures,
        epochs=tuned.epochs if tuned else 0,
        held_out=told,
    )


def _given(vectors: Floats) -> Features:
    """Features that are the same whatever is held out."""
    return lambda away: (vectors[~away], vectors[away])


def held_out_ridge(
    features: Features, values: Floats, folds: Integers
) -> tuple[float, npt.NDArray[np.float64]]:
    """Predict each fold by ridge regression on all other cells.

    Parameters
    ----------
    features
        Of the cells that are learnt from, and of those that are held out.
    values
        ``[B]`` standardised.
    folds
        ``[B]``; cells of -1 are never held out.

    Returns
    -------
    penalty
        That of least squared error over all held-out cells.
    predicted
        ``[B]`` with it, 0 for cells that were not held out.
    """
    found, held = np.zeros((len(PENALTIES), len(values))), folds >= 0
    for fold in np.unique(folds[held]):
        away = folds == fold
        learnt, others = features(away)
        for number, penalty in enumerate(PENALTIES):
            found[number, away] = fit_ridge(learnt, values[~away], penalty).logits(others)[:, 0]
    best = int(((found - values) ** 2)[:, held].mean(axis=1).argmin())
    return PENALTIES[best], found[best]


def baselines_of(
    logs: csr_matrix, values: Floats, folds: Integers, tested: Any, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Predictions ``[B]`` of held-out cells by what anyone can do without a model.

    Parameters
    ----------
    logs
        ``[B, G]`` log-normalised counts.
    values
        ``[B]`` standardised.
    folds
        ``[B]``; of those without a tested cell nothing is predicted.
    tested
        ``[B]`` cells that the model was held out of.
    seed
        Of the principal components.

    Returns
    -------
    dict
        ``ridge`` (on principal components of the most variable genes, all of the cells that are
        learnt from) and ``mean`` (of these cells).
    """
    from sklearn.decomposition import PCA

    def components(away: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        genes = most_variable(csr_matrix(logs[~away]))
        learnt, others = (logs[rows][:, genes].toarray() for rows in (~away, away))
        reduced = PCA(min(COMPONENTS, *learnt.shape), random_state=seed).fit(learnt)
        return reduced.transform(learnt), reduced.transform(others)

    # folds that the model was not held out of are learnt from, and never held out
    used = np.where(np.isin(folds, np.unique(folds[tested])), folds, -1)
    mean = np.zeros(len(values))
    for fold in np.unique(used[used >= 0]):
        mean[used == fold] = values[used != fold].mean()
    return {"ridge": held_out_ridge(components, values, used)[1], "mean": mean}


def figures_of(predicted: Floats, values: Floats, *, ranked: bool = True) -> Figures:
    """Score predictions, ``[H]`` each."""
    from scipy.stats import spearmanr
    from sklearn.metrics import mean_absolute_error, r2_score

    tells = ranked and np.ptp(predicted) > 0 and np.ptp(values) > 0
    return Figures(
        mae=float(mean_absolute_error(values, predicted)),
        r2=float(r2_score(values, predicted)),
        spearman=float(spearmanr(predicted, values).statistic) if tells else None,
    )


def _about(
    session: Session,
    measured: Measured,
    figures: dict[str, Figures],
    interval: Interval,
    how: str,
    tuned: Tuned | None,
    options: FinetuneOptions,
) -> dict[str, Any]:
    """What the header of a head says of where it comes from."""
    embedder = session.embedder
    return {
        "mode": options.mode,
        "group": options.group,
        "model": {"name": embedder.header.name, "hash": embedder.hash},
        "held_out": {
            "by": how,
            "figures": {name: asdict(each) for name, each in figures.items()},
            "interval": interval.as_json(),
        },
        "cells": len(measured.values),
        "left_out": measured.left_out,
        "sources": measured.sources,
        "epochs": tuned.epochs if tuned else 0,
        "options": plain_options(options),
        "cellscribe": metadata.version("cellscribe"),
    }


def _number_head(
    head: LinearHead,
    centre: float,
    scale: float,
    interval: Interval,
    measured: Measured,
    facts: dict[str, Any],
    trials: list[dict[str, Any]],
) -> NumberHead:
    """Make a head that reads vectors as they are, and gives values in their own unit."""
    weight, bias = head.folded()
    return NumberHead(
        target=measured.target,
        weight=(scale * weight).astype(np.float32),
        bias=(centre + scale * bias).astype(np.float32),
        half_width=interval.half_width,
        coverage=interval.coverage,
        range=(float(measured.values.min()), float(measured.values.max())),
        about={"target": measured.target, **facts} | ({"trials": trials} if trials else {}),
    )
