"""Calls of all cells of a file by one head or reference.

What is kept of a cell is its best labels and their probability, so memory does not grow with the
counts. A cell that is not called, and one without a count on a known gene, is ``unknown``.

Letters: ``B`` cells, ``C`` labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.calls import Caller
from cellscribe.annotation.embedded import EmbeddedCells
from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.config import AnnotateOptions
from cellscribe.model.heads import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What each cell of a file is called."""

    labels: list[str]
    best: npt.NDArray[np.int32]
    """``[B]`` best class, -1 for a cell without a count on a known gene."""
    second: npt.NDArray[np.int32]
    """``[B]`` second best class, likewise."""
    probability: npt.NDArray[np.float32]
    """``[B]`` of the best label."""
    distance: npt.NDArray[np.float32]
    """``[B]`` from the reference, 1 where 95 % of its held-out cells are nearer; NaN if unknown."""
    called: npt.NDArray[np.bool_]
    """``[B]`` whether the cell gets its best label."""
    each: npt.NDArray[np.float32] | None
    """``[B, C]`` probabilities of all labels, where asked for."""
    genes: GeneMap
    about: dict[str, Any]
    """Where the labels come from, as plain values; ``shift`` is how the cells lie next to that."""

    @property
    def n_empty(self) -> int:
        """Cells without a count on a known gene."""
        return int((self.best < 0).sum())

    @property
    def n_unknown(self) -> int:
        """Cells that are not called, empty ones among them."""
        return int((~self.called).sum())

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: ``label``, ``probability``, ``best``, ``second``, ``distance``."""
        kinds = pd.Index([*self.labels, UNKNOWN])
        last = len(self.labels)
        best, second = (np.where(each < 0, last, each) for each in (self.best, self.second))
        label = np.where(self.called, best, last)
        return pd.DataFrame(
            {
                "label": pd.Categorical.from_codes(label, kinds),
                "probability": self.probability,
                "best": pd.Categorical.from_codes(best, kinds),
                "second": pd.Categorical.from_codes(second, kinds),
                "distance": self.distance,
            },
            index=pd.Index(names, name="cell_id"),
        )

    def counts(self) -> dict[str, int]:
        """Cells by the label that they get, `UNKNOWN` last."""
        numbers = np.bincount(self.best[self.called], minlength=len(self.labels))
        found = {label: int(n) for label, n in zip(self.labels, numbers, strict=True)}
        return found | {UNKNOWN: self.n_unknown}


def call_cells(
    cells: EmbeddedCells,
    genes: GeneMap,
    caller: Caller,
    options: AnnotateOptions,
    about: Mapping[str, Any],
    *,
    log: Log,
) -> Annotation:
    """Call every cell by its vector."""
    n_cells, n_labels = len(cells.filled), len(caller.labels)
    best, second = np.full((2, n_cells), -1, np.int32)
    probability, distance = np.zeros(n_cells, np.float32), np.full(n_cells, np.nan, np.float32)
    called = np.zeros(n_cells, bool)
    each = np.zeros((n_cells, n_labels), np.float32) if options.probabilities else None
    caller, shift = caller.meet(cells.sample(options.seed), options.align, log)
    for rows, vectors in cells.blocks():
        found = caller.call(vectors)
        best[rows], second[rows] = found.best, found.second
        probability[rows], called[rows] = found.probability, found.called
        distance[rows] = found.distance
        if each is not None:
            each[rows] = found.each
    more: dict[str, Any] = {"labels": caller.labels}
    if shift is not None and caller.alignment is not None:
        more |= {"shift": shift.as_json(), "align": caller.alignment.name}
    return Annotation(
        labels=caller.labels,
        best=best,
        second=second,
        probability=probability,
        distance=distance,
        called=called,
        each=each,
        genes=genes,
        about={**about, **more},
    )
