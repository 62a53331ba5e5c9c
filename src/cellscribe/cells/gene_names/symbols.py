"""Meaning of a gene identifier: the bundled table of human genes and their names.

Versions of Ensembl ids are dropped. An approved symbol wins over a previous one or an alias.
Another case is accepted where only one symbol fits. A name shared by several genes is unknown.
The table (``scripts/make_symbols.py`` makes it) is read once, when first needed.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.spellings import (
    Found,
    Kind,
    Reader,
    loose_index,
    loose_key,
    numbered_names,
    repeated,
)

if TYPE_CHECKING:
    import pandas as pd

# version, Y copy of a pseudoautosomal gene (ENSGR.. in older releases), suffix of a repeated name
_ENSEMBL = re.compile(
    r"ENSG(?:(\d{11})|R(\d{10}))(?:\.\d+)?([._-]PAR[._-]Y)?(?:[._-]\d+)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Table:
    """The bundled table: columns, and dictionaries that are made when first needed.

    A folded name is in capitals.
    """

    ids: tuple[str, ...]
    """Ensembl ids."""
    symbols: tuple[str, ...]
    """Symbol of each, "" if none."""
    biotypes: tuple[str, ...]
    """Biotype of each."""
    older: tuple[str, ...]
    """Previous symbols and aliases of each, with "|" between them."""
    nobody: frozenset[str]
    """Folded names with separators that are several genes', or one's that the table lacks."""

    @cached_property
    def symbol_of(self) -> dict[str, str]:
        """Ensembl id -> symbol ("" if none)."""
        return dict(zip(self.ids, self.symbols, strict=True))

    @cached_property
    def genes(self) -> dict[str, tuple[str, ...]]:
        """Symbol -> Ensembl ids, the preferred one first."""
        found = one_id_each(self.symbols, self.ids)
        shared = Counter(self.symbols).keys() - found.keys() - {""}
        several: dict[str, list[str]] = {}
        for symbol, gene in zip(self.symbols, self.ids, strict=True):
            if symbol in shared:
                several.setdefault(symbol, []).append(gene)
        return found | {symbol: tuple(ids) for symbol, ids in several.items()}

    @cached_property
    def lone(self) -> frozenset[str]:
        """Ensembl ids that share their symbol with no other."""
        twins = (ids for ids in self.genes.values() if len(ids) > 1)
        return frozenset(self.ids).difference(*twins)

    @cached_property
    def folded(self) -> dict[str, str]:
        """Folded symbol -> symbol, where only one fits."""
        folded: dict[str, str] = {}
        for symbol in self.genes:
            # two symbols that differ only in case leave no answer for a third spelling
            folded[symbol.upper()] = "" if symbol.upper() in folded else symbol
        return folded

    @cached_property
    def others(self) -> dict[str, str]:
        """Folded previous symbol or alias -> symbol."""
        others: dict[str, str] = {}
        for symbol, names in zip(self.symbols, self.older, strict=True):
            if names:
                others.update(dict.fromkeys(names.upper().split("|"), symbol))
        return others


@cache
def table() -> Table:
    """Read the bundled table; the same object at every call."""
    packed = (resources.files("cellscribe") / "bundled" / "symbols.tsv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    first = next(i for i, line in enumerate(lines) if line[0] != "#") + 1
    # columns, as rows would be a tuple each, and Python's collector of garbage would walk them all
    fields = "\t".join(lines[first:]).split("\t")
    numbers, symbols, biotypes, older = (fields[column::4] for column in range(4))
    place = numbers.index("")
    nobody = frozenset(older[place].split("|"))
    for column in (numbers, symbols, biotypes, older):
        del column[place]
    ids = tuple(["ENSG" + number.zfill(11) for number in numbers])
    return Table(ids, tuple(symbols), tuple(biotypes), tuple(older), nobody)


def one_id_each(symbols: Sequence[str], ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Symbol -> its id, without "" and symbols that stand twice.

    Parameters
    ----------
    symbols, ids
        Columns of a table of genes.
    """
    found: dict[str, tuple[str, ...]] = dict(zip(symbols, zip(ids, strict=True), strict=True))
    found.pop("", None)
    if len(found) < len(symbols):
        for symbol, times in Counter(symbols).items():
            if times > 1:
                found.pop(symbol, None)
    return found


def human_genes() -> pd.DataFrame:
    """Return the bundled table of human genes.

    Returns
    -------
    DataFrame with ``ensembl_id`` (without version), ``symbol`` ("" if none) and ``biotype``
    (Ensembl's, such as ``protein_coding``). A symbol may stand twice: its first row is preferred.
    """
    import pandas as pd

    known = table()
    return pd.DataFrame(
        {"ensembl_id": known.ids, "symbol": known.symbols, "biotype": known.biotypes}
    )


def ensembl_genes(name: str) -> tuple[str, ...]:
    """Ids that a human Ensembl id may mean, itself first; none for other names."""
    found = _ENSEMBL.fullmatch(name)
    if found is None:
        return ()
    known = table()
    number = found[1] or "0" + found[2]
    gene = "ENSG" + number
    # Ensembl lists some genes twice: where one id fails, its twin serves
    twins = known.genes.get(known.symbol_of.get(gene, ""), ())
    if found[2] or found[3]:
        return ("ENSGR" + number[1:], gene, *twins)
    return (gene, *twins)


def in_other_case(name: str) -> Found | None:
    """Genes of an approved symbol in another letter case, or of an older name."""
    known = table()
    if genes := known.genes.get(known.folded.get(name.upper(), "")):
        return Kind.SYMBOL, genes
    if symbol := known.others.get(name.upper()):
        return Kind.ALIAS, known.genes[symbol]
    return None


def as_it_stands(name: str) -> Found | None:
    """Genes of a name that the table knows without any rule."""
    if genes := table().genes.get(name):
        return Kind.SYMBOL, genes
    if genes := ensembl_genes(name):
        return Kind.ENSEMBL, genes
    return in_other_case(name)


def with_other_separators(name: str) -> Found | None:
    """Genes of the approved symbol that differs from a name by its separators."""
    symbol = _loose()[0].get(loose_key(name.upper()))
    return (Kind.SYMBOL, table().genes[symbol]) if symbol else None


def older_with_other_separators(name: str) -> Found | None:
    """Genes of the older name that differs from a name by its separators."""
    older = _loose()[1].get(loose_key(name.upper()))
    return (Kind.ALIAS, table().genes[table().others[older]]) if older else None


@cache
def _loose() -> tuple[dict[str, str], dict[str, str]]:
    """Symbols and older names by `loose_key`; a symbol's key is no older name's."""
    symbols = loose_index(table().genes)
    older = loose_index(table().others)
    return symbols, {key: name for key, name in older.items() if key not in symbols}


def is_current(gene: str) -> bool:
    """Whether the table has an Ensembl id: retired ids have no meaning."""
    return gene in table().symbol_of


@cache
def numbered_symbols() -> frozenset[str]:
    """Names, in capitals, after which a number is part of a symbol, as in IGHV3-30-2."""
    return numbered_names(table().genes)


@cache
def _reader() -> Reader:
    return Reader(
        exact=as_it_stands,
        loose=with_other_separators,
        loose_older=older_with_other_separators,
        numbered=numbered_symbols(),
        nobody=table().nobody,
        is_current=is_current,
    )


@lru_cache(maxsize=1 << 17)
def recognise(name: str) -> Found:
    """Find the kind of an identifier, and the Ensembl ids that it may mean, the best first.

    How a name may be spelled: ``spellings.py``.
    """
    return _reader().read(name)


def resolve(identifiers: Iterable[str]) -> list[str]:
    """Translate identifiers to human Ensembl ids, whatever the vocabulary.

    Parameters
    ----------
    identifiers
        Ensembl ids, symbols, previous symbols or aliases.

    Returns
    -------
    One Ensembl id without version for each, "" where there is none or more than one. An Ensembl id
    that the table lacks is returned without its version.
    """
    names = [as_text(name) for name in identifiers]
    there = frozenset(names)
    resolved = []
    for name in names:
        _, genes = recognise_among(name, there)
        resolved.append(next((gene for gene in genes if not gene.startswith("ENSGR")), ""))
    return resolved


def recognise_among(name: str, there: frozenset[str]) -> Found:
    """Recognise a name of a file whose names are `there`: a repeat may be of an older name."""
    found = recognise(name)
    if found[0] == Kind.NOTHING:
        bare = repeated(name, numbered_symbols())
        if bare is not None and bare in there:
            return recognise_among(bare, there)
    return found


def as_texts(values: Iterable[Any]) -> list[str]:
    """Turn values of a gene table into texts, see `as_text`."""
    found = list(values)
    # in two calls, as there may be 60,000 of them
    return list(map(str.strip if set(map(type, found)) == {str} else as_text, found))


def as_text(value: Any) -> str:
    """Turn a value of a gene table into text: bytes are decoded, None and NaN become ""."""
    if type(value) is str:
        return value.strip()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()
