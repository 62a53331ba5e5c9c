"""What a page of annotated cells shows besides their labels, taken while they are annotated.

A few thousand vectors, drawn at random, for a map; and what is known of how good the labels are:
kept with a fine-tuned model, or measured on the held-out groups of a reference.

Letters: ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.judged import MOST_SHOWN, Learnt, judge_learnt
from cellscribe.annotation.labels import Labelled
from cellscribe.annotation.reference import Reference
from cellscribe.callbacks import Progress
from cellscribe.config import AnnotateOptions
from cellscribe.inference.session import Cells

Floats = npt.NDArray[np.floating]


class Seen:
    """Cells and figures for a page.

    Attributes
    ----------
    rows, vectors
        Rows of the cells that are shown, ascending, and their vectors ``[S, D]``, block by block.
    metrics
        Of each column of labels, as `Judged.metrics`; empty where nothing was held out.
    """

    def __init__(self) -> None:
        self.rows: list[npt.NDArray[np.intp]] = []
        self.vectors: list[Floats] = []
        self.metrics: list[dict[str, Any]] = []

    def take(
        self, blocks: Iterable[tuple[npt.NDArray[np.intp], Floats]], n_cells: int, seed: int
    ) -> None:
        """Keep the vectors of at most `MOST_SHOWN` cells, drawn at random."""
        drawn = np.random.default_rng(seed).permutation(n_cells)[:MOST_SHOWN]
        wanted = np.zeros(n_cells, bool)
        wanted[drawn] = True
        for rows, vectors in blocks:
            self.rows.append(rows[wanted[rows]])
            self.vectors.append(vectors[wanted[rows]])

    def judge(
        self,
        fitted: Reference,
        opened: Cells,
        labelled: Labelled,
        vectors: Floats,
        options: AnnotateOptions,
        progress: Progress | None,
    ) -> None:
        """Score a reference on its held-out groups, and fit the baselines on the same folds."""
        learnt = Learnt(
            name="annotate --reference",
            label=str(options.label),
            labelled=labelled,
            vectors=vectors,
            folds=fitted.folds,
            tested=fitted.tested,
            logits=fitted.logits,
            known=fitted.known,
        )
        self.metrics.append(judge_learnt(learnt, [opened], options, progress=progress).metrics)
