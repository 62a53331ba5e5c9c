"""Baselines of the task mlm: masked genes predicted without a network, from counts of genes.

The rank of a gene says much about it, and so do the visible genes of the cell, since no gene occurs
twice, and the token that a chosen place shows: a tenth of the chosen genes is kept. Each baseline
uses one fact more than the one before it. Counts are smoothed as in `unigram`, and nothing is
fitted to the cells that are predicted. All baselines predict the same genes of the same cells as
the models do.

Letters: ``B`` cells, ``M`` chosen places, ``C`` those of a cell that show a gene, ``V`` vocabulary,
``G`` genes in it, ``K`` distributions over it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cellscribe.config import TrainOptions
from cellscribe.evaluation.tasks.mlm.masked import (
    MASKED,
    Ints,
    MaskedCells,
    Predict,
    Prediction,
    Ranked,
)
from cellscribe.evaluation.tasks.mlm.unigram import count_packed, rank_bins, shares

ALIKE = "all genes alike"
UNIGRAM = "gene unigram"
RANK = "unigram given the rank"
NOT_VISIBLE = "unigram given the rank, without visible genes"
COPY_AWARE = "copy-aware unigram given the rank"

Tables = list[tuple[npt.NDArray[np.bool_], Ints]]
"""Cells of the case, ``[B]``, and the counts ``[bins, V]`` that they are predicted from."""
Count = Callable[[int], Tables]
"""Tables of a seed; each cell is in one of them."""


def halves(everything: Ranked, rows: Ints, context: int, size: int) -> Count:
    """Return tables in which each half of a file is predicted from the counts of the other half.

    Parameters
    ----------
    everything
        All cells that can be counted.
    rows
        Rows of `everything` that are predicted.
    context
        Number of genes of a cell that are read.
    size
        ``V``.
    """

    def count(seed: int) -> Tables:
        n = len(everything.numbers_B)
        half = np.random.default_rng(seed).permutation(n) < n // 2
        tables = []
        for mine in (True, False):
            others = everything.take(np.flatnonzero(half != mine))
            counts = count_packed(others.tokens_N, others.offsets, context, size)
            tables.append((half[rows] == mine, counts))
        return tables

    return count


def alike(n_genes: int) -> Predict:
    """Predict every gene with the same probability."""

    def predict(masked_cells: MaskedCells) -> Prediction:
        n = len(masked_cells.chosen_M)
        return Prediction(
            losses_M=np.full(n, np.log(n_genes)),
            above_M=np.zeros(n, np.int64),
            ties_M=np.full(n, n_genes),
        )

    return predict


def counted(count: Count, name: str, context: int, n_special: int) -> Predict:
    """Predict from counts, as one of `UNIGRAM`, `RANK`, `NOT_VISIBLE` and `COPY_AWARE`."""
    bins = rank_bins(context) if name != UNIGRAM else np.zeros(context, np.int64)

    def predict(masked_cells: MaskedCells) -> Prediction:
        m = len(masked_cells.chosen_M)
        prediction = Prediction(
            losses_M=np.empty(m), above_M=np.empty(m, np.int64), ties_M=np.empty(m, np.int64)
        )
        bins_M = bins[masked_cells.ranks_M]
        for cells_B, counts in count(masked_cells.seed):
            share, by_bin = shares(counts, n_special)
            table_KV = share[None] if name == UNIGRAM else by_bin
            here = np.flatnonzero(cells_B[masked_cells.cells_M])
            cells = np.flatnonzero(cells_B)
            look_up(prediction, table_KV, bins_M, masked_cells.targets_M, here, n_special)
            if name in (NOT_VISIBLE, COPY_AWARE):
                leave_out_visible(prediction, masked_cells, table_KV, bins_M, cells)
            if name == COPY_AWARE:
                factor = shown_factor(table_KV.shape[1] - n_special)
                weigh_shown(prediction, masked_cells, table_KV, bins_M, cells, factor)
        return prediction

    return predict


def look_up(
    prediction: Prediction,
    table_KV: npt.NDArray[np.float64],
    bins_M: Ints,
    targets_M: Ints,
    here: Ints,
    n_special: int,
) -> None:
    """Fill in the places `here`, some of ``M``, from a table of distributions."""
    true = table_KV[bins_M[here], targets_M[here]]
    prediction.losses_M[here] = -np.log(true)
    genes_KG = np.sort(table_KV[:, n_special:], axis=1)
    for k in np.unique(bins_M[here]):
        some = bins_M[here] == k
        up_to = np.searchsorted(genes_KG[k], true[some], side="right")
        prediction.above_M[here[some]] = genes_KG.shape[1] - up_to
        prediction.ties_M[here[some]] = up_to - np.searchsorted(
            genes_KG[k], true[some], side="left"
        )


def leave_out_visible(
    prediction: Prediction,
    masked_cells: MaskedCells,
    table_KV: npt.NDArray[np.float64],
    bins_M: Ints,
    cells: Ints,
) -> None:
    """Give the probability of a cell's visible genes to the other genes, in proportion.

    A gene occurs once in a cell, so the true gene is never a visible one.
    """
    table_VK = np.ascontiguousarray(table_KV.T)
    for cell in cells:
        here = slice(masked_cells.bounds[cell], masked_cells.bounds[cell + 1])
        seen_SK = table_VK[masked_cells.visible(cell)]
        left_K = 1.0 - seen_SK.sum(0)
        seen_SM = seen_SK[:, bins_M[here]]
        true_M = table_VK[masked_cells.targets_M[here], bins_M[here]]
        prediction.losses_M[here] += np.log(left_K[bins_M[here]])
        prediction.above_M[here] -= (seen_SM > true_M).sum(0)
        prediction.ties_M[here] -= (seen_SM == true_M).sum(0)


def shown_factor(n_genes: int) -> float:
    """Return how many times as probable a gene is where it is shown, next to genes that are not.

    A chosen gene ``g`` that is not masked is kept, or replaced by any of the ``G`` genes (Devlin et
    al. 2019): the token ``s`` is shown with probability ``kept [s = g] + random / G``. Of two genes
    of equal counts the shown one is therefore ``1 + G kept / random`` times as probable.
    """
    options = TrainOptions()
    kept = 1.0 - options.masked_share - options.random_share
    return 1.0 + n_genes * kept / options.random_share


def weigh_shown(
    prediction: Prediction,
    masked_cells: MaskedCells,
    table_KV: npt.NDArray[np.float64],
    bins_M: Ints,
    cells: Ints,
    factor: float,
) -> None:
    """Predict the places that show a gene by Bayes' rule; [MASK]ed places stay as they are.

    The result is a mixture of the distribution from counts with a point mass on the shown gene. Its
    weight is large where the shown gene is frequent at that rank in the counted cells, and 0 where
    it is also visible elsewhere in the cell: then it was drawn at random.
    """
    for cell in cells:
        here = np.arange(masked_cells.bounds[cell], masked_cells.bounds[cell + 1])
        here = here[masked_cells.corruptions_M[here] != MASKED]
        rows_C = np.arange(len(here))
        weight_CV = table_KV[bins_M[here]]
        weight_CV[:, masked_cells.visible(cell)] = 0.0
        weight_CV[rows_C, masked_cells.shown_M[here]] *= factor
        true_C = weight_CV[rows_C, masked_cells.targets_M[here]]
        prediction.losses_M[here] = np.log(weight_CV.sum(1) / true_C)
        prediction.above_M[here] = (weight_CV > true_C[:, None]).sum(1)
        prediction.ties_M[here] = (weight_CV == true_C[:, None]).sum(1)
