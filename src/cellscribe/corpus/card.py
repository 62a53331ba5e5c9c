"""The numbers of a corpus's data card: what is counted in its store.

`describe` reads the store once; `report.data_card` makes sentences and tables of the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.coexpression import Coexpression
from cellscribe.corpus.expressed_together import expressed_together
from cellscribe.corpus.statistics import (
    Repeats,
    SplitCounts,
    ValueCounts,
    count_split,
    find_repeats,
)
from cellscribe.corpus.store import Corpus
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from cellscribe.callbacks import Progress

TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The counts of a corpus.

    Attributes
    ----------
    name, hash
        Name of the folder, and hash of the corpus.
    manifest
        ``manifest.json``.
    columns
        Text columns that were counted: the tracked labels, then ``dataset_id``.
    context
        Largest number of genes kept per cell.
    medians
        ``[G]`` float64, median of each gene.
    n_special
        Number of tokens before the first gene.
    splits
        Split -> its counts, in the order of the manifest.
    repeats
        Cells of equal content.
    together
        Source -> whether its genes are expressed together; sources of few cells are left out, and
        without counts there are none.
    """

    name: str
    hash: str
    manifest: Mapping[str, Any]
    columns: tuple[str, ...]
    context: int
    medians: npt.NDArray[np.float64]
    n_special: int
    splits: Mapping[str, SplitCounts]
    repeats: Repeats
    together: Mapping[str, Coexpression] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Number of cells of all splits."""
        return sum(split.cells for split in self.splits.values())

    @property
    def held_out(self) -> int:
        """Number of cells of all splits except train."""
        return sum(split.cells for name, split in self.splits.items() if name != TRAIN)

    def labels(self, column: str) -> Counter[str]:
        """Count the cells of each label over all splits; the commonest first, then by name."""
        every: Counter[str] = Counter()
        for split in self.splits.values():
            every.update(split.labels[column])
        return Counter(dict(sorted(every.items(), key=lambda item: (-item[1], item[0]))))

    def depth(self, measure: str) -> ValueCounts:
        """Return one of `statistics.DEPTHS`, counted over all splits."""
        every = ValueCounts.of(np.array([]))
        for split in self.splits.values():
            every = every.plus(split.depths[measure])
        return every

    @property
    def gene_cells(self) -> npt.NDArray[np.int64]:
        """``[G]`` number of training cells with each gene; of all cells if there is no train."""
        train = [self.splits[TRAIN]] if TRAIN in self.splits else list(self.splits.values())
        return np.sum([split.gene_cells for split in train], axis=0)[self.n_special :]


def describe(corpus: Corpus, progress: Progress | None = None) -> Card:
    """Count everything that the card shows.

    Parameters
    ----------
    corpus
        A finished corpus.
    progress
        Called with (cells read, cells of the corpus).

    Raises
    ------
    InputError
        The corpus has no cells, or its tokens fit neither gene table nor manifest.
    """
    total = sum(split["cells"] for split in corpus.splits.values())
    if not total:
        raise InputError(f"{corpus.path} has no cells to describe; build it from some")
    columns = tuple(dict.fromkeys([*corpus.labels, "dataset_id"]))
    splits: dict[str, SplitCounts] = {}
    done = 0
    for name in corpus.splits:
        before = done

        def report(cells: int, before: int = before) -> None:
            if progress is not None:
                progress(before + cells, total)

        splits[name] = count_split(corpus, name, (*columns, "source"), report)
        done += splits[name].cells
    n_special = corpus.vocabulary.n_special
    return Card(
        name=corpus.path.resolve().name,
        hash=corpus.hash,
        manifest=corpus.manifest,
        columns=columns,
        context=corpus.context,
        medians=corpus.vocabulary.medians[n_special:],
        n_special=n_special,
        splits=splits,
        repeats=find_repeats(corpus),
        together=expressed_together(corpus),
    )
