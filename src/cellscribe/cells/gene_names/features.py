"""Which features of a file are genes: antibodies, guides and peaks stand in the same tables.

An antibody may bear the name of a gene, and must never be counted as one. What a feature is, is
said in a column such as ``feature_types``, in the words of many tools. Known words decide. A
feature without a word is a gene, unless its gene is there already with a word: then it may be an
antibody, and is left out. Features of an unknown word are genes if most of their names are; where
these genes are there already, only the user can tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.spellings import Kind
from cellscribe.cells.gene_names.symbols import as_texts, recognise_among
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

GENE_EXPRESSION = "Gene Expression"
Mask = npt.NDArray[np.bool_]

_SURE_COLUMNS = ("featuretypes", "featuretype", "modality", "modalities", "featurebiotype")
_OTHER_COLUMNS = ("type", "mod", "assay", "featureclass")
"""Columns that say it in some files, and something else in others: unknown words mean nothing."""
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id", "id", "ensg")
_MISSING = {"", "nan", "na", "n a", "none", "null", "unknown", "unspecified"}
_GENE = re.compile(
    r"(?:(?:whole|targeted|single cell|single nucleus|spatial|human|mouse) )*"
    r"(?:genes?(?: exp(?:r|ression)?)?|geneexpression|gex|(?:m|sc|sn|c?d)?rna(?: ?seq)?"
    r"(?: expression)?|cdna|transcripts?|transcriptom(?:e|ics?)|expression|wta|endogenous"
    # biotypes of Ensembl and locus types of HGNC
    r"|protein coding(?: \w+)*|gene with protein product|tec|ribozyme|artifact|non coding"
    r"|sense (?:intronic|overlapping)|antisense|readthrough"
    r"|[a-z0-9 ]*(?:pseudogene|[a-z ]rna| gene|transcript))"
)
_OTHER = re.compile(
    r"\b(?:antibod\w*|ab|abs|abseq|pabo|adts?|htos?|hashtags?|hash\w*|proteins?|prot|proteom\w*"
    r"|surface|cite|cite ?seq|totalseq\w*|crispr|guides?|s?grnas?|perturbations?|peaks?|atac\w*"
    r"|chromatin|accessib\w*|activit\w*|multiplex\w*|cmos?|lmos?|custom|tags?|barcodes?|lineage"
    r"|spike ?ins?|ercc|vdj|tcrs?|bcrs?|tetramers?|dextramers?|antigens?|metabol\w*|lipid\w*"
    r"|methyl\w*|cnvs?|snps?|variants?|morpholog\w*|images?|fluor\w*|controls?|blank|regulons?"
    r"|motifs?|unspliced|introns?|intronic|scores?|signatures?)\b"
)
_CODING = re.compile(r"protein coding|gene with protein")


class _State(IntEnum):
    """What is known of a feature; the larger of two columns counts."""

    MISSING = 0
    UNKNOWN = 1
    GENE = 2
    OTHER = 3


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a file, judged.

    Attributes
    ----------
    left_out
        ``[G]``: what is no gene.
    kinds
        The file's words for what is left out.
    note
        What a user should know of features without a known word; "" if there is nothing.
    """

    left_out: Mask
    kinds: tuple[str, ...] = ()
    note: str = ""

    @property
    def n_left_out(self) -> int:
        """How many features are left out."""
        return int(self.left_out.sum())


def genes_only(var: pd.DataFrame, name: str, log: Log) -> Mask | None:
    """Mark the genes among the features; None if there is nothing else.

    Raises
    ------
    InputError
        See `judge_features`.
    """
    features = judge_features(var, name)
    if not features.n_left_out:
        return None
    kinds = ", ".join(features.kinds)
    log(f"{name}: {features.n_left_out:,} features left out that are not genes ({kinds})")
    return ~features.left_out


def not_genes(var: pd.DataFrame, name: str = "input") -> Mask:
    """Mark antibodies, guides, peaks and the like; see `judge_features`."""
    return judge_features(var, name).left_out


def judge_features(var: pd.DataFrame, name: str = "input") -> Features:
    """Tell genes from other features by the columns that say what a feature is.

    Parameters
    ----------
    var
        ``G`` rows: the file's table of features.
    name
        Name of the file in messages.

    Raises
    ------
    InputError
        Not one feature is a gene; features of an unknown word bear the names of genes that are
        there already.
    """
    state, words, key = _read_words(var)
    left_out = state == _State.OTHER
    if len(var) and left_out.all():
        raise InputError(
            f"{name}: no features of type {GENE_EXPRESSION!r}, only {_few(words)} (var column "
            f"{key!r}); give the gene-expression matrix"
        )
    notes = []
    if (state == _State.UNKNOWN).any() and len(set(words)) > 1:
        notes += _judge_unknown(var, state, words, name, key, left_out)
    missing = state == _State.MISSING
    typed = ~missing & ~left_out
    if missing.any() and typed.any():
        held = set(_genes_of(var, typed)) - {""}
        again = np.isin(_genes_of(var, missing), list(held))
        if again.any():
            left_out[np.flatnonzero(missing)[again]] = True
            words[missing] = f"nothing in {key!r}, and the gene is there already"
            notes.append(
                f"{int(again.sum()):,} features without a word in {key!r} are left out: their "
                "genes are there with one"
            )
    return Features(left_out=left_out, kinds=_distinct(words[left_out]), note="; ".join(notes))


def _read_words(var: pd.DataFrame) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.object_], str]:
    """State of each feature, the word that says so, and the column of the words.

    Returns
    -------
    ``[G]`` states, ``[G]`` words ("" where there is none), and the name of the column.
    """
    import pandas as pd

    state = np.full(len(var), _State.MISSING, dtype=np.int8)
    words = np.full(len(var), "", dtype=object)
    used = ""
    for place, column in enumerate(var.columns):
        key = re.sub(r"[\W_]+", "", str(column).lower())
        if key not in _SURE_COLUMNS and key not in _OTHER_COLUMNS:
            continue
        codes, distinct = pd.factorize(var.iloc[:, place].to_numpy(dtype=object))
        texts = [*as_texts(distinct), ""]
        states = [_state_of(text) for text in texts]
        if key in _OTHER_COLUMNS:
            if not {_State.GENE, _State.OTHER} <= set(states):
                continue
            states = [_State.GENE if s == _State.UNKNOWN else s for s in states]
        here = np.array(states, dtype=np.int8)[codes]
        better = here > state
        if better.any():
            used = used or str(column)
            state[better] = here[better]
            words[better] = np.array(texts, dtype=object)[codes][better]
    return state, words, used


def names_genes(word: str) -> bool:
    """Tell whether a word, such as "rna" or "Gene Expression", says that features are genes."""
    return _state_of(word) == _State.GENE


def _state_of(word: str) -> _State:
    """Read one word of a file."""
    plain = " ".join(re.findall(r"[a-z0-9]+", word.lower()))
    if plain in _MISSING:
        return _State.MISSING
    if _OTHER.search(plain) and not _CODING.match(plain):
        return _State.OTHER
    return _State.GENE if _GENE.fullmatch(plain) else _State.UNKNOWN


def _judge_unknown(
    var: pd.DataFrame,
    state: npt.NDArray[np.int8],
    words: npt.NDArray[np.object_],
    name: str,
    key: str,
    left_out: Mask,
) -> list[str]:
    """Judge the features of unknown words by their names, the largest kind first.

    `state` and `left_out` are written to.
    """
    unknown = state == _State.UNKNOWN
    held = set(_genes_of(var, state == _State.GENE)) - {""}
    kinds = set(words[unknown]) | {""}
    by_size = sorted(kinds, key=lambda word: (-int((words == word).sum()), word))
    genes, others = [], []
    for word in by_size:
        rows = (words == word) & ~left_out
        found = set(_genes_of(var, rows)) - {""}
        if not word:  # features without a word are judged when all others are
            held |= found
            continue
        if 2 * len(found) < int(rows.sum()):
            others.append(word)
            left_out |= rows
        elif held and 2 * len(found & held) > len(found):
            raise InputError(
                f"{name}: the var column {key!r} says {_few([word])} of {int(rows.sum()):,} "
                f"features whose names are genes that are there already; write {GENE_EXPRESSION!r} "
                "there if they are genes, else take them out of the file"
            )
        else:
            genes.append(word)
            held |= found
            state[rows] = _State.GENE
    if not (state == _State.GENE).any() and not (words == "").any():
        left_out &= ~unknown  # nothing is known: the names decide as in a file without the column
        return []
    told = []
    if genes:
        told.append(f"{_few(genes)} in {key!r} taken as genes, as most of their names are")
    if others:
        told.append(f"{_few(others)} in {key!r} left out, as most of their names are no genes")
    return told


def _genes_of(var: pd.DataFrame, rows: Mask) -> npt.NDArray[np.object_]:
    """Gene of each of the rows by its id or name, "" where there is none."""
    names = as_texts(var.index.to_numpy(dtype=object)[rows])
    there = frozenset(names)
    columns = [
        as_texts(var.iloc[:, place].to_numpy(dtype=object)[rows])
        for place, column in enumerate(var.columns)
        if str(column).lower() in _ID_COLUMNS
    ]
    genes = []
    for values in zip(*columns, names, strict=True):
        found = [(value, *recognise_among(value, there)) for value in values]
        known = [(value, ids) for value, kind, ids in found if kind != Kind.NOTHING]
        # genes of another species are their own names
        genes.append((known[0][1][0] if known[0][1] else known[0][0]) if known else "")
    return np.array(genes, dtype=object)


def _distinct(words: npt.NDArray[np.object_]) -> tuple[str, ...]:
    return tuple(sorted({_short(word) for word in words}))


def _few(words: Iterable[str]) -> str:
    """Quote the first three of some words."""
    distinct = sorted(set(words))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(repr(_short(word)) for word in distinct[:3]) + more


def _short(word: str) -> str:
    return word if len(word) <= 40 else word[:37] + "..."
