"""What masked genes can be told by counting: the baselines that a trained loss must beat.

A gene's share among all genes of the training cells (unigram), and among the genes that stand at
about the same rank (rank-conditioned). Both are asked at the very places, under the very masks, at
which a model's loss is measured.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.corpus.row_groups import whole
from cellscribe.corpus.store import Corpus
from cellscribe.training.distributed import Team
from cellscribe.training.validation import read_validation

PRIOR = 100.0
"""Genes drawn from the unigram that are added to the counts of each bin of ranks."""
PER_DOUBLING = 4
"""Bins of ranks between a rank and its double."""


def rank_bins(context: int) -> npt.NDArray[np.int64]:
    """``[context]`` bin of each rank: a bin for each of the first ranks, then wider ones."""
    ranks = np.arange(1, context + 1)
    _, bins = np.unique(np.floor(PER_DOUBLING * np.log2(ranks)), return_inverse=True)
    return bins.astype(np.int64)


def count_genes(corpus: Corpus, context: int) -> npt.NDArray[np.int64]:
    """``[bins, V]`` how often each gene stands at ranks of each bin in the training cells."""
    bins, size = rank_bins(context), len(corpus.vocabulary)
    counts = np.zeros((bins[-1] + 1, size), np.int64)
    for table in corpus.cells("train", ["input_ids"]):
        column = whole(table["input_ids"])
        tokens = column.values.to_numpy(zero_copy_only=False).astype(np.int64)
        offsets = column.offsets.to_numpy()
        ranks = np.arange(len(tokens)) - np.repeat(offsets[:-1], np.diff(offsets))
        keep = ranks < context
        flat = bins[ranks[keep]] * size + tokens[keep]
        counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    return counts


def unigram_losses(
    corpus: Corpus, config: ModelConfig, options: TrainOptions
) -> dict[str, dict[str, float]]:
    """Loss of both baselines on what validation asks of a model.

    Parameters
    ----------
    corpus
        The store; counted on its training cells.
    config, options
        Of the run to compare with: context, [CLS], seed and shares of its masks.

    Returns
    -------
    dict
        Split -> ``{"unigram": loss, "rank": loss}``, natural logarithm, mean over a cell's chosen
        genes, then over cells.
    """
    counts = count_genes(corpus, config.context).astype(np.float64)
    genes = slice(corpus.vocabulary.n_special, None)
    share = counts.sum(0)
    share[genes] += 0.5
    share /= share.sum()
    by_bin = (counts + PRIOR * share) / (counts.sum(1, keepdims=True) + PRIOR)
    bins, front = rank_bins(config.context), int(config.cls_token)
    found = {}
    for split, batches in read_validation(corpus, config, options, Team()).batches.items():
        sums, asked = np.zeros(2), 0
        for batch in batches:
            targets, weights = batch.targets_M.numpy(), batch.weights_M.numpy()
            ranks = batch.positions_N[batch.chosen_M].numpy() - front
            sums[0] -= (weights * np.log(share[targets])).sum()
            sums[1] -= (weights * np.log(by_bin[bins[ranks], targets])).sum()
            asked += batch.n_asked
        found[split] = dict(zip(("unigram", "rank"), (sums / asked).tolist(), strict=True))
    return found
