"""What a corpus holds, counted from its token files: labels, depths, genes, repeated cells.

Everything is read a shard at a time. Depths and lengths are kept as distinct values with their
numbers of cells: quantiles are exact, and memory follows the distinct values rather than the cells.
Hashes are compared in ranges of `RANGE` cells, each range read on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.corpus.store import NO_LABEL, Corpus
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

DEPTHS = ("n_counts", "n_genes", "length")
"""Columns of whole numbers that are tallied."""
RANGE = 8_000_000
"""Cells whose hashes are held at once, about: 64 MB, and as much again for sorting."""


@dataclass(frozen=True)
class Tally:
    """How many cells have which whole number.

    Attributes
    ----------
    values, cells
        ``[k]`` int64: the distinct numbers, rising, and how many cells have each.
    """

    values: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]

    @classmethod
    def of(cls, numbers: npt.NDArray) -> Tally:
        """Tally one number a cell."""
        values, cells = np.unique(np.asarray(numbers, np.int64), return_counts=True)
        return cls(values, cells.astype(np.int64))

    @property
    def n_cells(self) -> int:
        """Cells tallied."""
        return int(self.cells.sum())

    def plus(self, other: Tally) -> Tally:
        """Add another tally's cells."""
        values, places = np.unique(np.append(self.values, other.values), return_inverse=True)
        cells = np.zeros(len(values), np.int64)
        np.add.at(cells, places, np.append(self.cells, other.cells))
        return Tally(values, cells)

    def quantile(self, share: float) -> float:
        """Return a quantile, interpolated as `numpy.quantile` does; NaN when there is no cell."""
        if not self.n_cells:
            return float("nan")
        place = (self.n_cells - 1) * share
        low, high = (
            self.values[np.searchsorted(self.cells.cumsum(), int(at), side="right")]
            for at in (np.floor(place), np.ceil(place))
        )
        return float(low + (high - low) * (place % 1))


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """What one split holds.

    Attributes
    ----------
    cells, tokens
        How many; tokens without special ones.
    labels
        Column -> label -> cells.
    depths
        Each of `DEPTHS` -> its tally.
    gene_cells
        ``[V]`` int64: cells that have the token.
    """

    cells: int
    tokens: int
    labels: Mapping[str, Counter[str]]
    depths: Mapping[str, Tally]
    gene_cells: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Cells of equal content, by `cell_hash`.

    Attributes
    ----------
    within
        Split -> cells that are there once more than needed; only splits that have some.
    across
        Two splits -> distinct contents that stand in both; only pairs that share some.
    """

    within: Mapping[str, int]
    across: Mapping[tuple[str, str], int]


def count_split(
    corpus: Corpus,
    split: str,
    columns: Sequence[str],
    log_stderr: Callable[[int], None] = lambda cells: None,
) -> SplitCounts:
    """Count one split.

    Parameters
    ----------
    corpus, split
        What to count.
    columns
        Text columns whose labels are counted.
    log_stderr
        Called with the cells counted so far, after each shard.

    Raises
    ------
    InputError
        A token is not in the gene table, or the tokens are not as many as the manifest says.
    """
    labels: dict[str, Counter[str]] = {column: Counter() for column in columns}
    depths = dict.fromkeys(DEPTHS, Tally.of(np.array([])))
    gene_cells = np.zeros(len(corpus.vocabulary), np.int64)
    cells = 0
    for table in corpus.cells(split, [*columns, *DEPTHS, "input_ids"]):
        cells += table.num_rows
        for column in columns:
            labels[column].update(_label_counts(table[column]))
        for name in DEPTHS:
            depths[name] = depths[name].plus(Tally.of(table[name].to_numpy()))
        for chunk in table["input_ids"].chunks:
            found = np.bincount(chunk.flatten().to_numpy(), minlength=len(gene_cells))
            if len(found) > len(gene_cells):
                raise InputError(
                    f"{corpus.path}: {split} has token {len(found) - 1}, the gene table only "
                    f"{len(gene_cells):,}; build the corpus again"
                )
            gene_cells += found
        log_stderr(cells)
    tokens = int(gene_cells.sum())
    told = corpus.splits[split].get("tokens", tokens)
    if told != tokens:
        raise InputError(
            f"{corpus.path}: {split} has {tokens:,} tokens, the manifest says {told:,}; "
            "build the corpus again"
        )
    return SplitCounts(
        cells=cells, tokens=tokens, labels=labels, depths=depths, gene_cells=gene_cells
    )


def find_repeats(corpus: Corpus, most: int = RANGE) -> Repeats:
    """Find cells of equal hash within and across splits.

    Parameters
    ----------
    corpus
        What to search.
    most
        About how many hashes to hold at once. They are read once for each range of so many.
    """
    sizes = {split: told["cells"] for split, told in corpus.splits.items()}
    n_ranges = max(-(-sum(sizes.values()) // most), 1)
    within: Counter[str] = Counter()
    across: Counter[tuple[str, str]] = Counter()
    for place in range(n_ranges):
        found = {}
        for split in sizes:
            parts = _hashes(corpus, split, place, n_ranges)
            hashes = np.concatenate([np.array([], np.uint64), *parts])
            found[split] = np.unique(hashes)
            within[split] += len(hashes) - len(found[split])
        for one, other in combinations(found, 2):
            shared = np.intersect1d(found[one], found[other], assume_unique=True)
            across[one, other] += len(shared)
    return Repeats(within=dict(+within), across=dict(+across))


def _hashes(
    corpus: Corpus, split: str, place: int, n_ranges: int
) -> Iterator[npt.NDArray[np.uint64]]:
    """Read the hashes that lie in one of `n_ranges` equal ranges, a shard at a time."""
    step = -(-(1 << 64) // n_ranges)
    first, last = np.uint64(place * step), np.uint64(min((place + 1) * step, 1 << 64) - 1)
    for table in corpus.cells(split, ["cell_hash"]):
        hashes = table["cell_hash"].to_numpy()
        yield hashes[(hashes >= first) & (hashes <= last)]


def _label_counts(column: pa.ChunkedArray) -> Counter[str]:
    """Count labels a chunk at a time: each chunk has a dictionary of its own."""
    counts: Counter[str] = Counter()
    for chunk in column.chunks:
        found = chunk.value_counts()
        names, cells = found.field("values").to_pylist(), found.field("counts").to_pylist()
        for name, n in zip(names, cells, strict=True):
            counts[NO_LABEL if name is None else name] += n
    return counts
