"""Downsample cells, as if they had been sequenced less deeply: a new random draw each epoch.

A downsampled cell keeps each of its counts with one probability, itself drawn between `LEAST` and
1, and is ranked again. Less sequencing of the same library has the same effect (binomial
downsampling). So a small corpus shows more variety, and the model learns less from depth. Where the
counts of the training split are kept: `training_counts`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from cellscribe.cells.downsample import downsample
from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.cells.rank import rank_cells
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.corpus.reader import Batch
from cellscribe.corpus.store import Corpus
from cellscribe.training.training_counts import TrainingCounts

LEAST = 0.1
"""Smallest share of its counts that a cell keeps."""


class Downsampling:
    """Downsamples cells of a corpus.

    Parameters
    ----------
    corpus
        Corpus that was built with its counts.
    share
        Share of the cells that are downsampled; the others stay as they are.
    seed
        Random seed; the draw of a cell depends on seed, epoch and cell number only.
    context
        Largest number of genes of a cell.
    cls_token
        Whether cells begin with [CLS].

    Raises
    ------
    InputError
        The counts are missing.
    """

    def __init__(
        self, corpus: Corpus, share: float, seed: int, context: int, *, cls_token: bool
    ) -> None:
        self.share, self.seed, self.context = share, seed, context
        self._front = [CLS] if cls_token else []
        self._medians = corpus.vocabulary.medians
        self._counts = TrainingCounts(corpus, "downsample")

    @classmethod
    def of(cls, corpus: Corpus, config: ModelConfig, options: TrainOptions) -> Downsampling | None:
        """Make the downsampling of a run's options; None if they have none."""
        if not options.downsample:
            return None
        return cls(
            corpus, options.downsample, options.seed, config.context, cls_token=config.cls_token
        )

    def __call__(self, batch: Batch) -> Batch:
        """Downsample some cells of a packed batch."""
        cells = np.split(batch.tokens, batch.offsets[1:-1])
        for place, number in enumerate(batch.cells):
            random = np.random.Generator(
                np.random.Philox(key=[self.seed, batch.epoch << 40 | number])
            )
            if random.random() < self.share:
                cells[place] = self._downsample(number, random)
        return dataclasses.replace(
            batch,
            tokens=np.concatenate(cells),
            lengths=np.array([len(cell) for cell in cells], np.int32),
        )

    def _downsample(self, number: np.int64, random: np.random.Generator) -> npt.NDArray[np.int32]:
        cell = self._counts.rows(np.array([number]))
        cell = downsample(cell, random.uniform(LEAST, 1), random)
        columns = np.arange(len(self._medians), dtype=np.int32)
        ranked = rank_cells(cell, columns, self._medians, self.context)
        return np.concatenate([self._front, ranked.tokens]).astype(np.int32)
