"""Names of a file -> tokens of one vocabulary, each distinct name once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.orthologues import mouse_reader, orthologues
from cellscribe.cells.gene_names.spellings import (
    Found,
    Kind,
    Reader,
    loose_index,
    loose_key,
    numbered_names,
    repeated,
    strip_genome,
)
from cellscribe.cells.gene_names.symbols import (
    ensembl_genes,
    in_other_case,
    is_current,
    numbered_symbols,
    older_with_other_separators,
    one_id_each,
    recognise,
    table,
    with_other_separators,
)
from cellscribe.cells.gene_names.vocabulary import GeneTable

UNREAD, RETIRED = -2, -3
"""Stand in place of a token where a name has not been looked up, and where nobody knows it any
more."""


def lookup_of(vocabulary: GeneTable, species: str) -> Lookup:
    """Make the lookup of a vocabulary for a file of ``"human"`` or ``"mouse"`` genes."""
    return MouseLookup(vocabulary) if species == "mouse" else HumanLookup(vocabulary)


class Lookup:
    """Identifier -> how it is recognised, and its token; names are looked up once."""

    def __init__(self) -> None:
        # files often hold the same names twice, as var_names and in a column
        self.seen: dict[str, tuple[Kind, int]] = {}

    def __call__(self, name: str) -> tuple[Kind, int]:
        """Return how `name` is recognised and its token; a gene outside the vocabulary has -1."""
        found = self.seen.get(name)
        if found is None:
            found = self.seen[name] = self.find(name)
        return found

    def find_all(self, names: Sequence[str]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
        """Look up the ``U`` distinct names of a file: ``[U]`` kinds and ``[U]`` tokens."""
        there = frozenset(names)
        token = self.quick(names, there)
        kind = np.where(token == RETIRED, Kind.NOTHING, Kind.ENSEMBL).astype(np.int8)
        token[token == RETIRED] = -1
        for place in np.flatnonzero(token == UNREAD).tolist():
            kind[place], token[place] = self.among(names[place], there)
        return kind, token

    def quick(self, names: Sequence[str], there: frozenset[str]) -> npt.NDArray[np.int32]:
        """Tokens of the names that are Ensembl ids and need no rule, `UNREAD` for the others.

        A gene that the vocabulary has not has -1, one that is known no more `RETIRED`.
        """
        return np.full(len(names), UNREAD, dtype=np.int32)

    def among(self, name: str, there: frozenset[str]) -> tuple[Kind, int]:
        """Look up a name of a file whose names are `there`: a repeat may be of an older name."""
        found = self(name)
        if found[0] == Kind.NOTHING:
            bare = repeated(name, self.reader.numbered)
            if bare is not None and bare in there:
                return self.among(bare, there)
        return found

    @property
    def reader(self) -> Reader:
        """How a name is read."""
        raise NotImplementedError

    def find(self, name: str) -> tuple[Kind, int]:
        """Look up a name for the first time."""
        raise NotImplementedError

    def count_lost(self, names: Iterable[str]) -> int:
        """Count the names of genes that have no orthologue in the species of the vocabulary."""
        return 0


class HumanLookup(Lookup):
    """Identifier -> token of a vocabulary of human genes."""

    def __init__(self, vocabulary: GeneTable) -> None:
        super().__init__()
        self.token_of, self.synonyms = vocabulary.token_of, vocabulary.synonyms
        self.genes = table().genes
        # a vocabulary made with an older Ensembl release knows symbols that the table has not
        self.own = own_symbols(vocabulary)

    @property
    def reader(self) -> Reader:
        """Reader of the names of the table and of the vocabulary."""
        return self._reader

    @cached_property
    def _reader(self) -> Reader:
        return Reader(
            exact=self._exact,
            loose=self._loose,
            loose_older=older_with_other_separators,
            numbered=numbered_symbols() | numbered_names(self.own.keys() - self.genes.keys()),
            nobody=table().nobody,
            is_current=is_current,
        )

    @cached_property
    def own_loose(self) -> dict[str, str]:
        """Symbols that the table lacks, by `loose_key`."""
        return loose_index(self.own.keys() - self.genes.keys())

    @cached_property
    def odd(self) -> frozenset[str]:
        """Special tokens, and genes that are not Ensembl's."""
        return frozenset(name for name in self.token_of if name[:4] != "ENSG")

    def quick(self, names: Sequence[str], there: frozenset[str]) -> npt.NDArray[np.int32]:
        """Tokens of the names that are Ensembl ids and need no rule, `UNREAD` for the others."""
        if self.synonyms is not None:
            return super().quick(names, there)
        found = map(self.token_of.get, names, repeat(UNREAD))
        tokens = np.fromiter(found, dtype=np.int32, count=len(names))
        lone = table().lone
        for place in np.flatnonzero(tokens == UNREAD).tolist():
            if names[place] in lone:
                tokens[place] = -1
            elif self._is_retired(names[place]):
                tokens[place] = RETIRED
        if odd := self.odd & there:
            tokens[[place for place, name in enumerate(names) if name in odd]] = UNREAD
        return tokens

    def find(self, name: str) -> tuple[Kind, int]:
        """Look up a name for the first time."""
        if self.synonyms is None:
            return (Kind.NOTHING, -1) if self._is_retired(name) else self._look_up(name)
        return self._as_published(name) or self._look_up(name)

    def _is_retired(self, name: str) -> bool:
        """Whether a name is an Ensembl id that nobody knows any more, told in a few steps.

        A file of an older release has thousands; `_look_up` gives the same.
        """
        if name[:4] != "ENSG" or len(name) != 15 or not (name.isascii() and name[4:].isdigit()):
            return False
        return name not in table().symbol_of and name not in self.genes and name not in self.own

    def _as_published(self, name: str) -> tuple[Kind, int] | None:
        """Answer as the family's own tools do, Ensembl ids without their version; None for others.

        Elsewhere an id outside the vocabulary may stand for its twin, or leave its row to the
        file's symbols; published tokenisers take neither way.
        """
        kind, genes = recognise(name)
        is_id = kind == Kind.ENSEMBL
        # of the ids that `recognise` gives, those with another number are twins
        names = [name, *(gene for gene in genes if gene[-10:] == genes[0][-10:])]
        for spelling in names if is_id else [strip_genome(name)]:
            token = self._own_name(spelling.upper())
            if token is not None:
                return kind or Kind.ALIAS, token
        return (kind, -1) if is_id else None

    def _own_name(self, name: str) -> int | None:
        """Token of a name in capitals by the family's own names, else by the table's ids."""
        found = (self.synonyms or {}).get(name)
        return self.token_of.get(name) if found is None else found

    def _look_up(self, name: str) -> tuple[Kind, int]:
        kind, genes = self.reader.read(name)
        for gene in genes:
            if gene in self.token_of:
                return kind, self.token_of[gene]
        if kind == Kind.ENSEMBL and not any(map(is_current, genes)):
            # a retired id has no meaning: use the symbols of the file for this row
            return Kind.NOTHING, -1
        return kind, -1

    def _exact(self, name: str) -> Found | None:
        """Genes of a name that the table or the vocabulary knows as it stands."""
        own = self.own.get(name, ())
        if genes := self.genes.get(name):
            return Kind.SYMBOL, genes + own
        if genes := ensembl_genes(name):
            return Kind.ENSEMBL, genes
        return (Kind.SYMBOL, own) if own else in_other_case(name)

    def _loose(self, name: str) -> Found | None:
        own = self.own_loose.get(loose_key(name.upper()))
        return with_other_separators(name) or ((Kind.SYMBOL, self.own[own]) if own else None)


class MouseLookup(Lookup):
    """Identifier of a mouse gene -> token of its gene, or of the gene's human orthologue."""

    def __init__(self, vocabulary: GeneTable) -> None:
        super().__init__()
        self.token_of = vocabulary.token_of
        self.human = None if vocabulary.species == "mouse" else HumanLookup(vocabulary)
        own = {} if self.human else own_symbols(vocabulary)
        self._reader = mouse_reader(orthologues(), own)

    @property
    def reader(self) -> Reader:
        """Reader of the names of mouse genes."""
        return self._reader

    def find(self, name: str) -> tuple[Kind, int]:
        """Look up a name for the first time."""
        kind, genes = self.reader.read(name)
        if self.human is None:
            token = next((self.token_of[gene] for gene in genes if gene in self.token_of), -1)
            return kind, token
        human = [orthologues().human_of[gene] for gene in genes if gene in orthologues().human_of]
        if not human and kind != Kind.OTHER_SPECIES:
            # the table has no retired ids: use the symbols of the file for this row
            return Kind.NOTHING, -1
        return kind, next((token for gene in human if (token := self.human(gene)[1]) >= 0), -1)

    def count_lost(self, names: Iterable[str]) -> int:
        """Count the names of genes that have no orthologue in the species of the vocabulary."""
        if self.human is None:
            return 0
        return sum(1 for name in names if self(name)[0] == Kind.NOTHING)


def own_symbols(vocabulary: GeneTable) -> dict[str, tuple[str, ...]]:
    """Symbol -> the one id that a vocabulary gives it; symbols of two ids are left out."""
    genes = slice(vocabulary.n_special, None)
    return one_id_each(vocabulary.symbols[genes], vocabulary.ids[genes])
