"""Gene tables of families whose genes are symbols, and the columns of a file with those symbols.

These families match symbols exactly and know no older names, and so does `map_symbols`. A file
without such symbols is read by its Ensembl ids, as for our own models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellscribe.cells.features import not_genes
from cellscribe.cells.genes import (
    MIN_KNOWN,
    GeneMap,
    candidate_columns,
    first_names,
    human_genes,
    map_genes,
)
from cellscribe.cells.symbols import as_text
from cellscribe.cells.vocabulary import GeneTable

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
    var: pd.DataFrame, table: GeneTable, *, gene_key: str | None = None, name: str = "input"
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
    name
        Name of the file in messages.

    Raises
    ------
    InputError
        See `cells.genes.map_genes`.
    """
    token_of = {
        symbol: token for token, symbol in enumerate(table.symbols) if not symbol.startswith("<")
    }
    other = not_genes(var)
    best_key, best_names = "", np.empty(0, dtype=object)
    best = np.full(len(var), -1, dtype=np.int32)
    for key, column in candidate_columns(var, gene_key, name).items() if len(var) else ():
        names = np.array([as_text(value) for value in column], dtype=object)
        token = np.array([token_of.get(symbol, -1) for symbol in names], dtype=np.int32)
        token[other] = -1
        if len(np.unique(token)) > len(np.unique(best)):
            best_key, best_names, best = key, names, token
    known = best >= 0
    enough = MIN_KNOWN * min(int((~other).sum()), len(token_of))
    if known.sum() < max(enough, 1):
        return map_genes(var, table, gene_key=gene_key, name=name)
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
        n_other_features=int(other.sum()),
    )
