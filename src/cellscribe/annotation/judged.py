"""What is known of how good labels are, gathered once they are learnt, for a page and as JSON.

``metrics.json`` of a fine-tuned model is `Judged.metrics`; its page, and that of cells which the
model labels later, are made of it.

Letters: ``B`` labelled cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.compare import (
    Way,
    baselines,
    compare,
    draw_cells,
    empty,
    head_way,
    neighbours,
)
from cellscribe.annotation.labels import Labelled, rows_of
from cellscribe.annotation.scorecard import HeldOutScores, score
from cellscribe.callbacks import Progress, no_progress
from cellscribe.inference.session import Cells
from cellscribe.model.heads import best_of

if TYPE_CHECKING:
    from cellscribe.config.finetune import CalibrationOptions

METRICS, PAGE = "metrics.json", "report.html"
FORMAT = "cellscribe label metrics"
MOST_SHOWN = 3_000
"""Cells on a map."""
HEAD = "head"
"""The way that is cheap enough to be fitted anew on the cells that are compared."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Trainer = Callable[[Labelled, Floats, Integers, Progress], tuple[list[Way], dict[str, str]]]
"""Trains layers on cells with labels, vectors and folds; what it left out, and why."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Labels that were learnt, and what held-out cells were told."""

    name: str
    """Of the way that is saved."""
    label: str
    """Column of the labels."""
    labelled: Labelled
    vectors: Floats
    """``[B, D]`` of the frozen encoder."""
    folds: Integers
    tested: npt.NDArray[np.bool_]
    """``[B]`` cells that were held out."""
    logits: npt.NDArray[np.float64]
    """``[cells of tested, C]``."""
    known: Floats | None
    """``[B]`` probability of a known type."""
    seconds: float | None = None

    def held_out(self) -> HeldOutScores:
        """Scores of the held-out cells."""
        groups = self.labelled.groups
        return HeldOutScores(
            labels=self.labelled.labels,
            logits=self.logits,
            truth=self.labelled.truth[self.tested],
            folds=self.folds[self.tested],
            groups=None if groups is None else groups[self.tested],
            known=None if self.known is None else self.known[self.tested],
        )

    def way(self, drawn: Integers) -> Way:
        """As one of the ways that are compared, on the cells that are drawn."""
        n_cells = len(self.labelled.truth)
        logits = empty(self.labelled.truth, len(self.labelled.labels))
        logits[self.tested] = self.logits
        return Way(
            name=self.name,
            kind="ours",
            logits=logits[drawn],
            seconds=self.seconds,
            known=None if self.known is None else self.known[drawn],
            learnt_from=None if len(drawn) == n_cells else n_cells,
        )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Cells of a map: labels that were given, or held-out ones, and how sure they are."""

    vectors: Floats
    """``[S, D]``."""
    names: list[str]
    """``[S]`` label of each."""
    probability: Floats
    """``[S]``."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The figures of one column of labels, and the cells of its map."""

    metrics: dict[str, Any]
    shown: Shown | None


def judge_learnt(
    learnt: Learnt,
    sources: Sequence[Cells],
    options: CalibrationOptions,
    *,
    train: Trainer | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Score what was learnt, label by label, and fit the baselines on the same folds.

    Parameters
    ----------
    learnt
        The labels and the scores of held-out cells.
    sources
        Opened files, for the baselines.
    options
        Wanted accuracy and seed.
    train
        Trains layers for a comparison, which then has the nearest cells and the head too.
    progress
        Called with (done, in all, name of the step).
    """
    found = learnt.held_out().calibrated(options.accuracy)
    metrics = {
        "label": learnt.label,
        "group": options.group,
        "saved": learnt.name,
        "labelled": learnt.labelled.counts(),
        "folds": len(np.unique(learnt.folds[learnt.tested])),
        "held_out": score(found),
        "comparison": _compare(learnt, sources, options, train, progress or no_progress),
    }
    rows = np.flatnonzero(learnt.tested)
    some = np.sort(np.random.default_rng(options.seed).permutation(len(rows))[:MOST_SHOWN])
    shown = Shown(
        vectors=learnt.vectors[rows[some]],
        names=[learnt.labelled.labels[code] for code in found.truth[some]],
        probability=best_of(found.each)[1][some],
    )
    return Judged(metrics=metrics, shown=shown)


def _compare(
    learnt: Learnt,
    sources: Sequence[Cells],
    options: CalibrationOptions,
    train: Trainer | None,
    progress: Progress,
) -> dict[str, Any]:
    """Compare what was learnt with the baselines, and with all that can be trained."""
    n_cells = len(learnt.labelled.truth)
    drawn = draw_cells(n_cells, options.seed)
    labelled, folds = some_of(learnt.labelled, drawn), learnt.folds[drawn]
    vectors, held_out = learnt.vectors[drawn], np.unique(learnt.folds[learnt.tested])
    ways: list[Way] = []
    left_out: dict[str, str] = {}
    if learnt.name == HEAD and len(drawn) < n_cells:
        ways.append(head_way(vectors, labelled, folds))
    else:
        ways.append(learnt.way(drawn))
    if train is not None:
        ways.append(neighbours(vectors, labelled, folds, held_out, progress))
        if learnt.name != HEAD:
            ways.append(head_way(vectors, labelled, folds))
        trained, left_out = train(labelled, vectors, folds, progress)
        ways += trained
    ways += baselines(
        sources,
        learnt.labelled,
        drawn,
        learnt.folds,
        held_out,
        both=train is not None,
        seed=options.seed,
        progress=progress,
    )
    found = compare(
        ways, labelled, folds, accuracy=options.accuracy, saved=learnt.name, seed=options.seed
    )
    return found | {"of_cells": n_cells, "left_out": left_out}


def some_of(labelled: Labelled, kept: Integers) -> Labelled:
    """Some of the labelled cells, by their places."""
    mask = np.zeros(len(labelled.truth), bool)
    mask[kept] = True
    return replace(
        labelled,
        rows=rows_of(labelled.rows, mask),
        truth=labelled.truth[mask],
        groups=None if labelled.groups is None else labelled.groups[mask],
    )


def metrics_text(judged: Sequence[Judged]) -> str:
    """``metrics.json``, with an entry for each column of labels."""
    kept = {"format": FORMAT, "version": 1, "columns": [each.metrics for each in judged]}
    return json.dumps(kept, ensure_ascii=False) + "\n"
