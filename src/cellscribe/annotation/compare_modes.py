"""Layers and adapters trained for a comparison, on the same cells and folds as everything else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.compare import Way
from cellscribe.annotation.held_out import Training
from cellscribe.annotation.labels import Labelled
from cellscribe.annotation.targets import ClassTarget
from cellscribe.annotation.trained import training_on
from cellscribe.annotation.tuning import check_trainable
from cellscribe.callbacks import Progress
from cellscribe.config import FinetuneOptions
from cellscribe.config.finetune import Mode
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells, Session

MODES: tuple[Mode, ...] = ("last", "lora")
"""What `--compare` trains besides the mode that is saved; all of a model takes far longer."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]


def trained_ways(
    session: Session,
    sources: Sequence[Cells],
    labelled: Labelled,
    vectors: Floats,
    folds: Integers,
    options: FinetuneOptions,
    progress: Progress,
) -> tuple[list[Way], dict[str, str]]:
    """Train each of `MODES` but the one that is saved, with every fold held out in turn.

    Parameters
    ----------
    session, sources
        The model, and opened files.
    labelled, vectors, folds
        The cells that are compared.
    options
        The recipe; of it all but the mode is taken.
    progress
        Called with (cells done, cells in all, name of the step).

    Returns
    -------
    ways
        Those that could be trained.
    left_out
        By mode, why it could not be: a package is missing, or the model has no such layers.
    """
    model = session.header.load(session.embedder.options).cells
    target = ClassTarget(truth=labelled.truth, n_labels=len(labelled.labels))
    ways: list[Way] = []
    left_out: dict[str, str] = {}
    for mode in MODES:
        if mode == options.mode:
            continue
        own = replace(options, mode=mode, calibration_folds=len(np.unique(folds)), trials=None)
        training = training_on(
            session, model, sources, labelled.rows, [target], vectors, folds, labelled.truth, own
        )
        try:
            check_trainable(model, own)
            ways.append(_train(training, mode, session, progress))
        except InputError as error:
            left_out[mode] = str(error)
            session.log(f"{mode} is left out of the comparison: {error}")
    return ways, left_out


def _train(training: Training, mode: Mode, session: Session, progress: Progress) -> Way:
    """Train one mode on all folds."""

    def step(done: int, total: int, what: str | None = None) -> None:
        progress(done, total, f"Comparing: {mode}, {(what or '').lower()}")

    begin = time.monotonic()
    (found,) = training.hold_out(training.tokens(), step, session.log)
    (target,) = training.targets
    logits = np.full((len(training.folds), target.n_outputs), np.nan)
    logits[found.tested] = found.logits[found.tested]
    return Way(name=mode, kind="ours", logits=logits, seconds=time.monotonic() - begin)
