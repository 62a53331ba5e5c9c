"""Counted baselines, beside a slow count by hand on planted cells."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from evaluation.masked import best_prior
from support.training import LENGTH, N_SPECIAL, SHAPE, SHORT, planted_corpus

from cellscribe.config import ReaderOptions
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.evaluation.tasks.mlm.unigram import count_genes, rank_bins, unigram_losses
from cellscribe.training.distributed import Team
from cellscribe.training.validation import read_validation


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_corpus(planted_corpus(tmp_path_factory.mktemp("corpus") / "planted"))


def cells(corpus: Corpus) -> list[list[int]]:
    reader = Reader(corpus, ReaderOptions(batch_cells=200, layout="packed", cls_token=False))
    batch = next(iter(reader))
    return [cell.tolist() for cell in np.split(batch.tokens, batch.offsets[1:-1])]


def test_bins_rise_from_one_rank_to_many() -> None:
    bins = rank_bins(1_024)
    assert bins[:4].tolist() == [0, 1, 2, 3]
    assert (np.diff(bins) >= 0).all()
    assert set(np.diff(bins)) <= {0, 1}
    sizes = np.bincount(bins)
    assert sizes[-2] > 100
    assert len(rank_bins(1)) == 1


def test_genes_are_counted_by_rank(corpus: Corpus) -> None:
    counts, bins = count_genes(corpus, LENGTH), rank_bins(LENGTH)
    expected = Counter((bins[r], g) for cell in cells(corpus) for r, g in enumerate(cell))
    assert counts.sum() == 200 * LENGTH
    assert {(b, g): counts[b, g] for b, g in zip(*np.nonzero(counts), strict=True)} == expected


def test_losses_are_those_of_the_counts(corpus: Corpus) -> None:
    losses = unigram_losses(corpus, SHAPE, SHORT)
    assert losses.keys() == {"val", "test_unseen"}
    seen = cells(corpus)
    size, n = len(corpus.vocabulary), 200 * LENGTH
    counts = Counter(gene for cell in seen for gene in cell)
    share = {g: (counts[g] + 0.5) / (n + 0.5 * (size - N_SPECIAL)) for g in range(5, size)}
    bins = rank_bins(SHAPE.context)
    by_bin = Counter((bins[r], g) for cell in seen for r, g in enumerate(cell))
    of_bin = Counter(bins[r] for cell in seen for r in range(len(cell)))
    each_bin = {b: Counter({g: n for (c, g), n in by_bin.items() if c == b}) for b in of_bin}
    prior = best_prior(list(each_bin.values()), share)
    for split, batches in read_validation(corpus, SHAPE, SHORT, Team()).batches.items():
        plain, ranked = [], []
        for batch in batches:
            for place, gene in zip(batch.chosen_M.tolist(), batch.targets_M.tolist(), strict=True):
                b = bins[int(batch.positions_N[place]) - 1]
                plain.append(-math.log(share[gene]))
                told = (by_bin[b, gene] + prior * share[gene]) / (of_bin[b] + prior)
                ranked.append(-math.log(told))
        # all cells are as long, so a mean over places is one over cells
        assert losses[split]["unigram"] == pytest.approx(np.mean(plain), rel=1e-6)
        assert losses[split]["rank"] == pytest.approx(np.mean(ranked), rel=1e-6)
        # planted: 40 genes as common as each other, two of them likely at a rank
        assert losses[split]["unigram"] == pytest.approx(math.log(40), abs=0.05)
        assert losses[split]["rank"] < losses[split]["unigram"] - 0.5
