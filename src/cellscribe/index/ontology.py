"""The Cell Ontology: what a label's name stands for, and what it is a kind of.

``bundled/cell_ontology.tsv.gz`` (`scripts/make_cell_ontology.py`) holds id, name, synonyms and
parents of each term that is not obsolete.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from cellscribe.index.store import BUNDLED

TABLE = BUNDLED / "cell_ontology.tsv.gz"
ROOT = "CL:0000000"
"""The term cell."""


@dataclass(frozen=True)
class Term:
    """A kind of cell."""

    id: str
    name: str
    parents: tuple[str, ...]
    synonyms: tuple[str, ...]


@cache
def terms() -> dict[str, Term]:
    """Read the ontology: id -> term."""
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    found = {}
    for key, name, parents, synonyms in rows:
        words = tuple(filter(None, synonyms.split("|")))
        found[key] = Term(key, name, tuple(parents.split()), words)
    return found


@cache
def ancestors(term: str) -> frozenset[str]:
    """A term and all that it is a kind of."""
    found, waiting = {term}, [term]
    while waiting:
        for parent in terms()[waiting.pop()].parents:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)


def match_labels(labels: Iterable[str]) -> dict[str, str]:
    """Find the terms of labels that are ids, names or exact synonyms; label -> id.

    A synonym that several terms share is none.
    """
    by_name = _by_name()
    found = {label: by_name.get(label.casefold().strip(), "") for label in labels}
    return {label: term for label, term in found.items() if term}


@cache
def _by_name() -> dict[str, str]:
    table = terms().values()
    synonyms: dict[str, set[str]] = {}
    for term in table:
        for word in term.synonyms:
            synonyms.setdefault(word.casefold(), set()).add(term.id)
    found = {word: min(ids) for word, ids in synonyms.items() if len(ids) == 1}
    found |= {term.name.casefold(): term.id for term in table}
    return found | {term.id.casefold(): term.id for term in table}


def common_parents(ids: Sequence[str]) -> list[str]:
    """Terms above two or more different ids, none of which is above all of them."""
    different = set(ids)
    above: dict[str, int] = {}
    for term in different:
        for parent in ancestors(term) - different:
            above[parent] = above.get(parent, 0) + 1
    return sorted(t for t, n in above.items() if 1 < n < len(different) and t != ROOT)
