"""New cells in an index: their nearest cells, and the labels that these give.

A label is given at the most specific level that is sure enough: where the labels are terms of the
Cell Ontology, the probability of a kind of cell is the sum of those of the labels that it covers,
and the narrowest kind around the best label that reaches the threshold is given. A cell farther
from its neighbours, or from all labels, than nearly all held-out ones is unknown whatever they say.

Letters: ``B`` queries, ``K`` neighbours, ``C`` labels, ``N`` labels and the kinds above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.domain import TINY, Types, fit_types
from cellscribe.annotation.seen import Seen
from cellscribe.callbacks import Progress, in_step
from cellscribe.errors import InputError
from cellscribe.index.nearest import Floats, Places, Search, open_search
from cellscribe.index.ontology import ancestors, common_parents, terms
from cellscribe.index.store import CELL_ID, Column, Index
from cellscribe.index.vectors import Opened, opened_cells
from cellscribe.index.votes import INSIDE, Labels, draw_labelled, read_codes, vote
from cellscribe.inference.session import Session
from cellscribe.model.heads import UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from cellscribe.cells.counts import Counts
    from cellscribe.cells.gene_names.genes import GeneMap
    from cellscribe.config import AnnotateOptions

TISSUE = "tissue"
"""Column of obs that tells where cells are from, where an index has it."""
OUTSIDE = 0.25
"""Share of cells outside the limits from which on there is a warning."""
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
    """``[B]`` in units of the limits of the index, the larger of both; above 1 a cell lies outside.
    """

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
    """``[B, D]``."""
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
    def types(self) -> Types:
        """Where the labels lie."""
        codes = self.labels.codes
        drawn = draw_labelled(codes)
        vectors = self.index.rows(drawn).astype(np.float64)
        return fit_types(vectors, codes[drawn], len(self.labels.kept))

    def call(self, near: Near) -> Called:
        """Call cells by their neighbours, and by how far they lie from all labels."""
        shares = vote(near.distance, self.labels.codes[near.places], len(self.labels.kept))
        spread = self.types.distances(np.asarray(near.vectors, np.float64)).min(axis=1)
        far = np.maximum(
            near.distance.mean(axis=1) / max(self.column["limit"], TINY),
            spread / max(self.column["spread_limit"], TINY),
        )
        return self.call_shares(shares, far)

    def call_shares(self, shares: Floats, distance: npt.NDArray[np.float64]) -> Called:
        """Call cells by the shares of their labels ``[B, C]`` and their `Called.distance`."""
        kinds, cells = self.kinds, np.arange(len(shares))
        order = np.argsort(-shares, axis=1, kind="stable")
        best, second = order[:, 0], order[:, 1]
        mass = shares @ kinds.covers
        sure = kinds.covers[best] & (mass >= self.column["threshold"])
        sure &= ((distance <= 1) & (shares[cells, best] > 0))[:, None]
        narrowest = np.where(sure, kinds.order, len(kinds.order)).argmin(axis=1)
        given = np.where(sure.any(axis=1), narrowest, NOBODY)
        return Called(
            given=given,
            probability=np.where(given < 0, shares[cells, best], mass[cells, given]),
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

    def blocks(self, opened: Opened) -> Iterator[Near]:
        """Yield the cells of each block that hold counts, and their neighbours."""
        done = 0
        for block in opened.blocks:
            rows = np.flatnonzero(block.vectors.any(axis=1))
            if len(rows):
                vectors = block.vectors[rows]
                yield Near(done + rows, vectors, *self.search.nearest(vectors, self.n_neighbors))
            done += len(block.vectors)


@dataclass(frozen=True, kw_only=True)
class IndexAnnotation:
    """What each cell of a source is called by an index; stands for `call_cells.Annotation`."""

    columns: dict[str, Any]
    n_empty: int
    genes: GeneMap
    about: dict[str, Any]

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: label, probability, best, second, distance, ontology_id."""
        return pd.DataFrame(self.columns, index=pd.Index(names, name=CELL_ID))

    def counts(self) -> dict[str, int]:
        """Cells by the label that they get, `UNKNOWN` last."""
        numbers = pd.Series(self.columns["label"]).value_counts(sort=False)
        found = {str(label): int(n) for label, n in numbers.items() if n and label != UNKNOWN}
        return found | {UNKNOWN: int(numbers.get(UNKNOWN, 0))}


def annotate_by_index(
    session: Session,
    index: Index,
    source: str | Path | AnnData,
    options: AnnotateOptions,
    *,
    seen: Seen | None = None,
    progress: Progress | None = None,
) -> tuple[IndexAnnotation, Counts]:
    """Call every cell of a source by an index.

    Parameters
    ----------
    session
        The index's model, see `made_by.session_for`.
    index
        The index.
    source
        Cells to call.
    options
        Column of labels, and where counts and genes are.
    seen
        Takes what a page shows.
    progress
        Called with (cells done, cells in all, name of the step).

    Returns
    -------
    annotation
        The calls and their provenance.
    counts
        The opened source.

    Raises
    ------
    InputError
        Bad input; no cell has a count on a gene that the model knows.
    """
    label = options.label or index.header["labels"][0]
    querying = Querying(index, label)
    voter = querying.voters[label]
    cells = session.map_genes(session.open_counts(source), options.gene_key)
    opened = opened_cells(session, cells, in_step(progress, "Annotating"))
    n_cells = cells.counts.n_cells
    called = nobody(n_cells)
    n_filled = 0
    for near in querying.blocks(opened):
        called.put(near.rows, voter.call(near))
        n_filled += len(near.rows)
        if seen is not None:
            seen.take([(near.rows, near.vectors)], n_cells, options.seed)
    need_cells(n_filled, opened)
    outside = (called.distance > 1).sum() / n_filled
    if outside > OUTSIDE:
        session.log(
            f"Warning: {outside:.0%} of the cells lie outside of what the index knows, where of "
            f"held-out cells {2 * (1 - INSIDE):.0%} at most do: another tissue, technology or "
            "species. They are unknown; read the labels of the others with care."
        )
    about = session.about(
        cells,
        by="index",
        label=label,
        index=index.folder.name,
        index_cells=index.n_cells,
        n_neighbors=querying.n_neighbors,
        threshold=voter.column["threshold"],
        limit=voter.column["limit"],
        spread_limit=voter.column["spread_limit"],
        outside=float(outside),
    )
    annotation = IndexAnnotation(
        columns=voter.table(called), n_empty=n_cells - n_filled, genes=cells.genes, about=about
    )
    return annotation, cells.counts


def what_it_knows(index: Index) -> str:
    """Say in a sentence which tissues and types of cell an index knows."""
    header = index.header
    name = header["labels"][0]
    labels = "; ".join(header["columns"][name]["labels"])
    tissues = " and ".join(index.coded(TISSUE)[0]) if TISSUE in header["obs"] else ""
    of = f" of {tissues}" if tissues else ""
    return (
        f"It knows {index.n_cells:,} cells{of}: {labels}. Other cells should come out {UNKNOWN}; "
        "how often they do not is in docs/annotate.md."
    )


def need_cells(n_filled: int, opened: Opened) -> None:
    """Refuse a source of which no cell was read."""
    if not n_filled:
        raise InputError(f"{opened.name}: no cell has a count on a gene that the model knows")
