"""Ways to label cells, compared on the same held-out cells: ours, and what needs no model.

Every way learns from the same cells and is asked for the same ones, fold by fold, calibrated in the
same manner. The best is that of the highest macro F1, whosever it is; another is within the noise
of it where the interval of their difference holds 0. Resamples are of whole groups and of cells
within them, and all ways are scored on the same ones, so that what they share cancels.

Letters: ``B`` labelled cells, ``C`` labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import fit_temperature, log_loss
from cellscribe.annotation.domain import standardisation
from cellscribe.annotation.labels import Labelled, learnable
from cellscribe.annotation.linear import fit_head
from cellscribe.annotation.neighbors import search_cells, vote
from cellscribe.annotation.peers import (
    PENALTIES,
    celltypist_scores,
    read_logs,
    regression_scores,
)
from cellscribe.annotation.scorecard import HeldOutScores, Predictions, score
from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.inference.session import Cells

MOST_CELLS = 4_000
"""Cells that are compared; of more a random part is drawn, for a baseline reads all genes."""
DRAWS = 500
"""Resamples of the intervals."""
NEIGHBORS = 15
REGRESSION, CELLTYPIST = "logistic regression on genes", "CellTypist's recipe"
CHOSEN_GENES = "CellTypist's recipe, genes chosen first"

Kind = Literal["ours", "baseline"]
Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to label cells, and its scores of held-out cells."""

    name: str
    kind: Kind
    logits: npt.NDArray[np.float64]
    """``[B, C]``; NaN where a cell was not held out."""
    seconds: float | None
    """Of all folds; None where it was not measured."""
    known: Floats | None = None
    """``[B]`` probability of a known type, where it tells."""
    learnt_from: int | None = None
    """Labelled cells, where they are not those of the others."""

    @property
    def tested(self) -> Flags:
        """``[B]`` cells that were held out."""
        return np.asarray(~np.isnan(self.logits).any(axis=1))


def draw_cells(n_cells: int, seed: int) -> npt.NDArray[np.int64]:
    """Cells that are compared, ascending: all, or `MOST_CELLS` at random."""
    if n_cells <= MOST_CELLS:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, MOST_CELLS, replace=False))


def baselines(
    sources: Sequence[Cells],
    labelled: Labelled,
    drawn: Integers,
    folds: Integers,
    held_out: Integers,
    *,
    both: bool,
    seed: int,
    progress: Progress | None,
) -> list[Way]:
    """Fit what needs no model.

    Parameters
    ----------
    sources, labelled
        Opened files, and their labels.
    drawn
        Places of the cells that are compared among the labelled ones.
    folds
        ``[B]`` of `labelled`.
    held_out
        Folds that are held out in turn.
    both
        Whether CellTypist's recipe is also fitted with its choice of genes.
    seed
        Of that choice.
    progress
        Called with (done, in all, name of the step).

    Raises
    ------
    InputError
        The files share no gene.
    """
    step = in_step(progress, "Reading counts for the baselines")
    begin = time.monotonic()
    logs = read_logs(sources, labelled.rows, drawn, step)
    reading = time.monotonic() - begin
    truth, n_labels, folds = labelled.truth[drawn], len(labelled.labels), folds[drawn]
    tried: dict[float, npt.NDArray[np.float64]] = {}

    def regression(learn: Flags, away: Flags) -> npt.NDArray[np.float64]:
        found = regression_scores(logs, truth, n_labels, learn, away)
        for penalty in PENALTIES:
            tried.setdefault(penalty, empty(truth, n_labels))[away] = found[penalty]
        return found[PENALTIES[0]]

    def celltypist(learn: Flags, away: Flags) -> npt.NDArray[np.float64]:
        return celltypist_scores(logs, truth, n_labels, learn, away)

    def chosen_genes(learn: Flags, away: Flags) -> npt.NDArray[np.float64]:
        return celltypist_scores(logs, truth, n_labels, learn, away, seed)

    ways = [(REGRESSION, regression), (CELLTYPIST, celltypist)]
    ways += [(CHOSEN_GENES, chosen_genes)] if both else []
    found = []
    for name, predict in ways:
        logits, seconds = by_fold(predict, name, truth, n_labels, folds, held_out, progress)
        if name == REGRESSION:
            logits = _best_penalty(tried, truth)
        found.append(Way(name=name, kind="baseline", logits=logits, seconds=reading + seconds))
    return found


def neighbours(
    vectors: Floats,
    labelled: Labelled,
    folds: Integers,
    held_out: Integers,
    progress: Progress | None,
) -> Way:
    """Votes of the nearest cells by their vectors, standardised by the cells that are learnt."""
    truth, n_labels = labelled.truth, len(labelled.labels)

    def votes(learn: Flags, away: Flags) -> npt.NDArray[np.float64]:
        mean, scale = standardisation(vectors[learn])
        search = search_cells((vectors[learn] - mean) / scale, NEIGHBORS)
        shares = vote(search, truth[learn], n_labels, (vectors[away] - mean) / scale)
        with np.errstate(divide="ignore"):
            return np.log(shares)

    name = f"{NEIGHBORS} nearest cells"
    logits, seconds = by_fold(votes, name, truth, n_labels, folds, held_out, progress)
    return Way(name=name, kind="ours", logits=logits, seconds=seconds)


def head_way(vectors: Floats, labelled: Labelled, folds: Integers) -> Way:
    """The head that ``--mode head`` trains."""
    begin = time.monotonic()
    _, found, tested = fit_head(vectors, labelled, folds)
    logits = empty(labelled.truth, len(labelled.labels))
    logits[tested] = found
    return Way(name="head", kind="ours", logits=logits, seconds=time.monotonic() - begin)


def empty(truth: Integers, n_labels: int) -> npt.NDArray[np.float64]:
    """Scores of cells none of which was held out yet."""
    return np.full((len(truth), n_labels), np.nan)


def by_fold(
    predict: Callable[[Flags, Flags], npt.NDArray[np.float64]],
    name: str,
    truth: Integers,
    n_labels: int,
    folds: Integers,
    held_out: Integers,
    progress: Progress | None,
) -> tuple[npt.NDArray[np.float64], float]:
    """Scores of each held-out fold by what learnt from the others, and the seconds of all."""
    logits, begin = empty(truth, n_labels), time.monotonic()
    for done, fold in enumerate(held_out.tolist()):
        if progress is not None:
            progress(done, len(held_out), f"Comparing: {name}")
        away = folds == fold
        if away.any() and (~away).any():
            logits[away] = predict(~away, away)
    return logits, time.monotonic() - begin


def _best_penalty(
    tried: dict[float, npt.NDArray[np.float64]], truth: Integers
) -> npt.NDArray[np.float64]:
    """Scores of the penalty that serves held-out cells best, as `fit_head` chooses it."""

    def loss(logits: npt.NDArray[np.float64]) -> float:
        own = logits[np.arange(len(truth)), truth]
        scored = np.isfinite(own)
        if not scored.any():
            return np.inf
        some, right = logits[scored], truth[scored]
        return log_loss(some, right, fit_temperature(some, right))

    return min(tried.values(), key=loss)


def compare(
    ways: Sequence[Way],
    labelled: Labelled,
    folds: Integers,
    *,
    accuracy: float,
    saved: str,
    seed: int,
) -> dict[str, Any]:
    """Score ways on the cells that all of them were asked for.

    Parameters
    ----------
    ways
        Scores of the cells of `labelled`.
    labelled, folds
        The cells that are compared.
    accuracy
        Wanted among called cells.
    saved
        Name of the way that is saved, or that labels the query.
    seed
        Of the resamples.

    Returns
    -------
    dict
        Plain values: ``ways`` (rows, best first: name, kind, saved, figures, ``low`` and ``high``
        of macro F1, ``gap`` to the best with its interval, ``within_noise``), ``best``,
        ``sentence``, ``cells``, ``folds``, ``groups``.
    """
    tested = np.logical_and.reduce([way.tested for way in ways])
    for fold in np.unique(folds):
        away = folds == fold
        tested &= ~away | learnable(labelled.truth, ~away, away)
    truth = labelled.truth[tested]
    groups = None if labelled.groups is None else labelled.groups[tested]
    found = {
        way.name: HeldOutScores(
            labels=labelled.labels,
            logits=way.logits[tested],
            truth=truth,
            folds=folds[tested],
            groups=groups,
            known=None if way.known is None else way.known[tested],
        ).calibrated(accuracy)
        for way in ways
    }
    draws = resampled_f1({name: each.best for name, each in found.items()}, truth, groups, seed)
    rows = [_row(way, found[way.name], draws[way.name], saved) for way in ways]
    rows.sort(key=lambda row: (-row["macro_f1"], row["name"]))
    best = rows[0]["name"]
    for row in rows:
        low, high = np.percentile(draws[best] - draws[row["name"]], (2.5, 97.5))
        gap = rows[0]["macro_f1"] - row["macro_f1"]
        row |= {"gap": gap, "gap_low": float(low), "gap_high": float(high)}
        row["within_noise"] = row["name"] == best or bool(low <= 0)
    return {
        "best": best,
        "sentence": sentence(rows),
        "ways": rows,
        "cells": int(tested.sum()),
        "learnt_from": len(folds),
        "folds": len(np.unique(folds[tested])),
        "groups": 0 if groups is None else len(np.unique(groups.astype(str))),
    }


FIGURES = (
    "cells", "accuracy", "macro_f1", "brier", "error", "coverage", "accuracy_called", "roc_auc",
    "average_precision",
)  # fmt: skip
"""Of `score`, that a comparison has."""


def _row(way: Way, found: Predictions, draws: Floats, saved: str) -> dict[str, Any]:
    figures = score(found)
    low, high = np.percentile(draws, (2.5, 97.5))
    return {
        "name": way.name,
        "kind": way.kind,
        "saved": way.name == saved,
        **{name: figures[name] for name in FIGURES},
        "low": float(low),
        "high": float(high),
        "seconds": way.seconds,
        "learnt_from": way.learnt_from,
        "f1": {row["label"]: row["f1"] for row in figures["labels"] if row["support"]},
    }


def resampled_f1(
    best: dict[str, Integers], truth: Integers, groups: npt.NDArray[np.object_] | None, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Macro F1 of each way under the same `DRAWS` resamples of groups, and of cells in each.

    Parameters
    ----------
    best
        ``[B]`` predicted labels by way.
    truth
        ``[B]``.
    groups
        ``[B]``; without, cells alone are drawn.
    seed
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    codes = np.zeros(len(truth), np.int64)
    if groups is not None:
        codes = np.unique(groups.astype(str), return_inverse=True)[1]
    rows_of = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    n_labels = int(max(truth.max(), *(each.max() for each in best.values()))) + 1
    found = {name: np.empty(DRAWS) for name in best}
    for draw in range(DRAWS):
        drawn = rng.integers(len(rows_of), size=len(rows_of)) if len(rows_of) > 1 else [0]
        parts = [rows_of[code] for code in drawn]
        rows = np.concatenate([part[rng.integers(len(part), size=len(part))] for part in parts])
        for name, each in best.items():
            found[name][draw] = macro_f1(truth[rows], each[rows], n_labels)
    return found


def macro_f1(truth: Integers, best: Integers, n_labels: int) -> float:
    """Mean F1 over the labels that are there; fast, for resamples."""
    pairs = np.bincount(truth * n_labels + best, minlength=n_labels**2).reshape(n_labels, n_labels)
    right, own, called = np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0)
    there = own > 0
    return float((2 * right[there] / (own + called)[there]).mean())


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    """Say which way is best, ours or not, and which are as good as anyone can tell."""
    best, rest = rows[0], rows[1:]
    whose = "ours" if best["kind"] == "ours" else "not ours"
    text = (
        f"Best on these data is {best['name']} ({whose}): macro F1 {best['macro_f1']:.3f} on "
        f"held-out cells ({best['low']:.3f} to {best['high']:.3f})"
    )
    near = [f"{row['name']} ({row['macro_f1']:.3f})" for row in rest if row["within_noise"]]
    if near:
        text += f"; within noise of it: {', '.join(near)}"
    saved = next((row for row in rest if row["saved"]), None)
    if saved is not None and not saved["within_noise"]:
        text += (
            f"; what labels cells here, {saved['name']}, is worse by {saved['gap']:.3f} "
            f"({saved['gap_low']:.3f} to {saved['gap_high']:.3f})"
        )
    return f"{text}."


def tell(found: dict[str, Any], log: Log) -> None:
    """Print a comparison: the sentence, then a line for each way."""
    log(found["sentence"])
    for row in found["ways"]:
        noise = ""
        if row["name"] != found["best"]:
            noise = ", within noise" if row["within_noise"] else f", worse by {row['gap']:.3f}"
        seconds = "" if row["seconds"] is None else f", {row['seconds']:,.1f} s"
        log(
            f"  {row['macro_f1']:.3f} ({row['low']:.3f} to {row['high']:.3f})  {row['name']}"
            f"{noise}{seconds}"
        )
    for name, why in found.get("left_out", {}).items():
        log(f"  left out: {name}: {why}")
