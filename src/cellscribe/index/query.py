"""New cells in an index: their nearest cells, and the labels that these give.

A label is given at the most specific level that is sure enough: where the labels are terms of the
Cell Ontology, the probability of a kind of cell is the sum of those of the labels that it covers,
and the narrowest kind around the best label that reaches the threshold is given. All of these
are multiplied by the probability that the cell is of any type that the index knows, which falls
with its distance from the best label (`frame`).

How a file lies next to the index is known only when all of it is embedded, so vectors are kept
until then, on the disk where they are many.

Letters: ``B`` queries, ``K`` neighbours, ``C`` labels, ``N`` labels and the kinds above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.align import Alignment
from cellscribe.annotation.domain import known_probability
from cellscribe.annotation.embedded import EmbeddedCells, keep_vectors
from cellscribe.annotation.shift import Shift
from cellscribe.callbacks import Log
from cellscribe.config.annotate import Align
from cellscribe.errors import InputError
from cellscribe.index.frame import (
    NEARER,
    Frame,
    Moved,
    align_file,
    compare_cells,
    fit_frame,
    with_spread,
)
from cellscribe.index.nearest import Floats, Places, Search, open_search
from cellscribe.index.ontology import ancestors, common_parents, terms
from cellscribe.index.store import Column, Index
from cellscribe.index.vectors import Opened
from cellscribe.index.votes import Labels, read_codes, vote
from cellscribe.model.heads import UNKNOWN

NOBODY = -1
"""Number of a label that is not there."""


@dataclass(frozen=True)
class Kinds:
    """Labels, and the kinds of cell above them that a label may be given as.

    Attributes
    ----------
    names, ids
        ``N`` names and ids in the Cell Ontology ("" where there is none), labels first.
    covers
        ``[C, N]`` which kinds cover a label.
    order
        ``[N]`` place of each kind, the narrowest first.
    """

    names: list[str]
    ids: list[str]
    covers: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]


def kinds_of(labels: list[str], ontology: dict[str, str]) -> Kinds:
    """Place labels in the Cell Ontology, see `Kinds`."""
    # ids of another release of the ontology may not be in this one
    known = {label: term for label, term in ontology.items() if term in terms()}
    ids = [known.get(label, "") for label in labels]
    parents = common_parents([term for term in ids if term])
    covers = np.eye(len(labels), len(labels) + len(parents), dtype=bool)
    for row, term in enumerate(ids):
        above = ancestors(term) if term else frozenset()
        covers[row] |= np.array([bool(other) and other in above for other in [*ids, *parents]])
    depth = np.array([len(ancestors(term)) if term else 0 for term in [*ids, *parents]])
    order = np.lexsort([-depth, covers.sum(axis=0)])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    names = [*labels, *(terms()[term].name for term in parents)]
    return Kinds(names=names, ids=[*ids, *parents], covers=covers, order=place)


@dataclass(frozen=True, kw_only=True)
class Called:
    """What cells are called; `NOBODY` where there is no label."""

    given: npt.NDArray[np.int64]
    """``[B]`` kind that is given."""
    probability: npt.NDArray[np.float64]
    """``[B]`` of the kind that is given, else of the best label."""
    best: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    """``[B]`` labels."""
    distance: npt.NDArray[np.float64]
    """``[B]`` from the best label, 1 where 95 % of the index's held-out cells are nearer."""

    def put(self, rows: Places, part: Called) -> None:
        """Fill in some of the cells."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(part, each.name)


def nobody(n_cells: int) -> Called:
    """Calls of cells before any is called."""
    return Called(
        given=np.full(n_cells, NOBODY),
        probability=np.zeros(n_cells),
        best=np.full(n_cells, NOBODY),
        second=np.full(n_cells, NOBODY),
        distance=np.full(n_cells, np.nan),
    )


@dataclass(frozen=True)
class Near:
    """Cells of a source, and the nearest of the index."""

    rows: Places
    """``[B]`` of the source."""
    vectors: Floats
    """``[B, D]``, aligned."""
    distance: Floats
    places: Places
    """``[B, K]``."""


@dataclass(frozen=True)
class Voter:
    """The labels of a column, ready to be given; from `Querying`."""

    index: Index
    labels: Labels
    column: Column

    @cached_property
    def kinds(self) -> Kinds:
        """Labels and what is above them."""
        return kinds_of(self.labels.kept, self.column["ontology"])

    @cached_property
    def frame(self) -> Frame:
        """Where the labels lie."""
        return fit_frame(self.index, self.labels)

    @cached_property
    def spreads(self) -> npt.NDArray[np.float64]:
        """Of each label, ``[C]``."""
        return np.array([self.column["spreads"][label] for label in self.labels.kept])

    def shares(self, near: Near) -> npt.NDArray[np.float64]:
        """Votes of the neighbours, ``[B, C]``."""
        return vote(near.distance, self.labels.codes[near.places], len(self.labels.kept))

    def distance(self, near: Near) -> npt.NDArray[np.float64]:
        """Distance of cells from their best label, over that of held-out cells of it, ``[B]``."""
        return self.frame.distance(near.vectors, self.shares(near).argmax(axis=1), self.spreads)

    def call(self, near: Near, spread: float = 1.0) -> Called:
        """Call cells by their neighbours, and by how far they lie from what these say.

        Parameters
        ----------
        near
            The cells.
        spread
            By which distances are divided, see `Alignment`.
        """
        distance = self.distance(near) / spread
        known = known_probability(np.array(self.column["known"]), distance)
        return self.call_shares(self.shares(near), known, distance / self.column["limit"])

    def call_shares(
        self, shares: Floats, known: npt.NDArray[np.float64], distance: npt.NDArray[np.float64]
    ) -> Called:
        """Call cells.

        Parameters
        ----------
        shares
            ``[B, C]`` votes on the labels.
        known
            ``[B]`` probability of being of any known type.
        distance
            ``[B]`` as in `Called`.
        """
        kinds, cells = self.kinds, np.arange(len(shares))
        order = np.argsort(-shares, axis=1, kind="stable")
        best, second = order[:, 0], order[:, 1]
        mass = (shares * known[:, None]) @ kinds.covers
        sure = kinds.covers[best] & (mass >= self.column["threshold"])
        sure &= (shares[cells, best] > 0)[:, None]
        narrowest = np.where(sure, kinds.order, len(kinds.order)).argmin(axis=1)
        given = np.where(sure.any(axis=1), narrowest, NOBODY)
        return Called(
            given=given,
            probability=np.where(given < 0, shares[cells, best] * known, mass[cells, given]),
            best=np.where(shares[cells, best] > 0, best, NOBODY),
            second=np.where(shares[cells, second] > 0, second, NOBODY),
            distance=distance,
        )

    def table(self, called: Called) -> dict[str, Any]:
        """Columns of a result: label, probability, best, second, distance, and ontology_id."""
        kinds = self.kinds
        names = pd.Index([*dict.fromkeys([*kinds.names, UNKNOWN])])
        place = names.get_indexer(pd.Index([*kinds.names, UNKNOWN]))
        found: dict[str, Any] = {
            "label": pd.Categorical.from_codes(place[called.given], names),
            "probability": called.probability.astype(np.float32),
            "best": pd.Categorical.from_codes(place[called.best], names),
            "second": pd.Categorical.from_codes(place[called.second], names),
        }
        found["distance"] = called.distance.astype(np.float32)
        if any(kinds.ids):
            found["ontology_id"] = np.array([*kinds.ids, ""], object)[called.given]
        return found


class Querying:
    """An index opened for queries.

    Parameters
    ----------
    index
        An index.
    label
        Column whose labels are given; all of them if not named.

    Raises
    ------
    InputError
        There is no such column, or a file is damaged.
    """

    def __init__(self, index: Index, label: str | None = None) -> None:
        header = index.header
        if label is not None and label not in header["labels"]:
            raise InputError(
                f"{index.folder} has no labels {label!r}; it has {', '.join(header['labels'])}"
            )
        self.index = index
        self.n_neighbors = header["settings"]["n_neighbors"]
        min_cells = header["settings"]["min_cells"]
        self.search: Search = open_search(index)
        self.voters = {
            name: Voter(index, read_codes(index, name, min_cells), column)
            for name, column in header["columns"].items()
            if label in (None, name)
        }

    def near(self, vectors: Floats, rows: Places | None = None) -> Near:
        """Find the neighbours of cells, ``[B, D]``, that are aligned already."""
        rows = np.arange(len(vectors)) if rows is None else rows
        return Near(rows, vectors, *self.search.nearest(vectors, self.n_neighbors))

    def meet(self, cells: EmbeddedCells, align: Align, log: Log) -> Meeting:
        """Measure how a file lies next to the index, and align it; says so before any label.

        Parameters
        ----------
        cells
            The file.
        align
            What is asked for.
        log
            Called with each line that a user should read.
        """
        first = next(iter(self.voters.values()))
        sample, grouped = cells.sample(0), self.index.header["group"] is not None
        before = self.near(sample)
        shift = compare_cells(first.column, first.distance(before), grouped=grouped)
        log(shift.sentence() if shift.verdict == "inside" else f"Warning: {shift.sentence()}")

        def best(asked: Floats) -> npt.NDArray[np.int64]:
            return first.shares(self.near(asked)).argmax(axis=1)

        name: Align = "none" if align == "auto" and shift.ratio <= NEARER else align
        moved = align_file(first.frame, sample, best, name=name)
        if moved.alignment.name != "none":
            distance = first.distance(self.near(aligned(sample, first.frame, moved.alignment)))
            near = first.column["near"]
            moved = with_spread(moved, distance, near, asked=align != "auto")
        log_moved(moved, log)
        return Meeting(alignment=moved.alignment, frame=first.frame, shift=shift)

    def blocks(self, cells: EmbeddedCells, meeting: Meeting) -> Iterator[Near]:
        """Yield the cells of each block that hold counts, aligned, and their neighbours."""
        for rows, vectors in cells.blocks():
            yield self.near(aligned(vectors, meeting.frame, meeting.alignment), rows)


def vectors_of(opened: Opened) -> AbstractContextManager[EmbeddedCells]:
    """Keep the vectors of an opened source; those of cells without counts are zeros."""
    parts = ((block.vectors, np.any(block.vectors != 0, axis=1)) for block in opened.blocks)
    return keep_vectors(parts, opened.name)


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """How a file lies next to an index, and what brings it there; from `Querying.meet`."""

    alignment: Alignment
    frame: Frame
    shift: Shift
    """Before it is aligned."""

    def facts(self) -> dict[str, Any]:
        """Plain values for a provenance."""
        return {
            "shift": self.shift.as_json(),
            "align": self.alignment.name,
            "spread": self.alignment.spread,
        }


def aligned(vectors: Floats, frame: Frame, alignment: Alignment) -> Floats:
    """Move vectors, ``[B, D]``; they are given back as they are where nothing is to be done."""
    if alignment.name == "none":
        return vectors
    return frame.restore(alignment.apply(frame.standardise(vectors)))


def log_moved(moved: Moved, log: Log) -> None:
    """Say whether a file was aligned, and why not."""
    if moved.refused:
        log(
            f"The cells are not aligned to the index: {moved.refused}. If they are of its types "
            "all the same, give --align mnn."
        )
    elif moved.alignment.name != "none":
        log(
            f"The cells are aligned to the index (--align {moved.alignment.name}); so their labels "
            "depend on the other cells of the file."
        )
