"""The task `mlm`: predict the masked genes of a cell, as in pre-training.

The loss depends on the masks, on context, vocabulary and averaging. All of these are fixed here:
the protocol of the sc-FM model card, with masks that depend on seed and cell alone. Models with
another gene table or context read other genes, and have a table of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.evaluation.models import Method
from cellscribe.evaluation.scores import Curve, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap, bootstrap_mean
from cellscribe.evaluation.tasks.mlm import baselines as counted_baselines
from cellscribe.evaluation.tasks.mlm import masked
from cellscribe.evaluation.tasks.mlm.data import Case, load
from cellscribe.evaluation.tasks.mlm.masked import MaskedCells, Predict, Prediction
from cellscribe.evaluation.tasks.mlm.unigram import rank_bins

if TYPE_CHECKING:
    from cellscribe.evaluation.models import Model

__all__ = [
    "ABOUT",
    "BASELINES",
    "EXTRA_BASELINES",
    "HEADLINES",
    "METRICS",
    "NAME",
    "PCA_BASELINE",
    "TITLE",
    "Case",
    "baselines",
    "load",
    "methods",
    "score",
]

NAME = "mlm"
TITLE = "Masked genes"
ABOUT = (
    "Of each cell 15 % of the genes, at least one, are chosen at random; 80 % of these are masked, "
    "10 % replaced by a random gene, 10 % kept, and the model gives each gene of its table a "
    "probability at each of these places (sc-FM model card; Devlin et al. 2019). The loss is minus "
    "the natural logarithm of the true gene's probability, mean over a cell's chosen genes, then "
    "over cells. That is the card's figure, and a kept gene is copied from the input for next to "
    "nothing; so the first figure is the loss on masked genes alone, where there is nothing to "
    "copy. A gene's rank tells much, and so do the genes that are visible in the cell and the gene "
    "that a chosen place shows: each counted baseline knows one of these more than the one before. "
    "The copy-aware one weighs by Bayes' rule that the shown gene was kept against that it was "
    "drawn at random, from its share at that rank in the counted cells and the shares above. "
    "On a file of cells they are counted in one half of it and judged on the other, both ways: "
    "they know the very dataset, which a model that never saw it does not, and are the stronger "
    "for it. On a corpus they are counted in its training cells."
)
METRICS = {
    "masked_loss": Metric(
        title="Loss, masked only",
        about="Cross-entropy, natural logarithm; mean over a cell's genes that are [MASK], then "
        "over cells.",
        better="lower",
    ),
    "loss": Metric(
        title="Loss, all chosen",
        about="The same over all chosen genes, the replaced and the kept ones too (sc-FM model "
        "card).",
        better="lower",
    ),
    "loss_per_token": Metric(
        title="Loss per token",
        about="Mean over the chosen genes of all cells: long cells count for more.",
        better="lower",
    ),
    "top1": Metric(
        title="Top-1",
        about="Share of the chosen genes of all cells that are held for the likeliest; where "
        "genes tie, the expected share.",
        better="higher",
    ),
    "top5": Metric(
        title="Top-5",
        about="Share of the chosen genes of all cells that are among the five likeliest.",
        better="higher",
    ),
}
HEADLINES = ("masked_loss", "loss")
BASELINES = (
    counted_baselines.ALIKE,
    counted_baselines.UNIGRAM,
    counted_baselines.RANK,
    counted_baselines.NOT_VISIBLE,
    counted_baselines.COPY_AWARE,
)
PCA_BASELINE = None
EXTRA_BASELINES: dict[str, str] = {}

RANKS = (1, 11, 31, 101, 301, 1_001)
"""First ranks of the bins in the breakdown."""
LENGTHS = (1, 101, 301, 601, 1_001, 2_001)
"""First lengths of the bins of a cell's genes."""
PER_DOUBLING = 2
"""Points of the curve between a rank and its double."""


def methods(case: Case, model: Model) -> list[Method]:
    """Return the row of a model, or of its twin, whose head is random as well.

    Raises
    ------
    UnfitError
        It has no masked-gene head, or another gene table than the corpus.
    """
    masked.check_head(model)
    if model.header.table.hash != case.vocabulary.hash:
        raise UnfitError(
            f"{model.name} is left out: its gene table {model.header.table.hash} is not the "
            f"corpus's {case.vocabulary.hash}; build one with --vocabulary and its genes.tsv"
        )
    return [model.row(functools.partial(masked.network_predictor, model))]


def baselines(case: Case) -> list[Method]:
    """Return the baselines that count genes, see `mlm.baselines`."""
    n_special = case.vocabulary.n_special

    def made(name: str) -> Predict:
        if name == counted_baselines.ALIKE:
            return counted_baselines.alike(case.vocabulary.n_genes)
        return counted_baselines.counted(case.count, name, case.context, n_special)

    return [
        Method(name=name, kind="baseline", predict=functools.partial(made, name))
        for name in BASELINES
    ]


def score(case: Case, predict: Predict, seed: int) -> Scores:
    """Predict the genes that a seed masks, and score the prediction.

    Intervals are over cells: an ordinary bootstrap for the mean of cells' means, a bootstrap of the
    ratio for shares of all chosen genes.
    """
    masked_cells = case.masked_cells(seed)
    prediction = predict(masked_cells)
    draws = case.options.bootstrap
    n_cells = len(masked_cells.ranked.numbers_B)

    def sums(values_M: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        return np.bincount(masked_cells.cells_M, values_M, minlength=n_cells).astype(np.float64)

    n_chosen_B = np.diff(masked_cells.bounds)
    means_B = sums(prediction.losses_M) / n_chosen_B
    masked_M = masked_cells.corruptions_M == masked.MASKED
    n_masked_B = sums(masked_M)
    # NaN, which the mean passes over, for cells of which nothing is masked
    n_masked_B[n_masked_B == 0] = np.nan
    masked_means_B = sums(prediction.losses_M * masked_M) / n_masked_B
    estimates = {
        "masked_loss": bootstrap_mean(masked_means_B, draws=draws, seed=seed),
        "loss": bootstrap_mean(means_B, draws=draws, seed=seed),
    }
    for name, values_M in (
        ("loss_per_token", prediction.losses_M),
        ("top1", prediction.hits_M(1)),
        ("top5", prediction.hits_M(5)),
    ):
        sums_B = sums(values_M)
        estimates[name] = bootstrap(
            lambda rows, sums_B=sums_B: sums_B[rows].sum() / n_chosen_B[rows].sum(),  # type: ignore[misc]
            n_cells,
            draws=draws,
            seed=seed,
        )
    return Scores(
        estimates=estimates,
        breakdowns=_breakdowns(masked_cells, prediction, means_B),
        curves={"loss by rank": _by_rank(masked_cells, prediction)},
    )


def _breakdowns(
    masked_cells: MaskedCells, prediction: Prediction, means_B: npt.NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """Average the loss over chosen genes by corruption and rank, and over cells by length."""
    lengths_B = masked_cells.ranked.lengths_B
    longest = int(lengths_B.max())
    kinds = masked.CORRUPTIONS
    ranks, rank_names = _bins(RANKS, longest)
    lengths, length_names = _bins(LENGTHS, longest)
    rank_M = np.searchsorted(ranks, masked_cells.ranks_M + 1, side="right") - 1
    length_B = np.searchsorted(lengths, lengths_B, side="right") - 1
    return {
        "by corruption": _means(prediction.losses_M, masked_cells.corruptions_M, kinds),
        "by rank": _means(prediction.losses_M, rank_M, rank_names),
        "by length": _means(means_B, length_B, length_names),
    }


def _bins(starts: Sequence[int], most: int) -> tuple[list[int], list[str]]:
    """Return the bins that begin at or before `most`, and their names."""
    some = [start for start in starts if start <= most]
    ends = [*(start - 1 for start in some[1:]), None]
    if len(some) < len(starts):
        ends[-1] = starts[len(some)] - 1
    names = [
        f"{start:,} and more" if end is None else f"{start:,}–{end:,}"
        for start, end in zip(some, ends, strict=True)
    ]
    return some, names


def _means(
    values: npt.NDArray[np.float64], bins: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[str, float]:
    """Compute the mean of each bin, NaN for an empty one."""
    counts = np.bincount(bins, minlength=len(names))
    sums = np.bincount(bins, values, minlength=len(names))
    means = np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)
    return dict(zip(names, means.tolist(), strict=True))


def _by_rank(masked_cells: MaskedCells, prediction: Prediction) -> Curve:
    """Average the loss over the chosen genes at ranks of each bin, at the middle of its ranks."""
    ranks = np.arange(1, int(masked_cells.ranked.lengths_B.max()) + 1)
    bins = rank_bins(len(ranks), PER_DOUBLING)
    names = [str(bin_) for bin_ in range(int(bins[-1]) + 1)]
    means = _means(prediction.losses_M, bins[masked_cells.ranks_M], names)
    middles = np.bincount(bins, ranks) / np.bincount(bins)
    return Curve(
        x=middles.tolist(),
        y=list(means.values()),
        x_label="rank in the cell",
        y_label="mean loss per token",
        log_x=True,
    )
