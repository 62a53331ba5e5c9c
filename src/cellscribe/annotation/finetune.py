"""Learn labels: from labelled cells to a model directory with a calibrated head.

With ``mode = "head"`` a logistic regression on the frozen encoder's vectors is the head; otherwise
layers are trained from there on. Temperature and threshold come from groups that were held out of
a training of their own; the model that is saved has learnt from all cells. It is a checkpoint like
any other, with its head next to the weights.

Letters: ``B`` labelled cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import Calibration, calibrate, log_calibration
from cellscribe.annotation.domain import HeldOutDistances, fit_domain
from cellscribe.annotation.judged import METRICS, PAGE, Judged, Learnt, judge_learnt, metrics_text
from cellscribe.annotation.labels import Labelled
from cellscribe.annotation.linear import LinearHead, fit_head
from cellscribe.annotation.model_readme import card
from cellscribe.annotation.several_labels import LabelColumns
from cellscribe.annotation.targets import ClassTarget
from cellscribe.annotation.trained import (
    embed_rows,
    train,
    trained_model,
    training_on,
    vectors_after,
)
from cellscribe.callbacks import Log, Progress
from cellscribe.config import FinetuneOptions
from cellscribe.families.saving import save_trained
from cellscribe.inference.session import Cells, Session
from cellscribe.model.checksums import seal
from cellscribe.model.heads import Head
from cellscribe.model.several_heads import NumberHead, name_of, save_heads
from cellscribe.training.trained_cells import TRAINED_CELLS
from cellscribe.writing import writing

if TYPE_CHECKING:
    from cellscribe.annotation.held_out import HeldOut
    from cellscribe.annotation.tuning import Tuned
    from cellscribe.families.base import CellModel
    from cellscribe.inference.embedder import Embedder

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LearntColumn:
    """A head of labels, and what it said of held-out cells."""

    name: str
    """Of the column, or of the list of genes."""
    head: Head
    calibration: Calibration
    labelled: Labelled
    """All cells that it learnt from."""
    logits: npt.NDArray[np.float64]
    """``[H, C]`` scores of the held-out cells, before the temperature."""
    tested: npt.NDArray[np.bool_]
    """Which of the cells of `labelled` these are."""
    folds: npt.NDArray[np.int64]
    """Of each cell of `labelled`, the fold in which it is held out."""
    known: npt.NDArray[np.float64]
    """Of each cell of `labelled`, the probability of being of any known type."""


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What `finetune_model` made."""

    columns: list[LearntColumn]
    """One for each column of labels."""
    epochs: int
    """Passes over the cells where layers are trained."""
    judged: Sequence[Judged] = ()
    """Figures of each column on held-out cells, and of the baselines, where they were asked for."""

    def lines(self, mode: str) -> list[str]:
        """What was learnt and how it fared, for the terminal."""
        found = []
        for each in self.columns:
            n, of = each.labelled.counts(), each.head.of
            name = f"{each.name}: " if len(self.columns) > 1 else ""
            found += [
                f"{name}{sum(n.values()):,} {of} of {len(n)} labels learnt with --mode {mode}.",
                f"{name}{each.calibration.summary(of)}",
            ]
        return found

    @property
    def head(self) -> Head:
        """That of the first column."""
        return self.columns[0].head

    @property
    def calibration(self) -> Calibration:
        """That of the first column."""
        return self.columns[0].calibration

    @property
    def labelled(self) -> Labelled:
        """Cells of the first column."""
        return self.columns[0].labelled


Page = Callable[[Sequence[Judged], Mapping[str, Any]], str]
"""Makes a page of figures, and of what a head's header says."""


def finetune_model(
    session: Session,
    sources: Sequence[Cells],
    columns: LabelColumns,
    out: Path,
    options: FinetuneOptions,
    *,
    page: Page | None = None,
    progress: Progress | None = None,
) -> Finetuned:
    """Fine-tune a model on labelled cells and save it.

    Parameters
    ----------
    session
        The model and the device.
    sources
        Opened files of raw counts.
    columns
        Their labels, from `read_columns`.
    out
        The new model's directory; it appears whole or not at all.
    options
        Columns, mode and recipe.
    page
        Makes the page that stands next to the weights.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        Bad input, see `fit_head` and `tune`.
    """
    trained = trained_model(session, options)
    vectors, filled = embed_rows(session, sources, columns.rows, progress)
    columns = columns.keep(filled)
    columns.check([each.counts for each in sources], options.group, session.log)
    folds = columns.folds(options.folds, options.seed)
    columns.warn_of_contradictions(vectors, folds, options.seed, session.log)
    frozen, begin = vectors, time.monotonic()
    if options.compare:
        options = replace(options, calibration_folds=len(np.unique(folds)))
    tuned: Tuned | None = None
    trials: list[dict[str, Any]] = []
    if trained is None:
        found = columns.for_each(
            lambda name, labelled: _fit(vectors, folds, columns.places[name], labelled)
        )
    else:
        training = training_on(
            session, trained, sources, columns.rows, targets_of(columns, options), vectors, folds,
            columns.strata(options.folds), options,
        )  # fmt: skip
        tuned, held_out, trials, options = train(session, training, progress)
        vectors = vectors_after(tuned, training)
        heads = tuned.model.linear_heads()
        found = {
            name: _held_out(head, each, columns.places[name])
            for (name, head, each) in zip(columns.columns, heads, held_out, strict=True)
        }
    learnt = []
    for name, labelled in columns.columns.items():
        at = columns.places[name]
        told = columns.log_of(name, session.log)
        learnt.append(
            _calibrated(session, name, labelled, vectors[at], folds[at], found[name], options,
                        trials, tuned, told)
        )  # fmt: skip
    judged: list[Judged] = []
    if page is not None or options.compare:
        seconds = time.monotonic() - begin
        judged = [
            _judged(session, sources, each, frozen[columns.places[each.name]], seconds, options,
                    progress)
            for each in learnt
        ]  # fmt: skip
    more = {METRICS: metrics_text(judged)} if judged else {}
    if page is not None:
        more[PAGE] = page(judged, learnt[0].head.about)
    save_finetuned(out, session, [each.head for each in learnt], tuned, more)
    return Finetuned(columns=learnt, epochs=tuned.epochs if tuned else 0, judged=judged)


def _judged(
    session: Session,
    sources: Sequence[Cells],
    column: LearntColumn,
    vectors: Floats,
    seconds: float,
    options: FinetuneOptions,
    progress: Progress | None,
) -> Judged:
    """Score a column and compare; `vectors` are those of the frozen encoder."""

    def train(labelled: Labelled, vectors: Any, folds: Any, progress: Progress) -> Any:
        from cellscribe.annotation.compare_modes import trained_ways

        return trained_ways(session, sources, labelled, vectors, folds, options, progress)

    learnt = Learnt(
        name=options.mode,
        label=column.name,
        labelled=column.labelled,
        vectors=vectors,
        folds=column.folds,
        tested=column.tested,
        logits=column.logits,
        known=column.known,
        seconds=seconds,
    )
    given = train if options.compare else None
    return judge_learnt(learnt, sources, options, train=given, progress=progress)


def targets_of(columns: LabelColumns, options: FinetuneOptions) -> list[ClassTarget]:
    """What the heads of several columns learn."""
    weights = options.loss_weights
    return [
        ClassTarget(truth=columns.truth(name), n_labels=len(each.labels), weight=weights[name])
        for name, each in columns.columns.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A head of a column, and its scores ``[H, C]`` of held-out cells, `tested` among its own."""

    head: LinearHead
    logits: npt.NDArray[np.float64]
    tested: npt.NDArray[np.bool_]
    how: str
    distances: HeldOutDistances | None = None


def _fit(vectors: Floats, folds: Any, at: Any, labelled: Labelled) -> _Fitted:
    """Fit the head of a column on vectors that do not change."""
    head, logits, tested = fit_head(vectors[at], labelled, folds[at])
    how = "each fold of groups by a head that did not see it"
    return _Fitted(head=head, logits=logits, tested=tested, how=how)


def _held_out(head: LinearHead, found: HeldOut, at: Any) -> _Fitted:
    """Take the cells of a column out of what trainings gave for all cells."""
    tested = found.tested[at]
    return _Fitted(
        head=head,
        logits=found.logits[at][tested],
        tested=tested,
        how=found.how,
        distances=found.distances.some(at),
    )


def _calibrated(
    session: Session,
    name: str,
    labelled: Labelled,
    vectors: Floats,
    folds: npt.NDArray[np.int64],
    found: _Fitted,
    options: FinetuneOptions,
    trials: list[dict[str, Any]],
    tuned: Tuned | None,
    log: Log,
) -> LearntColumn:
    """Calibrate the head of a column on its held-out cells."""
    how, tested = found.how, found.tested
    if labelled.groups is None:
        how = how.replace("groups", "cells drawn at random")
    domain, known = fit_domain(
        vectors,
        labelled.truth,
        len(labelled.labels),
        folds,
        grouped=labelled.groups is not None,
        seed=options.seed,
        held_out=found.distances,
    )
    calibration = calibrate(
        found.logits, labelled.truth[tested], folds[tested], options.accuracy, known=known[tested]
    )
    log_calibration(calibration, log)
    weight, bias = found.head.folded()
    facts = about(session.embedder, name, labelled, calibration, how, tuned, options)
    return LearntColumn(
        name=name,
        head=Head(
            labels=labelled.labels,
            weight=weight.astype(np.float32),
            bias=bias.astype(np.float32),
            temperature=calibration.temperature,
            threshold=calibration.threshold,
            about=facts | ({"trials": trials} if trials else {}),
            tensors=domain.tensors(),
        ),
        calibration=calibration,
        labelled=labelled,
        logits=found.logits,
        tested=tested,
        folds=folds,
        known=known,
    )


def about(
    embedder: Embedder,
    name: str,
    labelled: Labelled,
    calibration: Calibration,
    how: str,
    tuned: Tuned | None,
    options: FinetuneOptions,
) -> dict[str, Any]:
    """What a head's header says of where it comes from."""
    return {
        "mode": options.mode,
        "label": name,
        "group": options.group,
        "model": {"name": embedder.header.name, "hash": embedder.hash},
        "calibration": {"held_out_by": how, **calibration.as_json()},
        "cells": labelled.counts(),
        "left_out": labelled.left_out,
        "sources": labelled.sources,
        "epochs": tuned.epochs if tuned else 0,
        "options": plain_options(options),
        "cellscribe": metadata.version("cellscribe"),
    }


def plain_options(options: FinetuneOptions) -> dict[str, Any]:
    """Options as JSON holds them; those of several columns only where there are several."""
    found = asdict(options)
    found["gene_list"] = options.gene_list and str(options.gene_list)
    found["label"] = list(options.labels) if len(options.labels) > 1 else (*options.labels, None)[0]
    for name in ("loss_weight", "target", "coverage"):
        if not found[name]:
            del found[name]
    return found


def save_finetuned(
    out: Path,
    session: Session,
    heads: Sequence[Head | NumberHead],
    tuned: Tuned | None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write the model's directory, with `more` texts by name; it appears whole or not at all.

    Where only a head was trained, the weights are the very file of the model that was given.
    """
    header, folder = session.header, session.header.directory
    names = ", ".join(name_of(head) for head in heads)
    note = {"fine-tuned": f"{heads[0].about['mode']} on {names}, see head.json"}
    provenance = {**header.provenance, **note}
    trained: CellModel | None = None
    if tuned is not None:
        from cellscribe.annotation.tuning import merge_adapters

        trained = tuned.model.model
        merge_adapters(trained.trained_parts())
        trained.network.cpu()
    with writing(out) as partial:
        readme = card(header.name, heads, provenance.get("licence"))
        save_trained(partial, header, session.embedder.options, provenance, readme, trained)
        save_heads(partial, heads)
        for name, text in (more or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        if (folder / TRAINED_CELLS).exists():  # what the base knows, this model knows
            shutil.copyfile(folder / TRAINED_CELLS, partial / TRAINED_CELLS)
        seal(partial)
