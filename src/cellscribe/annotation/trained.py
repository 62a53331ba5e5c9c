"""The steps that every fine-tuning of cells goes through, whatever its heads learn.

Vectors of the cells that are learnt from, the model whose layers are trained, a search for a
recipe where one is asked for, and the trainings.

Letters: ``B`` cells that are learnt from, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress, in_step, no_progress
from cellscribe.config import FinetuneOptions
from cellscribe.inference.session import Cells, Session

if TYPE_CHECKING:
    from cellscribe.annotation.held_out import HeldOut, Training
    from cellscribe.annotation.targets import Target
    from cellscribe.annotation.tuning import Tuned
    from cellscribe.families.base import CellModel

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


def trained_model(session: Session, options: FinetuneOptions) -> CellModel | None:
    """Load the model whose layers are trained; None with ``mode = "head"``.

    Raises
    ------
    InputError
        The model cannot be trained so, or a package that it takes is not installed.
    """
    if options.mode == "head":
        return None
    from cellscribe.annotation.tuning import check_trainable

    # The embedder's weights are rounded to the type of its products; these are trained, saved.
    trained = session.header.load(session.embedder.options).cells
    check_trainable(trained, options)
    if options.trials is not None:
        from cellscribe.annotation.trials import need_optuna

        need_optuna()
    return trained


def embed_rows(
    session: Session,
    sources: Sequence[Cells],
    rows: Sequence[Integers],
    progress: Progress | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Embed some rows of each source.

    Returns
    -------
    vectors
        ``[B, D]`` of the cells that are not empty.
    filled
        Which of the rows these are: those with a count on a gene that the model knows.
    """
    step = in_step(progress, "Embedding")
    vectors = np.concatenate(
        [
            session.embedder.embed_counts(each.counts, each.genes, progress=step)[0][some]
            for each, some in zip(sources, rows, strict=True)
        ]
    ).astype(np.float64)
    filled = np.asarray(vectors.any(axis=1))
    return vectors[filled], filled


def training_on(
    session: Session,
    trained: CellModel,
    sources: Sequence[Cells],
    rows: Sequence[Integers],
    targets: Sequence[Target],
    vectors: Floats,
    folds: Integers,
    strata: Integers,
    options: FinetuneOptions,
) -> Training:
    """Make what trainings share, see `Training`."""
    from cellscribe.annotation.held_out import Training

    return Training(
        model=trained,
        untrained=session.header.untrained is not None,
        sources=sources,
        rows=rows,
        targets=targets,
        vectors=vectors,
        folds=folds,
        strata=strata,
        options=options,
        device=session.embedder.device,
        precision=session.embedder.precision,
    )


def train(
    session: Session, training: Training, progress: Progress | None
) -> tuple[Tuned, list[HeldOut], list[dict[str, Any]], FinetuneOptions]:
    """Search for a recipe where that is asked for, and train.

    Returns
    -------
    tuned
        On all cells.
    held_out
        Of each target.
    trials
        What was tried.
    options
        Those that were trained with.
    """
    options = training.options
    trials: list[dict[str, Any]] = []
    if options.trials is not None:
        from cellscribe.annotation.trials import search

        options, trials = search(training, progress or no_progress, session.log)
        training = replace(training, options=options)
    tuned, held_out = training.run(progress or no_progress, session.log)
    return tuned, held_out, trials, options


def vectors_after(tuned: Tuned, training: Training) -> npt.NDArray[np.float64]:
    """Vectors of all cells by the trained model, ``[B, D]``."""
    from cellscribe.annotation.tuning import vectors_of

    return vectors_of(tuned.model, training.tokens(), np.arange(len(training.folds)))
