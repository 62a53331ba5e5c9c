"""Downsample cells, as if they had been sequenced less deeply: a new random draw each epoch.

A downsampled cell keeps each of its counts with one probability, itself drawn between `LEAST` and
1, and is ranked again. Less sequencing of the same library has the same effect (binomial
downsampling). So a small corpus shows more variety, and the model learns less from depth. All
counts of the training split are held in memory, so this is for small corpora.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from cellscribe.cells.downsample import downsample
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.vocabulary import CLS
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.corpus.reader import Batch
from cellscribe.corpus.store import Corpus
from cellscribe.errors import InputError

LEAST = 0.1
"""Smallest share of its counts that a cell keeps."""
MOST_VALUES = 2_000_000_000
"""Largest number of counts held in memory: 8 bytes each."""
SPLIT = "train"


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
        The counts are missing, or too many to hold in memory.
    """

    def __init__(
        self, corpus: Corpus, share: float, seed: int, context: int, *, cls_token: bool
    ) -> None:
        import anndata

        self.share, self.seed, self.context = share, seed, context
        self._front = [CLS] if cls_token else []
        self._medians = corpus.vocabulary.medians
        if corpus.splits[SPLIT]["tokens"] > MOST_VALUES:
            raise InputError(
                "thin holds all counts in memory, and this corpus has too many; thin 0"
            )
        parts, numbers = [], []
        token_of = {gene: token for token, gene in enumerate(corpus.vocabulary.ids)}
        for shard in corpus.shards(SPLIT):
            path = corpus.path / shard["counts"]["name"] if "counts" in shard else None
            if path is None or not path.exists():
                raise InputError(f"{corpus.path} holds no counts, which thin needs; thin 0")
            cells = anndata.read_zarr(path)
            counts = cells.X
            token = np.array([token_of.get(gene, -1) for gene in cells.var_names], np.int32)
            known = token[counts.indices] >= 0
            ends = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
            values, tokens = counts.data[known], token[counts.indices[known]]
            shape = (counts.shape[0], len(corpus.vocabulary))
            parts.append(csr_matrix((values, tokens, ends), shape=shape))
            numbers.append(cells.obs_names.to_numpy().astype(np.int64))
        self._counts = vstack(parts, format="csr")
        numbers_C = np.concatenate(numbers)
        self._order = np.argsort(numbers_C)
        self._numbers = numbers_C[self._order]

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
        row = self._order[np.searchsorted(self._numbers, number)]
        here = slice(self._counts.indptr[row], self._counts.indptr[row + 1])
        data, indices = self._counts.data[here], self._counts.indices[here]
        shape = (1, self._counts.shape[1])
        cell = csr_matrix((data, indices, [0, len(data)]), shape=shape)
        cell = downsample(cell, random.uniform(LEAST, 1), random)
        columns = np.arange(self._counts.shape[1], dtype=np.int32)
        ranked = rank_cells(cell, columns, self._medians, self.context)
        return np.concatenate([self._front, ranked.tokens]).astype(np.int32)
