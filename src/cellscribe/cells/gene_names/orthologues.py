"""Mouse genes: their names, and the one human gene that each is the orthologue of.

The bundled table holds one-to-one orthologues only (``scripts/make_orthologues.py`` makes it): the
counts of a gene with none, or with several, have no place in a model of human genes. Names are read
by the rules of ``spellings.py``, but for the letter case: it tells mouse from man.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cellscribe.cells.gene_names.spellings import (
    Found,
    Kind,
    Reader,
    loose_index,
    loose_key,
    numbered_names,
)

_ENSEMBL = re.compile(r"ENSMUSG(\d{11})(?:\.\d+)?(?:[._-]\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class MouseTable:
    """The table as dictionaries; ids are Ensembl's, without version."""

    human_of: dict[str, str]
    """Mouse id -> id of its human orthologue."""
    genes: dict[str, str]
    """Symbol -> mouse id."""
    others: dict[str, str]
    """Older name -> mouse id."""


def read_table(text: str) -> MouseTable:
    """Read the text of the table."""
    lines = text.splitlines()
    human_of, genes, others = {}, {}, {}
    for line in lines[next(i for i, line in enumerate(lines) if line[0] != "#") + 1 :]:
        mouse, human, symbol, names = line.split("\t")
        gene = "ENSMUSG" + mouse.zfill(11)
        human_of[gene] = "ENSG" + human.zfill(11)
        if symbol:
            genes[symbol] = gene
        if names:
            others.update(dict.fromkeys(names.split("|"), gene))
    return MouseTable(human_of, genes, others)


@cache
def orthologues() -> MouseTable:
    """Read the bundled table; the same object at every call."""
    packed = (resources.files("cellscribe") / "bundled" / "orthologues.tsv.gz").read_bytes()
    return read_table(gzip.decompress(packed).decode())


def mouse_reader(table: MouseTable, own: dict[str, tuple[str, ...]] | None = None) -> Reader:
    """Reader of the names of mouse genes; what it finds are mouse ids.

    Parameters
    ----------
    table
        The table of orthologues.
    own
        Further symbols, those of a vocabulary of mouse genes.
    """
    own = own or {}
    symbols = loose_index({**table.genes, **own}, fold=False)
    older = loose_index(table.others, fold=False)

    def of_symbol(name: str) -> Found | None:
        if name in own:
            return Kind.SYMBOL, own[name]
        if name in table.genes:
            return Kind.SYMBOL, (table.genes[name],)
        return None

    def exact(name: str) -> Found | None:
        if found := of_symbol(name):
            return found
        if match := _ENSEMBL.fullmatch(name):
            return Kind.ENSEMBL, ("ENSMUSG" + match[1],)
        return (Kind.ALIAS, (table.others[name],)) if name in table.others else None

    def loose(name: str) -> Found | None:
        return of_symbol(symbols.get(loose_key(name), ""))

    def loose_older(name: str) -> Found | None:
        found = older.get(loose_key(name))
        return (Kind.ALIAS, (table.others[found],)) if found else None

    return Reader(
        exact=exact,
        loose=loose,
        loose_older=loose_older,
        numbered=numbered_names([*table.genes, *own]),
        is_current=lambda gene: gene in table.human_of,
        species="mouse",
    )
