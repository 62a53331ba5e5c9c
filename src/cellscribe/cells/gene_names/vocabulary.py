"""The gene vocabulary: which gene is which token, and each gene's median.

A tokeniser needs the counts and one text file, ``genes.tsv`` (``token  ensembl_id  symbol
median``), special tokens first. It is plain text, so that a diff, a spreadsheet and other programs
can read it. Its content hash is stored with every embedding and every corpus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.synonyms import FILE as SYNONYMS
from cellscribe.cells.gene_names.synonyms import read_synonyms, synonyms_to_text
from cellscribe.config.files import read_text
from cellscribe.errors import InputError

SPECIAL_TOKENS = ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UKW]")
"""sc-FM's special tokens; their ids are their places, 0-4 (BioNeMo's geneformer vocabulary)."""
CLS, MASK, PAD, SEP, UKW = range(5)
ALSO_CALLED = {"[CLS]": "<cls>", "[MASK]": "<mask>", "[PAD]": "<pad>", "[SEP]": "<eos>"}
"""The same in Geneformer's dictionaries."""

COLUMNS = ("token", "ensembl_id", "symbol", "median")
Columns = tuple[list[str], list[str], list[float]]
"""Ids, symbols and medians, in token order."""
MAX_TOKENS = 1 << 16
"""Tokens are stored as uint16, and rank keys keep 16 bits for them."""


@dataclass(frozen=True, kw_only=True)
class GeneTable:
    """Genes in a fixed order, by Ensembl id, in which the columns of a file are looked up.

    Attributes
    ----------
    ids
        Special tokens, if there are any, then Ensembl gene ids without version.
    symbols
        Symbol of each gene, empty if it has none.
    n_special
        Number of special tokens, which are the first ids.
    synonyms
        How a published family reads names, where it has a rule of its own: further names in
        capitals -> token, -1 for a name that has none. An Ensembl id that is neither here nor in
        `ids` is then no gene of the table, whatever else is known of it.
    """

    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    n_special: int = 0
    synonyms: Mapping[str, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_genes(self) -> int:
        """How many ids are genes."""
        return len(self) - self.n_special

    @cached_property
    def token_of(self) -> dict[str, int]:
        """Ensembl id (or special token) -> its place, which is its token in a vocabulary."""
        return {name: token for token, name in enumerate(self.ids)}

    @cached_property
    def species(self) -> str:
        """Whose genes they are: "mouse" if most ids are Ensembl's of the mouse, else "human"."""
        n_mouse = sum(name.startswith("ENSMUSG") for name in self.ids)
        return "mouse" if 2 * n_mouse > self.n_genes else "human"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of ids and symbols, the first 16 hexadecimal digits."""
        return hashlib.sha256("\n".join((*self.ids, *self.symbols)).encode()).hexdigest()[:16]

    def to_text(self) -> str:
        """Render the table as ``genes.tsv``; the medians' column stays empty."""
        rows = zip(self.ids, self.symbols, strict=True)
        lines = (f"{token}\t{name}\t{symbol}\t" for token, (name, symbol) in enumerate(rows))
        return "\n".join(("\t".join(COLUMNS), *lines)) + "\n"

    def write(self, path: Path) -> None:
        """Write ``genes.tsv``."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> GeneTable:
        """Read ``genes.tsv`` without its medians.

        Raises
        ------
        InputError
            The file is missing, has other columns, or tokens out of order.
        """
        ids, symbols, _ = _read_columns(Path(path))
        return GeneTable(ids=tuple(ids), symbols=tuple(symbols))


@dataclass(frozen=True, kw_only=True)
class Vocabulary(GeneTable):
    """Genes in token order, with the medians that scale them.

    Attributes
    ----------
    ids
        ``V`` strings: the special tokens, then Ensembl gene ids without version.
    symbols
        ``V`` strings, empty where a gene has no symbol.
    medians
        ``V`` float64: median of a gene's non-zero counts per 10,000 over the training cells;
        NaN for special tokens.
    """

    medians: npt.NDArray[np.float64]
    n_special: int = len(SPECIAL_TOKENS)

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.symbols) == len(self.medians):
            raise InputError("gene table: ids, symbols and medians differ in length")
        if len(self.ids) > MAX_TOKENS:
            raise InputError(f"gene table: {len(self.ids):,} tokens, at most {MAX_TOKENS:,} fit")
        if len(set(self.ids)) != len(self.ids):
            raise InputError("gene table: an id stands twice; every token needs its own")
        medians = self.medians[self.n_special :]
        if not (np.isfinite(medians).all() and (medians > 0).all()):
            raise InputError("gene table: every gene needs a median above zero")

    def special(self, name: str) -> int:
        """Token of ``"[CLS]"``, ``"[MASK]"``, ``"[PAD]"`` or ``"[SEP]"``, as this table has it.

        Raises
        ------
        InputError
            The table has no such token.
        """
        for spelling in (name, ALSO_CALLED[name]):
            if spelling in self.token_of:
                return self.token_of[spelling]
        raise InputError(f"the gene table has no {name} token, which config.json asks for")

    def around(self, cls_token: bool, sep_token: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Find the tokens before and after the genes of every cell, see `special`."""
        front = (self.special("[CLS]"),) if cls_token else ()
        return front, (self.special("[SEP]"),) if sep_token else ()

    def to_text(self) -> str:
        """Render the table as ``genes.tsv``; medians keep every bit."""
        rows = ["\t".join(COLUMNS)]
        for token, (name, symbol, median) in enumerate(
            zip(self.ids, self.symbols, self.medians, strict=True)
        ):
            rows.append(
                f"{token}\t{name}\t{symbol}\t{'' if np.isnan(median) else repr(float(median))}"
            )
        return "\n".join(rows) + "\n"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of ids, symbols, medians (as float64) and synonyms, its first 16 digits."""
        names = "\n".join((*self.ids, *self.symbols)).encode()
        digest = hashlib.sha256(names + self.medians.astype("<f8").tobytes())
        if self.synonyms is not None:
            digest.update(synonyms_to_text(self.synonyms, self.ids).encode())
        return digest.hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write ``genes.tsv``, and ``gene_ids.tsv`` next to it if there are synonyms."""
        super().write(path)
        if self.synonyms is not None:
            text = synonyms_to_text(self.synonyms, self.ids)
            Path(path).with_name(SYNONYMS).write_text(text, encoding="utf-8")

    @classmethod
    def build(
        cls, ids: list[str], symbols: list[str], medians: npt.NDArray[np.float64]
    ) -> Vocabulary:
        """Put sc-FM's special tokens before the given genes."""
        n_special = len(SPECIAL_TOKENS)
        return cls(
            ids=(*SPECIAL_TOKENS, *ids),
            symbols=("",) * n_special + tuple(symbols),
            medians=np.concatenate([np.full(n_special, np.nan), np.asarray(medians, np.float64)]),
        )

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read ``genes.tsv``, and ``gene_ids.tsv`` next to it if there is one.

        Raises
        ------
        InputError
            The file is missing, has other columns, tokens out of order, or a bad median.
        """
        ids, symbols, medians = _read_columns(Path(path))
        n_special = next((i for i, name in enumerate(ids) if name[:1] not in "[<"), len(ids))
        if n_special == len(ids):
            raise InputError(f"{path}: no gene in it; copy the whole model folder")
        if lacking := [
            i for i, median in enumerate(medians) if i >= n_special and median != median
        ]:
            raise InputError(
                f"{path}, line {lacking[0] + 2}: every gene needs a median above zero, and "
                f"{ids[lacking[0]][:60]!r} has none"
            )
        return cls(
            ids=tuple(ids),
            symbols=tuple(symbols),
            medians=np.array(medians, dtype=np.float64),
            n_special=n_special,
            synonyms=read_synonyms(Path(path).with_name(SYNONYMS), ids),
        )


def _read_columns(path: Path) -> Columns:
    """Ids, symbols and medians of a ``genes.tsv``, in token order; NaN where a median is empty."""
    fix = "the gene table is missing or damaged: copy the whole model folder"
    lines = read_text(path, fix=fix).splitlines()
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise InputError(f"{path}: the first line must be {' '.join(COLUMNS)}, tab-separated")
    if len(lines) - 1 > MAX_TOKENS:
        raise InputError(f"{path}: {len(lines) - 1:,} tokens, at most {MAX_TOKENS:,} fit")
    return _whole_columns(lines[1:]) or _checked_columns(lines[1:], path)


def _whole_columns(lines: list[str]) -> Columns | None:
    """Read the columns of a table that is as it should be, in a few calls; None for any other."""
    if set(map(str.count, lines, repeat("\t"))) != {len(COLUMNS) - 1}:
        return None
    # by columns, as rows would be a list each, and Python's collector of garbage would walk them
    fields = "\t".join(lines).split("\t")
    tokens, ids, symbols, texts = (fields[column :: len(COLUMNS)] for column in range(len(COLUMNS)))
    if tokens != list(map(str, range(len(lines)))) or len(set(ids) - {""}) != len(ids):
        return None
    joined = "".join(texts)
    if not joined.isascii() or "_" in joined:
        return None
    try:
        medians = [float(text) if text else math.nan for text in texts]
    except ValueError:
        return None
    n_good = int(((values := np.array(medians)) > 0).sum() - np.isposinf(values).sum())
    return (ids, symbols, medians) if n_good + texts.count("") == len(texts) else None


def _checked_columns(lines: list[str], path: Path) -> Columns:
    """Read a table line by line, so that a message can name the first that is wrong."""
    ids: dict[str, int] = {}
    symbols, medians = [], []
    for place, line in enumerate(lines):
        where, fields = f"{path}, line {place + 2}", line.split("\t")
        if len(fields) != len(COLUMNS) or fields[0] != str(place) or not fields[1]:
            raise InputError(
                f"{where}: expected token {place}, an id, a symbol and a median, tab-separated"
            )
        if fields[1] in ids:
            raise InputError(
                f"{where}: an id stands twice: {fields[1][:60]!r} is in line {ids[fields[1]]} "
                "already, and every token needs its own"
            )
        ids[fields[1]] = place + 2
        symbols.append(fields[2])
        medians.append(_median(fields[3], where))
    return list(ids), symbols, medians


def _median(text: str, where: str) -> float:
    """Read a median: a number above zero, or nothing."""
    if not text:
        return np.nan
    try:
        # no "1_000", and no digits of other scripts, which `float` takes too
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{where}: {text[:60]!r} is not a median above zero")
    return value
