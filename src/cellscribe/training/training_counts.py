"""Counts of the training cells, held in memory by token: for views that masks cannot make."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from cellscribe.corpus.store import Corpus
from cellscribe.errors import InputError

MOST_VALUES = 2_000_000_000
"""Largest number of counts held in memory: 8 bytes each."""
SPLIT = "train"


class TrainingCounts:
    """Counts of a corpus's training cells, found by the cells' numbers.

    Parameters
    ----------
    corpus
        Corpus that was built with its counts.
    option
        Option that needs them, for messages.

    Raises
    ------
    InputError
        The counts are missing, or too many to hold in memory.
    """

    def __init__(self, corpus: Corpus, option: str) -> None:
        import anndata

        if corpus.splits[SPLIT]["tokens"] > MOST_VALUES:
            raise InputError(
                f"{option} holds all counts in memory, and this corpus has too many; set {option} 0"
            )
        parts, numbers = [], []
        token_of = {gene: token for token, gene in enumerate(corpus.vocabulary.ids)}
        for shard in corpus.shards(SPLIT):
            path = corpus.path / shard["counts"]["name"] if "counts" in shard else None
            if path is None or not path.exists():
                raise InputError(
                    f"{corpus.path} holds no counts, which {option} needs; set {option} 0"
                )
            cells = anndata.read_zarr(path)
            counts = cells.X
            token = np.array([token_of.get(gene, -1) for gene in cells.var_names], np.int32)
            known = token[counts.indices] >= 0
            ends = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
            values, tokens = counts.data[known], token[counts.indices[known]]
            shape = (counts.shape[0], len(corpus.vocabulary))
            parts.append(csr_matrix((values, tokens, ends), shape=shape))
            numbers.append(cells.obs_names.to_numpy().astype(np.int64))
        self.counts: csr_matrix = vstack(parts, format="csr")
        """``[cells, V]`` raw counts, in the order of the shards."""
        numbers_C = np.concatenate(numbers)
        self._order = np.argsort(numbers_C)
        self._numbers = numbers_C[self._order]

    def rows(self, cells: npt.NDArray[np.int64]) -> csr_matrix:
        """Return the counts of cells by their numbers in the corpus, ``[B, V]``."""
        return self.counts[self._order[np.searchsorted(self._numbers, cells)]]
