"""Downsampled cells: what binomial downsampling must give, and one draw for the same cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support.training import SHAPE, SHORT, lines_of, run_training

from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.config import BuildOptions, ReaderOptions, SplitOptions
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.reader import Batch, Reader
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.training import downsampling
from cellscribe.training.downsampling import Downsampling
from cellscribe.training.training_counts import TrainingCounts

SAMPLE = Path(downsampling.__file__).parents[1] / "bundled/pbmc3k_sample.h5ad"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("corpus") / "out"
    options = BuildOptions(genes=1_500)
    return build_corpus([SAMPLE], out, options, SplitOptions(holdout=0), log=lambda line: None)


def first(corpus: Corpus, n_cells: int = 200, epoch: int = 0) -> Batch:
    options = ReaderOptions(batch_cells=n_cells, layout="packed")
    return next(Reader(corpus, options).epoch(epoch))


def cells_of(batch: Batch) -> list[list[int]]:
    return [cell.tolist() for cell in np.split(batch.tokens, batch.offsets[1:-1])]


def test_all_counts_kept_give_the_corpuss_own_ranks(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the counts found are those of the cell, gene by gene, in the right order."""
    monkeypatch.setattr(downsampling, "LEAST", 1.0)
    batch = first(corpus)
    downsampled = Downsampling(corpus, 1.0, 0, corpus.context, cls_token=True)(batch)
    assert cells_of(downsampled) == cells_of(batch)


def test_genes_are_lost_as_downsampling_loses_them(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gene of count c is seen with probability 1 - (1 - p)^c."""
    monkeypatch.setattr(downsampling, "LEAST", 0.999999)
    downsample = Downsampling(corpus, 1.0, 0, corpus.context, cls_token=True)
    # p is next to 1 here: downsample the counts by hand first, and nothing more may be lost
    batch = first(corpus, 50)
    assert [len(c) for c in cells_of(downsample(batch))] == [len(c) for c in cells_of(batch)]
    monkeypatch.setattr(downsampling, "LEAST", 0.1)
    downsample = Downsampling(corpus, 1.0, 1, corpus.context, cls_token=True)
    shares, expected = [], []
    counts = TrainingCounts(corpus, "downsample")
    p = np.linspace(0.1, 1, 2_001)
    for cell, number in zip(cells_of(downsample(first(corpus))), first(corpus).cells, strict=True):
        row: csr_matrix = counts.rows(np.array([number]))
        c = row.data
        assert set(cell[1:]) <= set(row.indices)
        shares.append((len(cell) - 1) / len(c))
        expected.append(np.mean([(1 - (1 - q) ** c).mean() for q in p[::100]]))
    assert np.mean(shares) == pytest.approx(np.mean(expected), abs=0.04)
    assert np.std(shares) > 0.1


def test_a_draw_belongs_to_seed_epoch_and_cell(corpus: Corpus) -> None:
    def downsampled(seed: int, epoch: int, n_cells: int) -> dict[int, list[int]]:
        batch = replace_epoch(first(corpus, n_cells), epoch)
        done = Downsampling(corpus, 0.5, seed, corpus.context, cls_token=True)(batch)
        return dict(zip(batch.cells.tolist(), cells_of(done), strict=True))

    one = downsampled(0, 0, 100)
    few = downsampled(0, 0, 20)
    assert all(one[cell] == tokens for cell, tokens in few.items())
    whole = dict(zip(first(corpus, 100).cells.tolist(), cells_of(first(corpus, 100)), strict=True))
    changed = np.mean([one[cell] != whole[cell] for cell in one])
    assert 0.3 < changed < 0.7
    assert all(tokens[0] == CLS for tokens in one.values())
    for other in (downsampled(1, 0, 100), downsampled(0, 1, 100)):
        assert np.mean([other[cell] != one[cell] for cell in one]) > 0.3


def replace_epoch(batch: Batch, epoch: int) -> Batch:
    return replace(batch, epoch=epoch)


def test_a_run_takes_it_and_goes_on_with_it(corpus: Corpus, tmp_path: Path) -> None:
    shape = replace(SHAPE, context=40)
    options = replace(SHORT, downsample=0.5)
    run_training(corpus.path, tmp_path / "whole", shape=shape, options=options)
    run_training(corpus.path, tmp_path / "run", shape=shape, options=options, steps=6)
    run_training(corpus.path, tmp_path / "run", shape=shape, options=options, resume=True)
    losses = [[line["loss"] for line in lines_of(tmp_path / name)] for name in ("run", "whole")]
    assert losses[0] == losses[1]
    run_training(corpus.path, tmp_path / "plain", shape=shape, steps=6)
    assert [line["loss"] for line in lines_of(tmp_path / "plain")] != losses[0][:6]


def test_a_corpus_without_counts_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(corpus.path, bare)
    shutil.rmtree(bare / "counts")
    with pytest.raises(InputError, match="holds no counts, which downsample needs"):
        Downsampling(open_corpus(bare), 0.5, 0, 40, cls_token=True)
