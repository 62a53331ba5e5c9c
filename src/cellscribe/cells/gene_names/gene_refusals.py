"""Files whose genes a vocabulary does not know: what is there instead, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.lookup import Lookup
from cellscribe.cells.gene_names.orthologues import orthologues
from cellscribe.cells.gene_names.spellings import Kind
from cellscribe.cells.gene_names.symbols import ensembl_genes, table
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.errors import InputError

MIN_KNOWN = 0.10
"""Least share of known genes, of the file's columns of the species or of a smaller vocabulary."""
MIN_BESIDE_OTHERS = 0.01
"""Known columns per column of another species, at least: below it the file is of that species."""
FIRST = 200
"""Names that are looked at to tell what they are."""

Mask = npt.NDArray[np.bool_]
_TITLE_CASE = re.compile(r"(?:mt-)?[A-Z][a-z0-9]*[a-z][a-z0-9.-]*")
_SPECIES = {"ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish"}
_MOUSE = ("MM", "GRCM", "MOUSE", "MUS")
_RAT = ("RN", "RNO", "RAT", "MRAT")
_NO_GENES = {
    "Ensembl ids of transcripts; sum them by gene": r"ENS[A-Z]*T\d{11}.*",
    "Ensembl ids of proteins": r"ENS[A-Z]*P\d{11}.*",
    "RefSeq ids": r"[NX][MRP]_\d+.*",
    "regions of the genome": r"(?:chr)?[\dXYM]+[:_-]\d+[_-]\d+",
    "barcodes of cells": r".*[ACGT]{10,}(?:[-_.].*)?",
    "numbers, such as Entrez ids or row numbers": r"\d+(?:\.\d+)?",
    "UniProt ids": r"[OPQ]\d[A-Z\d]{3}\d|[A-NR-Z]\d[A-Z][A-Z\d]{2}\d",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where genes were looked for.

    Attributes
    ----------
    name
        Name of the file in messages.
    key
        Column that was read: ``"var_names"`` or one of var.
    tried
        All columns that were looked at.
    gene_key
        The column that the user named.
    columns
        All columns that there are.
    cells
        Gives the names of the cells, asked for only if the genes are not known.
    """

    name: str
    key: str
    tried: tuple[str, ...]
    gene_key: str | None
    columns: tuple[str, ...]
    cells: Callable[[], Iterable[str]] | None


def check_known(
    names: npt.NDArray[np.object_],
    kind: npt.NDArray[np.int8],
    token: npt.NDArray[np.int32],
    own: Mask,
    vocabulary: GeneTable,
    look_up: Lookup,
    place: Place,
) -> None:
    """Refuse another species' genes, and files of which too little is known.

    Parameters
    ----------
    names, kind, token
        ``[G]``: identifiers of the file, how they were recognised, and their tokens.
    own
        ``[G]``: gene columns that no prefix or id gives to another species.
    vocabulary
        Genes that were looked for.
    look_up
        How they were looked up.
    place
        Where they were looked for.

    Raises
    ------
    InputError
        As said; the line tells what is there instead.
    """
    other = kind == Kind.OTHER_SPECIES
    n_known, n_own, n_other = int((token >= 0).sum()), int(own.sum()), int(other.sum())
    few = n_known == 0 or n_known < MIN_KNOWN * min(n_own, vocabulary.n_genes)
    mouse = look_up.reader.species == "mouse"
    title = [] if mouse else _in_title_case(names[own])
    # a species' own symbols are counted among all that have a name
    looks_mouse = bool(title) and 2 * len(title) > sum(1 for name in names[own] if name)
    beside = n_known < MIN_BESIDE_OTHERS * n_other
    if not (few or looks_mouse or beside):
        return
    if few:
        _check_transposed(names, look_up, place)
    expected = _expected(vocabulary, "mouse" if mouse else "human")
    if mouse:
        human = [n for n in names if n in table().genes or ensembl_genes(n)]
        if 2 * len(human) > len(names) or beside:
            _refuse_human(human or names[other], vocabulary, expected, place)
    elif looks_mouse:
        _refuse_species("mouse", title, expected, place)
    elif (few and 2 * n_other > len(other)) or beside:
        _refuse_species(_species_of(names[other]), names[other], expected, place)
    found = ", ".join(first_names(names[own], 3)) or "only empty names"
    raise InputError(
        f"{place.name}: {n_known:,} of {n_own:,} genes are known to the model, too few (found "
        f"{found} in {place.key}{_reason(names[own], kind[own])}; expected {expected}; looked at "
        f"{', '.join(place.tried)}); {_fix(place)}"
    )


def _in_title_case(names: Iterable[str]) -> list[str]:
    names = list(names)
    if (joined := "".join(names)) == joined.upper():
        return []  # as all Ensembl ids are
    return [n for n in names if _TITLE_CASE.fullmatch(n) and "orf" not in n]


def _species_of(names: Iterable[str]) -> str:
    """Species of names that a prefix or an id gives to another one."""
    start = next(iter(names), "").upper()
    if start.startswith(_MOUSE) or "ENSMUSG" in start:
        return "mouse"
    return _SPECIES.get(start[:7], "rat" if start.startswith(_RAT) else "another species")


def _expected(vocabulary: GeneTable, species: str) -> str:
    """Give examples of what is read."""
    genes = range(vocabulary.n_special, min(vocabulary.n_special + 3, len(vocabulary)))
    examples = [(vocabulary.ids[token], vocabulary.symbols[token]) for token in genes]
    if species == "mouse" and vocabulary.species == "human":
        symbol_of = {gene: symbol for symbol, gene in orthologues().genes.items()}
        examples = [(gene, symbol_of.get(gene, "")) for gene in islice(orthologues().human_of, 3)]
    shown = (f"{gene} ({symbol})" if symbol else gene for gene, symbol in examples)
    return f"{species} genes such as {', '.join(shown)}"


def _check_transposed(names: npt.NDArray[np.object_], look_up: Lookup, place: Place) -> None:
    """Refuse a file that is genes x cells: its cells bear the names of genes."""
    if place.cells is None:
        return
    first = [str(name) for name in islice(place.cells(), FIRST)]
    mouse = orthologues().genes
    genes = [name for name in first if look_up(name)[0] != Kind.NOTHING or name in mouse]
    if len(genes) > max(1, len(first) // 2):
        raise InputError(
            f"{place.name}: genes x cells: its cells are named {', '.join(genes[:3])}, its genes "
            f"{', '.join(first_names(names, 3)) or 'nothing'}; transpose it (adata.T in Python, "
            "then write it) and give that"
        )


def _refuse_species(species: str, found: Iterable[str], expected: str, place: Place) -> NoReturn:
    fix = (
        "give --species mouse to read them as their one-to-one human orthologues"
        if species == "mouse"
        else "map them to their human orthologues first and name that column with --gene-key"
    )
    raise InputError(
        f"{place.name}: the genes look like {species} (found {', '.join(first_names(found, 3))} in "
        f"{place.key}; expected {expected}); {fix}"
    )


def _refuse_human(
    found: Iterable[str], vocabulary: GeneTable, expected: str, place: Place
) -> NoReturn:
    fix = "give a model of human genes" if vocabulary.species == "mouse" else "leave --species out"
    raise InputError(
        f"{place.name}: the genes look human (found {', '.join(first_names(found, 3))} in "
        f"{place.key}; expected {expected}); {fix}"
    )


def _reason(names: npt.NDArray[np.object_], kind: npt.NDArray[np.int8]) -> str:
    """Tell what most of the names are; "" where they are nothing in particular."""
    named = [name for name in names if name]
    first = named[:FIRST]
    for what, pattern in _NO_GENES.items():
        like = re.compile(pattern)
        if 2 * sum(1 for name in first if like.fullmatch(name)) > len(first):
            return f", which are {what}"
    n_genes = int((kind != Kind.NOTHING).sum())
    if 2 * n_genes > len(named):
        return ", which are genes, but not the model's"
    return ""


def _fix(place: Place) -> str:
    """Say what to do: only columns that are there, and were not read, can be named."""
    others = [column for column in place.columns if column not in place.tried]
    if place.gene_key is not None and others:
        return (
            f"leave --gene-key out, or name another column of var with it ({', '.join(others[:9])})"
        )
    return "put Ensembl ids or symbols into var_names or a column of var"


def first_names(names: Iterable[str], n: int) -> tuple[str, ...]:
    """Return the first `n` distinct names, shortened for a message."""
    found: dict[str, None] = {}
    for name in names:
        if name:
            found[name if len(name) <= 40 else name[:37] + "..."] = None
        if len(found) == n:
            break
    return tuple(found)
