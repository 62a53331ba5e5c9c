"""New cells in an index: their nearest cells, and the labels that these give.

A label is given at the most specific level that is sure enough: where the labels are terms of the
Cell Ontology, the probability of a kind of cell is the sum of those of the labels that it covers,
and the narrowest kind around the best label that reaches the threshold is given. A cell farther
from its neighbours than nearly all held-out ones is unknown whatever they say.

Letters: ``B`` queries, ``K`` neighbours, ``C`` labels, ``N`` labels and the kinds above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.callbacks import Progress, in_step
from cellscribe.errors import InputError
from cellscribe.index.nearest import Floats, Places, Search, open_search
from cellscribe.index.ontology import ancestors, common_parents, terms
from cellscribe.index.store import CELL_ID, SOURCE, Column, Index
from cellscribe.index.vectors import Opened, opened_cells
from cellscribe.index.votes import Labels, read_codes, vote
from cellscribe.inference.session import Session
from cellscribe.model.heads import UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from cellscribe.cells.counts import Counts
    from cellscribe.cells.gene_names.genes import GeneMap
    from cellscribe.config import AnnotateOptions

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
    ids = [ontology.get(label, "") for label in labels]
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


@dataclass(frozen=True)
class Voter:
    """The labels of a column, ready to be given; from `Querying`."""

    labels: Labels
    column: Column

    @cached_property
    def kinds(self) -> Kinds:
        """Labels and what is above them."""
        return kinds_of(self.labels.kept, self.column["ontology"])

    def call(self, distance: Floats, places: Places) -> Called:
        """Call cells by their neighbours, ``[B, K]`` each."""
        shares = vote(distance, self.labels.codes[places], len(self.labels.kept))
        return self.call_shares(shares, distance.mean(axis=1))

    def call_shares(self, shares: Floats, distance: Floats) -> Called:
        """Call cells by the shares of their labels ``[B, C]`` and mean distance ``[B]``."""
        kinds, cells = self.kinds, np.arange(len(shares))
        order = np.argsort(-shares, axis=1, kind="stable")
        best, second = order[:, 0], order[:, 1]
        mass = shares @ kinds.covers
        sure = kinds.covers[best] & (mass >= self.column["threshold"])
        sure &= (distance <= self.column["limit"])[:, None] & (shares[cells, best] > 0)[:, None]
        narrowest = np.where(sure, kinds.order, len(kinds.order)).argmin(axis=1)
        given = np.where(sure.any(axis=1), narrowest, NOBODY)
        return Called(
            given=given,
            probability=np.where(given < 0, shares[cells, best], mass[cells, given]),
            best=np.where(shares[cells, best] > 0, best, NOBODY),
            second=np.where(shares[cells, second] > 0, second, NOBODY),
        )

    def table(self, called: Called) -> dict[str, Any]:
        """Columns of a result: label, probability, best, second, and ontology_id where there is."""
        kinds = self.kinds
        names = pd.Index([*dict.fromkeys([*kinds.names, UNKNOWN])])
        place = names.get_indexer(pd.Index([*kinds.names, UNKNOWN]))
        found: dict[str, Any] = {
            "label": pd.Categorical.from_codes(place[called.given], names),
            "probability": called.probability.astype(np.float32),
            "best": pd.Categorical.from_codes(place[called.best], names),
            "second": pd.Categorical.from_codes(place[called.second], names),
        }
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
        self.n_neighbors = int(header["settings"]["n_neighbors"])
        self.search: Search = open_search(index)
        self.voters = {
            name: Voter(read_codes(index, name, int(header["settings"]["min_cells"])), column)
            for name, column in header["columns"].items()
            if label in (None, name)
        }

    def blocks(self, opened: Opened) -> Iterator[tuple[Places, Floats, Places]]:
        """Yield the rows of a block that hold counts, their distances and neighbours."""
        done = 0
        for block in opened.blocks:
            rows = np.flatnonzero(block.vectors.any(axis=1))
            if len(rows):
                yield done + rows, *self.search.nearest(block.vectors[rows], self.n_neighbors)
            done += len(block.vectors)


@dataclass(frozen=True, kw_only=True)
class IndexAnnotation:
    """What each cell of a source is called by an index; stands for `annotate.Annotation`."""

    columns: dict[str, Any]
    n_empty: int
    genes: GeneMap
    about: dict[str, Any]

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: ``label``, ``probability``, ``best``, ``second``, ``ontology_id``."""
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
    called = Called(
        given=np.full(n_cells, NOBODY),
        probability=np.zeros(n_cells),
        best=np.full(n_cells, NOBODY),
        second=np.full(n_cells, NOBODY),
    )
    n_filled = 0
    for rows, distance, places in querying.blocks(opened):
        part = voter.call(distance, places)
        for name in ("given", "probability", "best", "second"):
            getattr(called, name)[rows] = getattr(part, name)
        n_filled += len(rows)
    _need_cells(n_filled, opened)
    about = session.about(
        cells,
        by="index",
        label=label,
        index=index.folder.name,
        index_cells=index.n_cells,
        n_neighbors=querying.n_neighbors,
        threshold=voter.column["threshold"],
        limit=voter.column["limit"],
    )
    annotation = IndexAnnotation(
        columns=voter.table(called), n_empty=n_cells - n_filled, genes=cells.genes, about=about
    )
    return annotation, cells.counts


def _need_cells(n_filled: int, opened: Opened) -> None:
    if not n_filled:
        raise InputError(f"{opened.name}: no cell has a count on a gene that the model knows")


def find_hits(
    querying: Querying, opened: Opened, *, progress: Progress | None = None
) -> pd.DataFrame:
    """Find the nearest cells of every cell of an opened source, and what they say.

    Returns
    -------
    pandas.DataFrame
        A row a cell. For each column of labels ``NAME``, ``NAME_probability``, ``NAME_best``,
        ``NAME_second`` and, where labels are known to the Cell Ontology, ``NAME_ontology_id``;
        ``distance``, the mean of the neighbours'; and lists, nearest first: ``neighbor_id``,
        ``neighbor_source``, ``neighbor_distance`` and ``neighbor_NAME`` for labels and columns of
        obs. Empty lists for a cell without a count on a known gene.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows; damage.
    """
    n_cells, k = len(opened.obs), querying.n_neighbors
    distance, places = np.full((n_cells, k), np.inf), np.zeros((n_cells, k), np.int64)
    filled = np.zeros(n_cells, bool)
    for rows, far, near in querying.blocks(opened):
        distance[rows], places[rows], filled[rows] = far, near, True
        if progress is not None:
            progress(int(rows[-1]) + 1, n_cells)
    _need_cells(int(filled.sum()), opened)
    table: dict[str, Any] = {}
    for name, voter in querying.voters.items():
        called = voter.call(distance, places)
        for key, values in voter.table(called).items():
            table[name if key == "label" else f"{name}_{key}"] = values
    table["distance"] = np.where(filled, distance.mean(axis=1), np.nan)
    index = querying.index
    columns = [CELL_ID, SOURCE, *index.header["labels"], *index.header["obs"]]
    for name in columns:
        key = "id" if name == CELL_ID else name
        table[f"neighbor_{key}"] = _lists(index.take(name, places), filled)
    table["neighbor_distance"] = _lists(distance, filled)
    return pd.DataFrame(table, index=pd.Index(opened.obs.index.astype(str), name=CELL_ID))


def _lists(values: Any, filled: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    found = np.empty(len(values), object)
    for row in range(len(values)):
        found[row] = values[row] if filled[row] else values[row][:0]
    return found
