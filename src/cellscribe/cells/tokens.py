"""Tokens of cells, packed: the output of every tokeniser and the input of every network.

One array holds the tokens of all cells, one cell after the other; offsets give the start of each.
For families that read expression values as well, a second array holds one value per token.

Letters: ``B`` cells, ``G`` columns of the file, ``N`` tokens of all cells together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PER_CELL = ("umis", "umis_known", "genes", "genes_known")
"""Fields of `CellTokens` with one value a cell."""


@dataclass(frozen=True, kw_only=True)
class CellTokens:
    """Tokens of ``B`` cells, packed, and the totals of the counts that they were made from."""

    tokens: npt.NDArray[np.uint16]
    """``[N]`` tokens of all cells, one cell after the other."""
    offsets: npt.NDArray[np.int64]
    """``[B + 1]``: cell i is ``tokens[offsets[i] : offsets[i + 1]]``."""
    umis: npt.NDArray[np.int64]
    """``[B]`` counts of the cell over all columns of the file, to the nearest whole number."""
    umis_known: npt.NDArray[np.int64]
    """``[B]`` of these, counts on genes that the vocabulary knows."""
    genes: npt.NDArray[np.int32]
    """``[B]`` columns with a count."""
    genes_known: npt.NDArray[np.int32]
    """``[B]`` distinct tokens with a count, before any cut to the context."""
    values: npt.NDArray[np.float32] | None = None
    """``[N]`` value of each token, for families that read values."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``[B]`` tokens a cell."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> CellTokens:
        """Cells `start` to `stop`, sharing memory."""
        first, last = self.offsets[start], self.offsets[stop]
        return CellTokens(
            tokens=self.tokens[first:last],
            offsets=self.offsets[start : stop + 1] - first,
            values=None if self.values is None else self.values[first:last],
            **{name: getattr(self, name)[start:stop] for name in PER_CELL},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CellTokens]) -> CellTokens:
        """Cells of all parts, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        values = [part.values for part in parts if part.values is not None]
        return cls(
            tokens=np.concatenate([part.tokens for part in parts]),
            offsets=_starts(lengths),
            values=np.concatenate(values) if values else None,
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in PER_CELL},
        )


Tokenize = Callable[[Any, npt.NDArray[np.int32]], CellTokens]
"""From raw counts ``[B, G]`` (CSR) and the token of each column ``[G]`` to tokens."""


def known_counts(counts: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
    """Counts of the genes that a vocabulary knows, as tokens with values.

    Parameters
    ----------
    counts
        ``[B, G]`` raw counts.
    token_of_column
        ``[G]`` token of each column, -1 where unknown; columns that share a token are summed.

    Returns
    -------
    CellTokens
        Each cell's tokens ascending, zeros dropped; `values` are the counts.
    """
    from scipy.sparse import csr_matrix

    counts = csr_matrix(counts)
    columns = np.flatnonzero(token_of_column >= 0)
    n_tokens = int(token_of_column.max(initial=-1)) + 1
    to_tokens = csr_matrix(
        (np.ones(len(columns)), (columns, token_of_column[columns])),
        shape=(counts.shape[1], n_tokens),
    )
    known = csr_matrix(counts.astype(np.float64) @ to_tokens)
    known.eliminate_zeros()
    known.sort_indices()
    lengths = np.diff(known.indptr).astype(np.int64)
    return CellTokens(
        tokens=known.indices.astype(np.uint16),
        offsets=_starts(lengths),
        values=known.data.astype(np.float32),
        umis=_row_sums(counts),
        umis_known=_row_sums(known),
        genes=np.asarray((counts != 0).sum(axis=1)).ravel().astype(np.int32),
        genes_known=lengths.astype(np.int32),
    )


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _row_sums(counts: csr_matrix) -> npt.NDArray[np.int64]:
    return np.rint(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()).astype(np.int64)
