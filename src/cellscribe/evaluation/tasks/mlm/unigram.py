"""Counts of genes, for the baselines of the task mlm.

A gene's share among all genes of the training cells (unigram), and among the genes at about the
same rank (rank-conditioned).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellscribe.corpus.row_groups import whole
from cellscribe.corpus.store import Corpus

PRIORS = (1e2, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6)
"""Numbers of genes drawn from the unigram that are added to the counts of each bin of ranks."""
PER_DOUBLING = 4
"""Number of bins between a rank and its double."""


def rank_bins(context: int, per_doubling: int = PER_DOUBLING) -> npt.NDArray[np.int64]:
    """Return the bin of each rank, ``[context]``: one for each of the first ranks, then wider."""
    ranks = np.arange(1, context + 1)
    _, bins = np.unique(np.floor(per_doubling * np.log2(ranks)), return_inverse=True)
    return bins.astype(np.int64)


def count_genes(corpus: Corpus, context: int) -> npt.NDArray[np.int64]:
    """Count genes at the ranks of each bin in the training cells, ``[bins, V]``."""
    size = len(corpus.vocabulary)
    counts = np.zeros((rank_bins(context)[-1] + 1, size), np.int64)
    for table in corpus.cells("train", ["input_ids"]):
        column = whole(table["input_ids"])
        tokens = column.values.to_numpy(zero_copy_only=False)
        counts += count_packed(tokens, column.offsets.to_numpy(), context, size)
    return counts


def count_packed(
    tokens: npt.NDArray[np.integer], offsets: npt.NDArray[np.integer], context: int, size: int
) -> npt.NDArray[np.int64]:
    """Count genes at the ranks of each bin in packed cells, ``[bins, size]``.

    Parameters
    ----------
    tokens, offsets
        ``[N]`` and ``[B + 1]``: cell i is ``tokens[offsets[i] : offsets[i + 1]]``, ranked, without
        special tokens.
    context
        Number of genes of a cell that are counted.
    size
        Number of tokens of the vocabulary.
    """
    bins = rank_bins(context)
    ranks = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    keep = ranks < context
    flat = bins[ranks[keep]] * size + tokens[offsets[0] : offsets[-1]][keep].astype(np.int64)
    shape = (int(bins[-1]) + 1, size)
    return np.bincount(flat, minlength=shape[0] * size).reshape(shape)


def shares(
    counts: npt.NDArray[np.integer], n_special: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn counts into probabilities; every gene has more than 0.

    0.5 is added to each gene's count. To each bin of ranks, genes drawn from that unigram are added
    (a Dirichlet prior, MacKay and Peto 1995); their number is the one of `PRIORS` with the least
    loss when one counted gene is left out at a time.

    Parameters
    ----------
    counts
        ``[bins, V]`` from `count_genes` or `count_packed`.
    n_special
        Number of tokens that are no genes; their probability is 0.

    Returns
    -------
    share
        ``[V]`` share of a gene among all genes.
    by_bin
        ``[bins, V]`` share of a gene among those at ranks of each bin.
    """
    times = counts.astype(np.float64)
    share = times.sum(0)
    share[n_special:] += 0.5
    share /= share.sum()
    prior = min(PRIORS, key=lambda prior: _left_out(times, share, prior))
    return share, (times + prior * share) / (times.sum(1, keepdims=True) + prior)


def _left_out(
    counts: npt.NDArray[np.float64], share: npt.NDArray[np.float64], prior: float
) -> float:
    """Add up the losses of all counted genes, each predicted from the counts without itself."""
    bins, genes = counts.nonzero()
    times = counts[bins, genes]
    known = times - 1 + prior * share[genes]
    return -float((times * np.log(known / (counts.sum(1)[bins] - 1 + prior))).sum())
