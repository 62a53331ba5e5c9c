"""Counts of genes by rank, compared with a slow count by hand on planted cells."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from support.training import LENGTH, planted_corpus

from cellscribe.config import ReaderOptions
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.evaluation.tasks.mlm.unigram import count_genes, rank_bins


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
