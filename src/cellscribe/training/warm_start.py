"""Initial weights from the training cells, so that a few epochs over few cells teach more.

A masked-gene model first learns how common genes are, and which genes are seen together. Both can
be counted. A model for millions of cells does not need this and starts from random weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, diags

from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelConfig, ReaderOptions
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus
from cellscribe.model.encoder import MaskedGeneModel

SMOOTHING = 100
"""Cells added to the count of each gene, so that a rare gene does not get an axis of its own."""
MOST_CELLS = 200_000
"""Largest number of cells that are counted, about a gigabyte."""
LENGTH = 0.04
"""Root mean square of the gene vectors, twice that of the random weights."""


def ranked_sample(corpus: Corpus, config: ModelConfig, seed: int) -> CellTokens:
    """Read at most `MOST_CELLS` training cells, not shortened, into memory."""
    cells = corpus.splits["train"]["cells"]
    options = ReaderOptions(
        batch_cells=min(cells, MOST_CELLS),
        seed=seed,
        layout="packed",
        cls_token=False,
        context=config.context,
    )
    batch = next(Reader(corpus, options).epoch(0))
    lengths = batch.lengths.astype(np.int64)
    return CellTokens(
        tokens=batch.tokens.astype(np.uint16),
        offsets=batch.offsets.astype(np.int64),
        umis=lengths,
        umis_known=lengths,
        genes=batch.lengths,
        genes_known=batch.lengths,
    )


def start_from_cells(model: MaskedGeneModel, cells: CellTokens, seed: int) -> None:
    """Set the head's bias to log frequencies, and add `gene_vectors` to the gene vectors.

    Parameters
    ----------
    model
        Initialised model.
    cells
        The training cells.
    seed
        Seed of the randomised singular value decomposition.
    """
    sightings = np.bincount(cells.tokens, minlength=model.config.vocab_size).clip(min=1)
    vectors_VD = gene_vectors(cells, model.config.vocab_size, model.config.hidden_size, seed)
    with torch.no_grad():
        model.bias.copy_(torch.from_numpy(np.log(sightings / sightings.sum())))
        model.encoder.genes.weight += torch.from_numpy(vectors_VD).float()


def gene_vectors(
    cells: CellTokens, vocabulary_size: int, width: int, seed: int
) -> npt.NDArray[np.float64]:
    """Place genes that are seen in the same cells near each other.

    Correspondence analysis (Benzecri 1973) of which cell has which gene, without the first, trivial
    axis, and smoothed for rare genes.

    Parameters
    ----------
    cells
        ``B`` ranked cells.
    vocabulary_size
        ``V``.
    width
        ``D``, less than `B`.
    seed
        Seed of the randomised singular value decomposition.

    Returns
    -------
    numpy.ndarray
        ``[V, D]``; zeros for tokens that no cell has.
    """
    from sklearn.utils.extmath import randomized_svd

    shape = (len(cells.lengths), vocabulary_size)
    shown = csr_matrix(
        (np.ones(len(cells.tokens)), cells.tokens.astype(np.int32), cells.offsets), shape=shape
    )
    cells_of_gene = np.asarray(shown.sum(0)).ravel() + SMOOTHING
    scaled = (
        diags(1 / np.sqrt(np.maximum(cells.lengths, 1))) @ shown @ diags(1 / np.sqrt(cells_of_gene))
    )
    _, values, axes = randomized_svd(scaled, width + 1, n_iter=4, random_state=seed)
    vectors_VD = axes[1:].T * np.sqrt(values[1:])
    return vectors_VD * (LENGTH / np.sqrt((vectors_VD**2).mean()))
