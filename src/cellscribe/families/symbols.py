"""Gene tables of families whose genes are symbols, and the columns of a file with those symbols.

These families match symbols exactly and know no older names, and so does `map_symbols`, which reads
only what files put around a symbol (``cells/gene_names/spellings.py``). A file without such symbols
is read by its Ensembl ids, as for our own models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellscribe.cells.gene_names.features import judge_features
from cellscribe.cells.gene_names.gene_refusals import MIN_KNOWN, first_names
from cellscribe.cells.gene_names.genes import GeneMap, candidate_columns, human_genes, map_genes
from cellscribe.cells.gene_names.lookup import own_symbols
from cellscribe.cells.gene_names.spellings import (
    UNKNOWN,
    Found,
    Kind,
    Reader,
    loose_index,
    loose_key,
    numbered_names,
    strip_genome,
)
from cellscribe.cells.gene_names.symbols import (
    as_it_stands,
    as_text,
    ensembl_genes,
    numbered_symbols,
)
from cellscribe.cells.gene_names.symbols import table as human_names
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import Species

if TYPE_CHECKING:
    import pandas as pd


def symbol_table(names: Sequence[str]) -> GeneTable:
    """Make a gene table of published symbols, in token order.

    Parameters
    ----------
    names
        ``V`` distinct symbols as published, special tokens (``<cls>``) where their ids put them.

    Returns
    -------
    GeneTable
        `symbols` are the names; `ids` are Ensembl's where the table of human genes gives a symbol
        one gene that no other row has, else the name itself.
    """
    known = human_genes()
    known = known[(known["symbol"] != "") & ~known["symbol"].duplicated(keep=False)]
    gene_of = dict(zip(known["symbol"], known["ensembl_id"], strict=True))
    ids = [gene_of.get(name, name) for name in names]
    often = Counter(ids)
    ids = [name if often[gene] > 1 else gene for name, gene in zip(names, ids, strict=True)]
    return GeneTable(ids=tuple(ids), symbols=tuple(names))


def map_symbols(
    var: pd.DataFrame,
    table: GeneTable,
    *,
    gene_key: str | None = None,
    species: Species = "human",
    cells: Callable[[], Iterable[str]] | None = None,
    name: str = "input",
) -> GeneMap:
    """Find the token of each column of a file by its published gene symbol.

    Parameters
    ----------
    var
        ``G`` rows: the file's gene table.
    table
        From `symbol_table`.
    gene_key
        The only place to look: a column of `var`, or ``"var_names"``. By default the column
        with the most exact symbols; if none has enough of them, `cells.genes.map_genes` decides by
        Ensembl id.
    species, cells
        As for `cells.genes.map_genes`; mouse genes are read by it.
    name
        Name of the file in messages.

    Raises
    ------
    InputError
        See `cells.genes.map_genes`.
    """
    if species != "human":
        return map_genes(var, table, gene_key=gene_key, species=species, cells=cells, name=name)
    read = _Published(table)
    features = judge_features(var, name)
    other = features.left_out
    best_key, best_names = "", np.empty(0, dtype=object)
    best = np.full(len(var), -1, dtype=np.int32)
    for key, column in candidate_columns(var, gene_key, name).items() if len(var) else ():
        names = np.array([as_text(value) for value in column], dtype=object)
        token = np.array([read(symbol) for symbol in names], dtype=np.int32)
        token[other] = -1
        if len(np.unique(token)) > len(np.unique(best)):
            best_key, best_names, best = key, names, token
    known = best >= 0
    enough = MIN_KNOWN * min(int((~other).sum()), len(read.token_of))
    if known.sum() < max(enough, 1):
        return map_genes(var, table, gene_key=gene_key, cells=cells, name=name)
    n_tokens = len(np.unique(best[known]))
    return GeneMap(
        token=best,
        key=best_key,
        n_genes=len(var),
        n_known=int(known.sum()),
        n_tokens=n_tokens,
        n_ensembl=0,
        n_symbol=int(known.sum()),
        n_alias=0,
        n_duplicates=int(known.sum()) - n_tokens,
        n_other_species=0,
        unknown_examples=first_names(best_names[~known & ~other], 5),
        n_other_features=features.n_left_out,
        feature_note=features.note,
    )


class _Published:
    """Symbol of a file -> token of the published table."""

    def __init__(self, table: GeneTable) -> None:
        self.token_of = {
            symbol: token
            for token, symbol in enumerate(table.symbols)
            if not symbol.startswith("<")
        }
        self.symbol_of = {
            gene: symbol for symbol, genes in own_symbols(table).items() for gene in genes
        }
        self.separators = loose_index(self.token_of)
        self.reader = Reader(
            exact=self._exact,
            loose=self._loose,
            loose_older=lambda name: None,
            numbered=numbered_symbols() | numbered_names(self.token_of),
            nobody=human_names().nobody,
            # where the family has no such id, the symbol next to it counts
            is_current=self.symbol_of.__contains__,
        )
        self.seen: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        """Token of a name, -1 where the family publishes no such symbol."""
        token = self.token_of.get(name, self.seen.get(name))
        if token is None:
            # ids alone are read by `map_genes`: they may know more genes than the symbols do
            alone = ensembl_genes(strip_genome(name))
            _, genes = self.reader.read(name) if not alone else UNKNOWN
            found = (self.token_of.get(self.symbol_of.get(gene, gene), -1) for gene in genes)
            token = self.seen[name] = next((token for token in found if token >= 0), -1)
        return token

    def _exact(self, name: str) -> Found | None:
        """Symbol as published; a name that means another human gene has no token."""
        if name in self.token_of:
            return Kind.SYMBOL, (name,)
        found = as_it_stands(name)
        if found is None or found[0] == Kind.ENSEMBL:
            return found
        return found[0], ()

    def _loose(self, name: str) -> Found | None:
        symbol = self.separators.get(loose_key(name.upper()))
        return (Kind.SYMBOL, (symbol,)) if symbol else None
