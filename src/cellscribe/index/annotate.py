"""Labels of all cells of a source by an index, and what an index says that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from cellscribe.annotation.seen import Seen
from cellscribe.callbacks import Progress, in_step
from cellscribe.index.query import Querying, nobody, vectors_of
from cellscribe.index.store import CELL_ID, Index
from cellscribe.index.vectors import opened_cells
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
    called = nobody(cells.counts.n_cells)
    with vectors_of(opened) as kept:
        meeting = querying.meet(kept, options.align, session.log)
        for near in querying.blocks(kept, meeting):
            called.put(near.rows, voter.call(near, meeting.alignment.spread))
            if seen is not None:
                seen.take([(near.rows, near.vectors)], cells.counts.n_cells, options.seed)
        n_filled = int(kept.filled.sum())
    about = session.about(
        cells,
        by="index",
        label=label,
        index=index.folder.name,
        index_cells=index.n_cells,
        n_neighbors=querying.n_neighbors,
        threshold=voter.column["threshold"],
        limit=voter.column["limit"],
        **meeting.facts(),
    )
    annotation = IndexAnnotation(
        columns=voter.table(called),
        n_empty=cells.counts.n_cells - n_filled,
        genes=cells.genes,
        about=about,
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
