"""The gene vocabulary: which gene is which token, and each gene's median.

One text file, ``genes.tsv`` (``token  ensembl_id  symbol  median``), special tokens first, is all
that a tokeniser needs beside the counts. It is plain text so that a diff, a spreadsheet and another
program can read it; its content hash travels with every embedding and every corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError

SPECIAL_TOKENS = ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UKW]")
"""sc-FM's special tokens; their ids are their places, 0-4 (BioNeMo's geneformer vocabulary)."""
CLS, MASK, PAD, SEP, UKW = range(5)

COLUMNS = ("token", "ensembl_id", "symbol", "median")
MAX_TOKENS = 1 << 16
"""Tokens are stored as uint16, and rank keys keep 16 bits for them."""


@dataclass(frozen=True, kw_only=True)
class GeneTable:
    """Genes in a fixed order, by Ensembl id: what a file's columns are looked up in.

    Attributes
    ----------
    ids
        Special tokens if any, then Ensembl gene ids without version.
    symbols
        One a gene, empty where it has none.
    n_special
        How many of the first ids are no genes.
    """

    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    n_special: int = 0

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
        """SHA-256 of ids, symbols and medians (as float64), the first 16 hexadecimal digits."""
        names = "\n".join((*self.ids, *self.symbols)).encode()
        return hashlib.sha256(names + self.medians.astype("<f8").tobytes()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write ``genes.tsv``."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

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
        """Read ``genes.tsv``.

        Raises
        ------
        InputError
            The file is missing, has other columns, tokens out of order, or a bad median.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise InputError(
                f"{path}: the gene table is missing; copy the whole model folder"
            ) from None
        except UnicodeDecodeError:
            raise InputError(
                f"{path}: not a text file; a gene table is tab-separated UTF-8"
            ) from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if not lines or tuple(lines[0].split("\t")) != COLUMNS:
            raise InputError(f"{path}: the first line must be {' '.join(COLUMNS)}, tab-separated")
        ids, symbols, medians = [], [], []
        for place, line in enumerate(lines[1:]):
            fields = line.split("\t")
            if len(fields) != len(COLUMNS) or fields[0] != str(place) or not fields[1]:
                raise InputError(
                    f"{path}, line {place + 2}: expected token {place}, an id, a symbol and "
                    "a median, tab-separated"
                )
            ids.append(fields[1])
            symbols.append(fields[2])
            try:
                medians.append(float(fields[3]) if fields[3] else np.nan)
            except ValueError:
                raise InputError(
                    f"{path}, line {place + 2}: {fields[3]!r} is not a median"
                ) from None
        n_special = next((i for i, name in enumerate(ids) if name[:1] not in "[<"), len(ids))
        return cls(
            ids=tuple(ids),
            symbols=tuple(symbols),
            medians=np.array(medians, dtype=np.float64),
            n_special=n_special,
        )
