"""Medians of genes' non-zero normalised counts over any number of cells, in bounded memory.

Up to `EXACT_VALUES` values they are exact. With more values, each gene has a histogram over
logarithmic bins, 128 per doubling (the idea of DDSketch, Masson et al., VLDB 2019): the error of a
median is then at most `LARGEST_ERROR` for any data. Unlike with a t-digest or a KLL sketch, the
result depends neither on the order of the cells nor on chance, so a corpus has one gene table.

Letters: ``B`` cells, ``V`` tokens, ``N`` non-zero values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

SCALE = 1e4
"""Sum to which the counts of a cell are normalised (Geneformer, sc-FM)."""
EXACT_VALUES = 1 << 25
"""Largest number of values that are kept: 130 MB."""
STEPS = 7
"""Number of binary digits of the mantissa that distinguish bins."""
LARGEST_ERROR = 2.0 ** -(STEPS + 1)
"""Largest relative error, as the middle of a bin replaces its values."""


Grouped = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Values in order of their tokens, and the offsets of the tokens."""


class Values(NamedTuple):
    """Non-zero counts of some cells."""

    genes: npt.NDArray[np.integer]
    """``[N]`` gene of each value."""
    counts: npt.NDArray[np.integer]
    """``[N]``"""
    offsets: npt.NDArray[np.int64]
    """``[B + 1]``: cell i is ``offsets[i] : offsets[i + 1]``."""
    totals: npt.NDArray[np.int64]
    """``[B]`` total count of each cell, over known and unknown genes."""


class GeneMedians:
    """Computes the median of each token from blocks of cells.

    Parameters
    ----------
    token_of_gene
        Token of each gene, -1 for genes that are left out.
    n_tokens
        Number of tokens.
    """

    def __init__(
        self,
        token_of_gene: npt.NDArray[np.int32],
        n_tokens: int,
        exact_values: int = EXACT_VALUES,
    ) -> None:
        self.n_tokens = n_tokens
        self.n_cells = 0
        self._token_of_gene = token_of_gene
        self._room = exact_values
        self._kept: list[Grouped] = []
        self._buffer = np.empty(0, dtype=np.float32)
        self._bins: npt.NDArray[np.uint32] | None = None
        self._lowest = 0

    @property
    def exact(self) -> bool:
        """Whether the medians are exact so far."""
        return self._bins is None

    def add(self, blocks: Sequence[Values]) -> None:
        """Add cells; add many at a time, because their values are sorted by gene first."""
        self.n_cells += sum(len(block.totals) for block in blocks)
        sizes = np.zeros(self.n_tokens, dtype=np.int64)
        for block in blocks:
            _count_tokens(block.genes, self._token_of_gene, sizes)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        keep = self.exact and sum(len(v) for v, _ in self._kept) + offsets[-1] <= self._room
        if keep:
            values = np.empty(offsets[-1], dtype=np.float32)
        else:
            # a reused buffer: new memory takes longer than the work on it
            if len(self._buffer) < offsets[-1]:
                self._buffer = np.empty(offsets[-1], dtype=np.float32)
            values = self._buffer[: offsets[-1]]
        places = offsets[:-1].copy()
        for block in blocks:
            _group(*block, self._token_of_gene, places, values)
        if keep:
            self._kept.append((values, offsets))
            return
        for grouped in (*self._kept, (values, offsets)):
            self._fill(*grouped)
        self._kept.clear()

    def medians(self) -> npt.NDArray[np.float64]:
        """Return the ``[V]`` medians, NaN where no cell has the gene."""
        if self._bins is None:
            return np.array([self._exact_median(token) for token in range(self.n_tokens)])
        found = np.full(self.n_tokens, np.nan)
        for token, row in enumerate(self._bins):
            ends = np.cumsum(row, dtype=np.int64)
            n = int(ends[-1])
            if n:
                # of an even number of values the middle two may lie in two bins
                places = np.searchsorted(ends, [(n - 1) // 2, n // 2], side="right")
                found[token] = _middle_of(places + self._lowest).mean()
        return found

    def _exact_median(self, token: int) -> float:
        parts = [values[ends[token] : ends[token + 1]] for values, ends in self._kept]
        values = np.sort(np.concatenate(parts)) if parts else np.empty(0)
        middle = values[[(len(values) - 1) // 2, len(values) // 2]] if len(values) else [np.nan]
        return float(np.mean(middle, dtype=np.float64))

    def _fill(self, values: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64]) -> None:
        """Count grouped values in the histograms."""
        if self._bins is None:
            self._bins = np.zeros((self.n_tokens, 0), dtype=np.uint32)
        if len(values):
            places = _bin_of(np.array([values.min(), values.max()], dtype=np.float32))
            self._widen(int(places[0]), int(places[1]) + 1)
            _fill_bins(self._bins, values.view(np.uint32), offsets, self._lowest)

    def _widen(self, low: int, high: int) -> None:
        """Make room for bins `low` to `high`, in whole doublings, so that it happens rarely."""
        assert self._bins is not None
        old, octave = self._bins, 1 << STEPS
        if old.shape[1]:
            low, high = min(low, self._lowest), max(high, self._lowest + old.shape[1])
        low, high = low // octave * octave, -(-high // octave) * octave
        if high - low == old.shape[1]:
            return
        self._bins = np.zeros((self.n_tokens, high - low), dtype=np.uint32)
        start = self._lowest - low if old.shape[1] else 0
        self._bins[:, start : start + old.shape[1]] = old
        self._lowest = low


def _bin_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return exponent and first binary digits of each value, as one number."""
    return (values.view(np.uint32) >> np.uint32(23 - STEPS)).astype(np.int32)


def _middle_of(places: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return the value with the smallest relative error for all values of a bin."""
    edges = [
        (np.asarray(side, dtype=np.uint32) << np.uint32(23 - STEPS)).view(np.float32)
        for side in (places, places + 1)
    ]
    low, high = (edge.astype(np.float64) for edge in edges)
    return 2 * low * high / (low + high)


@numba.njit(cache=True, nogil=True)
def _count_tokens(genes, token_of_gene, sizes):  # type: ignore[no-untyped-def]
    for place in range(len(genes)):
        token = token_of_gene[genes[place]]
        if token >= 0:
            sizes[token] += 1


@numba.njit(cache=True, nogil=True)
def _group(genes, counts, offsets, totals, token_of_gene, places, out):  # type: ignore[no-untyped-def]
    """Write each normalised value after those of its token; `places` are advanced."""
    for cell in range(len(totals)):
        factor = SCALE / max(totals[cell], 1)
        for place in range(offsets[cell], offsets[cell + 1]):
            token = token_of_gene[genes[place]]
            if token >= 0:
                out[places[token]] = counts[place] * factor
                places[token] += 1


@numba.njit(cache=True, nogil=True)
def _fill_bins(bins, bits, offsets, lowest):  # type: ignore[no-untyped-def]
    for token in range(len(offsets) - 1):
        for place in range(offsets[token], offsets[token + 1]):
            bins[token, np.int64(bits[place] >> np.uint32(23 - STEPS)) - lowest] += 1
