"""Reading ahead and working side by side change neither order nor errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cellscribe.cells import pipeline
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.pipeline import ordered_map, ranked_blocks, read_ahead
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.errors import InputError


class Source:
    """Numbers from 0 on, which notes how many were taken and whether it was closed."""

    def __init__(self, stop: int, error: Exception | None = None) -> None:
        self.taken, self.closed, self.stop, self.error = 0, False, stop, error

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.stop):
                self.taken += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed = True


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read"]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("items", [[], [None, 0, False, "x"], list(range(50))])
def test_read_ahead_gives_all_items_in_order(items: list[Any], depth: int) -> None:
    assert list(read_ahead(items, depth=depth)) == items
    assert not readers()


@pytest.mark.parametrize("error", [InputError("bad row"), KeyError("gone")])
def test_read_ahead_hands_on_the_error_behind_the_items(error: Exception) -> None:
    got = []
    with pytest.raises(type(error)) as caught:
        for item in read_ahead(Source(5, error), depth=2):
            got.append(item)
    assert caught.value is error
    assert got == [0, 1, 2, 3, 4]
    assert not readers()


def test_read_ahead_stays_close_and_stops_its_thread_when_closed() -> None:
    source = Source(10_000)
    items = read_ahead(source, depth=2)
    assert [next(items), next(items)] == [0, 1]
    assert readers()
    items.close()
    assert not readers()
    assert source.closed
    assert source.taken <= 2 + 2 + 1  # given out, waiting, in hand


def test_ordered_map_keeps_the_order_whichever_ends_first() -> None:
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(30)
        if number == 1:
            second_done.set()
        return number * number

    with ThreadPoolExecutor(2) as pool:
        results = list(ordered_map(pool, work, range(20), ahead=2))
    assert results == [n * n for n in range(20)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_ordered_map_takes_no_more_than_it_needs(ahead: int) -> None:
    source = Source(1_000)
    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, str, iter(source), ahead=ahead)
        assert source.taken == 0
        for given in range(5):
            assert next(results) == str(given)
            assert source.taken <= given + ahead
        results.close()
    assert source.closed


def test_ordered_map_hands_on_errors_and_closes_its_source() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise InputError("three")
        return number

    source, got = Source(1_000), []
    with ThreadPoolExecutor(2) as pool, pytest.raises(InputError, match="three"):
        for result in ordered_map(pool, work, iter(source), ahead=2):
            got.append(result)
    assert got == [0, 1, 2]
    assert source.closed
    assert source.taken <= 5


@pytest.fixture
def cells() -> tuple[ad.AnnData, Vocabulary]:
    rng = np.random.default_rng(0)
    ids = [f"ENSG{i:011}" for i in range(30)]
    x = csr_matrix(rng.poisson(0.7, (53, 30)).astype(np.float32))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(53)])
    return (
        ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=ids)),
        Vocabulary.build(ids[:25], [""] * 25, rng.lognormal(size=25)),
    )


@pytest.mark.parametrize("start", [0, 10, 52])
def test_ranked_blocks_are_the_cells_ranked_at_once(
    cells: tuple[ad.AnnData, Vocabulary], start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", 10)
    adata, vocabulary = cells
    with open_counts(adata) as counts:
        genes = map_genes(counts.var, vocabulary)
        blocks = list(ranked_blocks(counts, genes, vocabulary, 12, start=start))
    assert [len(block.lengths) for block in blocks[:-1]] == [10] * (len(blocks) - 1)
    joined = CellTokens.concatenate(blocks)
    whole = rank_cells(adata.X[start:], genes.token, vocabulary.medians, 12)
    for name in ("tokens", "offsets", *PER_CELL):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_ranked_blocks_tell_of_a_bad_row_and_leave_no_thread(
    cells: tuple[ad.AnnData, Vocabulary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", 10)
    adata, vocabulary = cells
    adata.X.data[adata.X.indptr[47]] = np.nan
    with open_counts(adata) as counts:
        genes = map_genes(counts.var, vocabulary)
        with pytest.raises(InputError, match="cell 47"):
            list(ranked_blocks(counts, genes, vocabulary, 12))
    assert not readers()


def test_a_worker_keeps_to_its_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_part", None)
    there = pipeline.usable_cores()
    pipeline.use_cores(1)
    assert pipeline.usable_cores() == 1
    pipeline.use_cores(10_000)
    assert pipeline.usable_cores() == there
