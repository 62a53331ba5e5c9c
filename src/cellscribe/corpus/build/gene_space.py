"""Which genes a corpus counts, and which of them become its vocabulary.

Counts are kept for every human gene that any source measured; the vocabulary is a choice among
them. A source's columns are mapped once, to the gene space; what a gene of that space is called in
the vocabulary is told by the same lookup that a user's file goes through, so that a corpus's tokens
are those that ``cellscribe tokenize`` gives for its sources.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellscribe.cells.genes import GeneMap, human_genes, map_genes
from cellscribe.cells.vocabulary import GeneTable, Vocabulary
from cellscribe.errors import InputError

LEFT_OUT = frozenset(("processed_pseudogene", "snRNA", "miRNA", "snoRNA", "rRNA_pseudogene", "TEC"))
"""Biotypes that poly-A capture does not see, or sees only as misplaced reads of a parent gene."""


def all_genes(vocabulary: Vocabulary | None = None) -> GeneTable:
    """Every human gene of the bundled table, and those of `vocabulary` that it lacks."""
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
    """Genes that the sources measured, in the order in which they first came.

    The order of the first source stays, so that sources that share their genes (as those of a
    Census do) have columns in ascending order and nothing needs sorting.
    """

    def __init__(self, genes: GeneTable) -> None:
        self._genes = genes
        self._place = np.full(len(genes), -1, dtype=np.int32)
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def add(self, mapped: GeneMap) -> npt.NDArray[np.int32]:
        """Take in a source's genes; give the place of each of its columns, -1 where unknown."""
        known = mapped.token[mapped.token >= 0]
        _, first = np.unique(known, return_index=True)
        for gene in known[np.sort(first)].tolist():
            if self._place[gene] < 0:
                self._place[gene] = len(self._order)
                self._order.append(gene)
        return np.where(mapped.token >= 0, self._place[mapped.token], -1).astype(np.int32)

    def table(self) -> GeneTable:
        """Ids and symbols in the order of the space."""
        ids, symbols = self._genes.ids, self._genes.symbols
        return GeneTable(
            ids=tuple(ids[gene] for gene in self._order),
            symbols=tuple(symbols[gene] for gene in self._order),
        )


def choose_genes(space: GeneTable, n_cells: npt.NDArray[np.int64], n_genes: int) -> list[int]:
    """Choose the genes that most training cells show; ties go to the lower Ensembl id.

    Parameters
    ----------
    space
        ``G`` genes.
    n_cells
        ``[G]`` training cells that show each gene.
    n_genes
        Genes wanted; genes of biotypes in `LEFT_OUT` and genes that no cell shows are no
        candidates, so fewer may come.

    Returns
    -------
    Places in `space`, in order of Ensembl ids.

    Raises
    ------
    InputError
        No cell shows any candidate.
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
    """Token of each gene of the space, ``[G]``, -1 where the vocabulary lacks it.

    Raises
    ------
    InputError
        The vocabulary has too few of the genes, see `map_genes`.
    """
    import pandas as pd

    var = pd.DataFrame(index=pd.Index(space.ids, dtype=object))
    return map_genes(var, vocabulary, name="the sources").token
