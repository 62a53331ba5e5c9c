"""Meaning of a gene identifier: the bundled table of human genes and their names.

Versions of Ensembl ids are dropped. An approved symbol wins over a previous one or an alias.
Another case is accepted where only one symbol fits. A name shared by several genes is unknown.
The table (``scripts/make_symbols.py`` makes it) is read once, when first needed.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_HUMAN_PREFIX = re.compile(r"^(?:GRCh3[78]|hg19|hg38)[_-]+", re.IGNORECASE)
_OTHER_SPECIES = re.compile(
    r"(?:mm\d+|GRCm\d+|rn\d+|Rnor\d*|mRatBN\d*)[_-]+.|ENS[A-FH-Z][A-Z]{2,5}G\d{11}", re.IGNORECASE
)
REPEAT = re.compile(r"(.+)[.-]\d+")
"""A name made unique: "TBCE-1" (anndata) or "TBCE.1" (R)."""
# version, Y copy of a pseudoautosomal gene (ENSGR.. in older releases), suffix of a repeated name
_ENSEMBL = re.compile(r"ENSG(?:(\d{11})|R(\d{10}))(?:\.\d+)?(_PAR_Y)?(?:[.-]\d+)?", re.IGNORECASE)


class Kind(IntEnum):
    """How an identifier was recognised."""

    NOTHING = 0
    ENSEMBL = 1
    SYMBOL = 2
    ALIAS = 3
    OTHER_SPECIES = 4


@dataclass(frozen=True)
class Table:
    """The bundled table as dictionaries; a folded name is in capitals."""

    rows: tuple[tuple[str, str, str], ...]
    """Ensembl id, symbol ("" if none), biotype."""
    symbol_of: dict[str, str]
    """Ensembl id -> symbol ("" if none)."""
    genes: dict[str, tuple[str, ...]]
    """Symbol -> Ensembl ids, the preferred one first."""
    folded: dict[str, str]
    """Folded symbol -> symbol, where only one fits."""
    others: dict[str, str]
    """Folded previous symbol or alias -> symbol."""


@cache
def table() -> Table:
    """Read the bundled table; the same object at every call."""
    packed = (resources.files("cellscribe") / "bundled" / "symbols.tsv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    rows, others = [], {}
    genes: dict[str, tuple[str, ...]] = {}
    for line in lines[next(i for i, line in enumerate(lines) if line[0] != "#") + 1 :]:
        number, symbol, biotype, names = line.split("\t")
        gene = "ENSG" + number.zfill(11)
        rows.append((gene, symbol, biotype))
        if symbol:
            genes[symbol] = (*genes[symbol], gene) if symbol in genes else (gene,)
        if names:
            others.update(dict.fromkeys(names.upper().split("|"), symbol))
    folded: dict[str, str] = {}
    for symbol in genes:
        # two symbols that differ only in case leave no answer for a third spelling
        folded[symbol.upper()] = "" if symbol.upper() in folded else symbol
    return Table(tuple(rows), {row[0]: row[1] for row in rows}, genes, folded, others)


def human_genes() -> pd.DataFrame:
    """Return the bundled table of human genes.

    Returns
    -------
    DataFrame with ``ensembl_id`` (without version), ``symbol`` ("" if none) and ``biotype``
    (Ensembl's, such as ``protein_coding``). A symbol may stand twice: its first row is preferred.
    """
    import pandas as pd

    return pd.DataFrame(list(table().rows), columns=["ensembl_id", "symbol", "biotype"])


def recognise(name: str) -> tuple[Kind, tuple[str, ...]]:
    """Find the kind of an identifier, and the Ensembl ids that it may mean, the best first."""
    known = table()
    if genes := known.genes.get(name):
        return Kind.SYMBOL, genes
    if found := _ENSEMBL.fullmatch(name):
        number = found[1] or "0" + found[2]
        gene = "ENSG" + number
        # Ensembl lists some genes twice: where one id fails, its twin serves
        twins = known.genes.get(known.symbol_of.get(gene, ""), ())
        if found[2] or found[3]:
            return Kind.ENSEMBL, ("ENSGR" + number[1:], gene, *twins)
        return Kind.ENSEMBL, (gene, *twins)
    if _OTHER_SPECIES.match(name):
        return Kind.OTHER_SPECIES, ()
    if (bare := bare_name(name)) != name:
        return recognise(bare)
    if genes := known.genes.get(known.folded.get(name.upper(), "")):
        return Kind.SYMBOL, genes
    if symbol := known.others.get(name.upper()):
        return Kind.ALIAS, known.genes[symbol]
    if (repeat := REPEAT.fullmatch(name)) and (genes := known.genes.get(repeat[1])):
        return Kind.SYMBOL, genes
    return Kind.NOTHING, ()


def bare_name(name: str) -> str:
    """Strip the genome that 10x puts before the genes of a mixture of species."""
    return _HUMAN_PREFIX.sub("", name, count=1)


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
    resolved = []
    for name in map(as_text, identifiers):
        _, genes = recognise(name)
        resolved.append(next((gene for gene in genes if not gene.startswith("ENSGR")), ""))
    return resolved


def as_text(value: Any) -> str:
    """Turn a value of a gene table into text: bytes are decoded, None and NaN become ""."""
    if type(value) is str:
        return value.strip()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()
