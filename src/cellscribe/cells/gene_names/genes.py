"""Gene identifiers of a file -> tokens of a vocabulary.

Ensembl ids, symbols and older names are recognised, mixed or not, in ``var_names`` or in any var
column: the values decide, not the name of the column. An Ensembl id is exact, so a column of ids
is preferred if it has about as many known genes as the best one; its unknown rows are looked up in
the other columns. ``symbols.py`` has the meaning of an identifier.

Letters: ``G`` columns of the file, ``U`` distinct identifiers in one column of ``var``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.features import judge_features
from cellscribe.cells.gene_names.gene_refusals import Place, check_known, first_names
from cellscribe.cells.gene_names.lookup import Lookup, lookup_of
from cellscribe.cells.gene_names.spellings import Kind
from cellscribe.cells.gene_names.symbols import as_texts, human_genes, resolve
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.config import Species
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GeneMap", "human_genes", "map_genes", "resolve"]

VAR_NAMES = "var_names"
"""Key that stands for the names of the file's columns."""
NEAR_TIE = 0.95
"""A column with Ensembl ids is taken if it knows this share of the best column's genes."""
SAMPLE = 1_000
"""Values looked at before a column of ``var`` is read whole."""


@dataclass(frozen=True, kw_only=True)
class GeneMap:
    """Tokens of the columns of a file.

    Attributes
    ----------
    token
        ``[G]`` int32: token of each column of the file, -1 where the vocabulary has no such gene.
    key
        Place of the identifiers: ``"var_names"`` or the name of a var column.
    n_genes
        Columns of the file.
    n_known
        Columns with a token.
    n_tokens
        Distinct tokens hit.
    n_ensembl, n_symbol, n_alias
        How the known columns were recognised; previous symbols count as aliases.
    n_duplicates
        Columns that share a token with an earlier one; their counts are to be summed.
    n_other_species
        Columns left out because they are another species'.
    unknown_examples
        Up to five identifiers without a token.
    n_other_features
        Columns left out because the file says that they are not gene expression.
    feature_note
        What was decided of features whose kind the file does not say in known words.
    species
        Whose genes the file has.
    n_no_orthologue
        Columns of mouse genes left out because no one-to-one human orthologue of theirs is known.
    """

    token: npt.NDArray[np.int32]
    key: str
    n_genes: int
    n_known: int
    n_tokens: int
    n_ensembl: int
    n_symbol: int
    n_alias: int
    n_duplicates: int
    n_other_species: int
    unknown_examples: tuple[str, ...]
    n_other_features: int = 0
    feature_note: str = ""
    species: str = "human"
    n_no_orthologue: int = 0

    def summary(self) -> str:
        """Describe the map in one or two sentences."""
        ways = {
            "by Ensembl id": self.n_ensembl,
            "by symbol": self.n_symbol,
            "by an older name": self.n_alias,
        }
        how = ", ".join(f"{n:,} {way}" for way, n in ways.items() if n)
        genes = "genes" if self.species == "human" else f"{self.species} genes"
        text = (
            f"{self.n_known:,} of {self.n_genes:,} {genes} are known ({how}; read from {self.key})."
        )
        notes = {
            "repeat an earlier gene and are summed with it": self.n_duplicates,
            "belong to another species and are left out": self.n_other_species,
            "are not gene expression and are left out": self.n_other_features,
            "have no one-to-one human orthologue and are left out": self.n_no_orthologue,
        }
        notes = {note: n for note, n in notes.items() if n}
        if notes:
            text += f" Columns that {', '.join(f'{note}: {n:,}' for note, n in notes.items())}."
        return f"{text} Of features: {self.feature_note}." if self.feature_note else text


@dataclass(frozen=True)
class _Column:
    """One column of ``var``, read."""

    key: str
    names: npt.NDArray[np.object_]  # [G]
    kind: npt.NDArray[np.int8]  # [G]
    token: npt.NDArray[np.int32]  # [G]

    @property
    def n_tokens(self) -> int:
        return len(np.unique(self.token[self.token >= 0]))

    @property
    def is_ensembl(self) -> bool:
        known = self.kind[self.token >= 0]
        return bool(known.size) and float(np.mean(known == Kind.ENSEMBL)) > 0.5


def _read_column(key: str, values: Any, look_up: Lookup) -> _Column:
    """Look up every distinct value of a column once."""
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, distinct = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, distinct = pd.factorize(values.to_numpy(dtype=object))
    names = [*as_texts(distinct), ""]  # missing values have code -1
    kind_U, token_U = look_up.find_all(names)
    return _Column(key, np.array(names, dtype=object)[codes], kind_U[codes], token_U[codes])


def candidate_columns(var: pd.DataFrame, gene_key: str | None, name: str) -> dict[str, pd.Series]:
    """Return the columns to look at, ``var_names`` first."""
    import pandas as pd

    var_names = pd.Series(var.index.to_numpy(dtype=object))
    columns: dict[str, pd.Series] = {}
    for place, key in enumerate(var.columns):
        columns.setdefault(str(key), var.iloc[:, place])
    if gene_key is not None:
        if gene_key in columns:
            return {gene_key: columns[gene_key]}
        if gene_key in (VAR_NAMES, var.index.name):
            return {VAR_NAMES: var_names}
        available = ", ".join([VAR_NAMES, *columns])
        raise InputError(f"{name}: no var column {gene_key!r} (--gene-key); there are {available}")
    text = {}
    var_name_values = list(var_names)
    for key, column in columns.items():
        if list(column) == var_name_values:
            continue  # a copy of var_names
        values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
        if not pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            text[key] = column
    return {VAR_NAMES: var_names} | text


def _read_columns(candidates: dict[str, pd.Series], look_up: Lookup) -> list[_Column]:
    """Read the columns that a sample shows to be gene identifiers; the one to trust comes first."""
    n_genes = len(next(iter(candidates.values())))
    rows = np.unique(np.linspace(0, n_genes - 1, min(n_genes, SAMPLE)).astype(np.int64))
    scores = {
        key: _read_column(key, values.iloc[rows], look_up).n_tokens
        for key, values in candidates.items()
    }
    enough = max(scores.values()) / 2
    columns = [
        _read_column(key, values, look_up)
        for key, values in candidates.items()
        if scores[key] >= enough
    ]
    near = NEAR_TIE * max(column.n_tokens for column in columns)
    return sorted(
        columns,
        key=lambda column: (
            column.n_tokens < near,
            not column.is_ensembl,
            column.key != VAR_NAMES,
            -column.n_tokens,
        ),
    )


def map_genes(
    var: pd.DataFrame,
    vocabulary: GeneTable,
    *,
    gene_key: str | None = None,
    species: Species = "human",
    cells: Callable[[], Iterable[str]] | None = None,
    name: str = "input",
) -> GeneMap:
    """Find the gene identifiers of a file and give each of its columns a token.

    Parameters
    ----------
    var
        ``G`` rows: the file's gene table.
    vocabulary
        Genes that have tokens, by Ensembl id.
    gene_key
        The only place to look: a column of `var`, or ``"var_names"``.
    species
        Whose genes the file has. Those of ``"mouse"`` are read as their one-to-one human
        orthologues; a vocabulary of mouse genes reads them as they are, whatever is given here.
    cells
        Gives the names of the cells; asked for only to tell whether the file is transposed.
    name
        Name of the file in messages.

    Raises
    ------
    InputError
        There is no `gene_key`; the file is of another species, or genes x cells; it has fewer than
        10 % of the genes that it could have in common with the vocabulary.
    """
    if not len(var):
        raise InputError(f"{name}: no genes; the file has no columns")
    candidates = candidate_columns(var, gene_key, name)
    look_up = lookup_of(vocabulary, "mouse" if vocabulary.species == "mouse" else species)
    best, *rest = _read_columns(candidates, look_up)
    features = judge_features(var, name)
    token, kind = best.token.copy(), best.kind.copy()
    for column in rest:
        # an Ensembl id and another species are final; a symbol may replace anything else
        open_rows = (token < 0) & (kind != Kind.ENSEMBL) & (kind != Kind.OTHER_SPECIES)
        open_rows &= (column.token >= 0) & ((kind == Kind.NOTHING) | (column.kind == Kind.ENSEMBL))
        token[open_rows], kind[open_rows] = column.token[open_rows], column.kind[open_rows]
    token[features.left_out] = -1
    other = (kind == Kind.OTHER_SPECIES) & ~features.left_out
    own = ~other & ~features.left_out
    place = Place(
        name=name,
        key=best.key,
        tried=tuple(candidates),
        gene_key=gene_key,
        columns=(VAR_NAMES, *map(str, var.columns)),
        cells=cells,
    )
    check_known(best.names, kind, token, own, vocabulary, look_up, place)
    known = token >= 0
    n_tokens = len(np.unique(token[known]))
    return GeneMap(
        token=token,
        key=best.key,
        n_genes=len(var),
        n_known=int(known.sum()),
        n_tokens=n_tokens,
        n_ensembl=int((kind[known] == Kind.ENSEMBL).sum()),
        n_symbol=int((kind[known] == Kind.SYMBOL).sum()),
        n_alias=int((kind[known] == Kind.ALIAS).sum()),
        n_duplicates=int(known.sum()) - n_tokens,
        n_other_species=int(other.sum()),
        unknown_examples=first_names(best.names[own & ~known], 5),
        n_other_features=features.n_left_out,
        feature_note=features.note,
        species=look_up.reader.species,
        n_no_orthologue=look_up.count_lost(best.names[own & ~known]),
    )
