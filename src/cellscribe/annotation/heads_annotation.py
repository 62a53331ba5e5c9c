"""What the heads of a model say of each cell, where they are several or give a number.

Columns of a table are named by the head that gives them: ``cell_type_label``, ``disease_label``;
those of a single head have no such name before them.

Letters: ``B`` cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.call_cells import Annotation
from cellscribe.annotation.embedded import EmbeddedCells
from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.config import AnnotateOptions
from cellscribe.errors import InputError
from cellscribe.model.heads import Head
from cellscribe.model.several_heads import NumberHead

FAR = 1.0
"""Ranges of the training values by which a prediction lies outside of them to be called far."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A number of each cell with its interval, ``[B]`` each, NaN for an empty cell."""

    prediction: npt.NDArray[np.float32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    about: dict[str, Any]
    """Where they come from, as plain values."""

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: ``prediction``, ``low``, ``high``."""
        found = {"prediction": self.prediction, "low": self.low, "high": self.high}
        return pd.DataFrame(found, index=pd.Index(names, name="cell_id"))

    def counts(self) -> dict[str, int]:
        """No labels, so none is counted."""
        return {}


@dataclass(frozen=True, kw_only=True)
class HeadsAnnotation:
    """What each head of a model says of the cells of a file."""

    columns: Mapping[str, Annotation | Numbers]
    """By the name of what the head has learnt."""
    n_empty: int
    """Cells without a count on a known gene."""
    genes: GeneMap
    about: dict[str, Any]
    """Where it comes from, as plain values; ``heads`` tells it of each head."""

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: the columns of each head, its name before them if it is not alone."""
        parts = [
            each.table(names).add_prefix(self.prefix(name)) for name, each in self.columns.items()
        ]
        return pd.concat(parts, axis=1)

    def prefix(self, name: str) -> str:
        """What stands before the names of a head's columns."""
        return f"{in_names(name)}_" if len(self.columns) > 1 else ""

    def counts(self) -> dict[str, int]:
        """Cells by the label that they get, of each column of labels."""
        return {
            f"{name}: {label}" if len(self.columns) > 1 else label: n
            for name, each in self.columns.items()
            for label, n in each.counts().items()
        }


def heads_annotation(
    columns: Mapping[str, Annotation | Numbers],
    cells: EmbeddedCells,
    genes: GeneMap,
    about: Mapping[str, Any],
) -> HeadsAnnotation:
    """Bring together what the heads of a model say."""
    return HeadsAnnotation(
        columns=columns,
        n_empty=int((~cells.filled).sum()),
        genes=genes,
        about={**about, "heads": {in_names(name): each.about for name, each in columns.items()}},
    )


def in_names(name: str) -> str:
    """Write a column's name as a part of others: HDF5 takes a slash for a folder."""
    return name.replace("/", "_")


def predict_numbers(cells: EmbeddedCells, head: NumberHead, log: Log) -> Numbers:
    """Predict a number for every cell, and say how many lie outside of what was learnt."""
    prediction = np.full(len(cells.filled), np.nan, np.float32)
    for rows, vectors in cells.blocks():
        prediction[rows] = head.predict(vectors)
    least, most = head.range
    here = prediction[cells.filled]
    outside = int(((here < least) | (here > most)).sum())
    room = FAR * (most - least)
    far = int(((here < least - room) | (here > most + room)).sum())
    log(
        f"{head.target}: predicted from {here.min():.4g} to {here.max():.4g}, in training it goes "
        f"from {least:.4g} to {most:.4g}; {outside:,} of {len(here):,} predictions lie outside of "
        f"that, {far:,} by more than its whole width."
    )
    return Numbers(
        prediction=prediction,
        low=prediction - np.float32(head.half_width),
        high=prediction + np.float32(head.half_width),
        about={
            "by": "head",
            "target": head.target,
            "half_width": head.half_width,
            "coverage": head.coverage,
            "range": [least, most],
            "outside_range": outside,
            "far_outside_range": far,
        },
    )


def check_options(heads: Sequence[Head | NumberHead], options: AnnotateOptions) -> None:
    """Refuse what a model that gives numbers alone cannot follow."""
    if any(isinstance(head, Head) for head in heads):
        return
    for name in ("probabilities", "align"):
        if getattr(options, name) != type(options).__dataclass_fields__[name].default:
            raise InputError(f"--{name}: this model gives a number and no labels; leave it out")
