"""The genes that a corpus counts, and the choice of its vocabulary among them.

Counts are kept for every human gene that any source measured; the vocabulary is a subset. A
source's columns are mapped once, to the gene space. Genes of the space are mapped to the vocabulary
by the same function as a user's file, so a corpus has the tokens that ``cellscribe tokenize`` gives
for its sources.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.genes import GeneMap, human_genes, map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable, Vocabulary
from cellscribe.errors import InputError

LEFT_OUT = frozenset(("processed_pseudogene", "snRNA", "miRNA", "snoRNA", "rRNA_pseudogene", "TEC"))
"""Biotypes that poly-A capture misses, or sees only as misplaced reads of a parent gene."""


def all_genes(vocabulary: Vocabulary | None = None) -> GeneTable:
    """Return all human genes of the bundled table, and those of `vocabulary` that it lacks."""
    table = human_genes()
    ids, symbols = table["ensembl_id"].tolist(), table["symbol"].tolist()
    if vocabulary is not None:
        known = set(ids)
        for token in range(vocabulary.n_special, len(vocabulary)):
            if vocabulary.ids[token] not in known:
                ids.append(vocabulary.ids[token])
                symbols.append(vocabulary.symbols[token])
    return GeneTable(ids=tuple(ids), symbols=tuple(symbols))


class GeneSpace:
    """Genes that the sources measured, in order of their first appearance.

    The first source keeps its order, so sources with the same genes (as in a Census) have columns
    in ascending order and need no sorting.
    """

    def __init__(self, genes: GeneTable) -> None:
        self._genes = genes
        self._place = np.full(len(genes), -1, dtype=np.int32)
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def add(self, mapped: GeneMap) -> npt.NDArray[np.int32]:
        """Add a source's genes; return the place of each of its columns, -1 where unknown."""
        known = mapped.token[mapped.token >= 0]
        _, first = np.unique(known, return_index=True)
        for gene in known[np.sort(first)].tolist():
            if self._place[gene] < 0:
                self._place[gene] = len(self._order)
                self._order.append(gene)
        return np.where(mapped.token >= 0, self._place[mapped.token], -1).astype(np.int32)

    def table(self) -> GeneTable:
        """Return ids and symbols in the order of the space."""
        ids, symbols = self._genes.ids, self._genes.symbols
        return GeneTable(
            ids=tuple(ids[gene] for gene in self._order),
            symbols=tuple(symbols[gene] for gene in self._order),
        )


def choose_genes(space: GeneTable, n_cells: npt.NDArray[np.int64], n_genes: int) -> list[int]:
    """Choose the genes that are seen in most training cells; ties go to the lower Ensembl id.

    Parameters
    ----------
    space
        ``G`` genes.
    n_cells
        ``[G]`` number of training cells with each gene.
    n_genes
        Number of genes to choose; genes of biotypes in `LEFT_OUT` and genes that no cell has are no
        candidates, so the result may be shorter.

    Returns
    -------
    Places in `space`, in order of Ensembl ids.

    Raises
    ------
    InputError
        No cell has any candidate.
    """
    table = human_genes()
    biotype = dict(zip(table["ensembl_id"], table["biotype"], strict=True))
    places = [
        place
        for place, name in enumerate(space.ids)
        if n_cells[place] and biotype.get(name) not in LEFT_OUT
    ]
    if not places:
        raise InputError("no training cell shows a gene that could enter the vocabulary")
    places.sort(key=lambda place: (-n_cells[place], space.ids[place]))
    return sorted(places[:n_genes], key=lambda place: space.ids[place])


def tokens_of(space: GeneTable, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    """Return the token of each gene of the space, ``[G]``, -1 where the vocabulary lacks it.

    Raises
    ------
    InputError
        The vocabulary has too few of the genes, see `map_genes`.
    """
    import pandas as pd

    var = pd.DataFrame(index=pd.Index(space.ids, dtype=object))
    return map_genes(var, vocabulary, name="the sources").token
