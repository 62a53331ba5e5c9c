"""Batches of cells on CPU workers, and the order in which they come back.

On a CPU each core is one worker with one torch thread, and works on small packed batches: no core
waits for another inside a product, and activations stay in its cache. Batches depend on a block's
lengths alone, never on the number of workers, so the results do not either.

Letters: ``B`` cells of a block, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.callbacks import Progress
from cellscribe.cells.batches import length_buckets
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.pipeline import ordered_map, token_blocks
from cellscribe.cells.tokens import CellTokens
from cellscribe.families.base import CellModel, tokenizer_of

T = TypeVar("T")
Rows = npt.NDArray[np.int64]
Work = Callable[[CellModel, CellTokens, Rows], T]
"""Called with a model, a block, and rows of the block, none of them empty."""

CPU_TOKENS = 2_048
"""Tokens a batch and worker: enough to fill a product, few enough for the second-level cache."""
AHEAD = 8
"""Batches queued for each worker, so that none runs dry while finished rows are written."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive cells, embedded."""

    vectors: npt.NDArray[np.float32]
    """``[B, D]``; zeros for a cell without a known gene."""
    cells: CellTokens
    """What the vectors were made from."""


@dataclass(frozen=True)
class Batch(Generic[T]):
    """What was made of some rows of a block."""

    cells: CellTokens
    """The block."""
    first: int
    """Row of the input at which the block begins."""
    rows: Rows | None
    """Rows of the block; None after the last batch of the block."""
    result: T | None
    """What the work returned; None after the last batch."""


def map_batches(
    model: CellModel,
    counts: Counts,
    genes: GeneMap,
    work: Work[T],
    *,
    workers: int,
    tokens: int = CPU_TOKENS,
    start: int = 0,
    ahead: int = AHEAD,
) -> Iterator[Batch[T]]:
    """Apply `work` to batches of cells of like length, in the order of the blocks.

    Parameters
    ----------
    model
        Gets the cells' tokens and is handed to `work`.
    counts, genes
        Opened counts, and the token of each of their columns.
    workers
        Threads that work side by side.
    tokens
        Tokens a batch.
    start
        First row of `counts` to read, a multiple of `pipeline.BLOCK`.
    ahead
        Batches for each worker that may be queued or done and not yet taken.

    Yields
    ------
    Batch
        The batches of a block, then one without rows. Cells without tokens are in no batch.
    """

    def schedule(blocks: Iterator[CellTokens]) -> Iterator[tuple[CellTokens, int, Rows | None]]:
        first = start
        for cells in blocks:
            for rows in batch_rows(model, cells, tokens):
                yield cells, first, rows
            yield cells, first, None
            first += len(cells.lengths)

    def run(batch: tuple[CellTokens, int, Rows | None]) -> Batch[T]:
        cells, first, rows = batch
        if rows is None:
            return Batch(cells, first, None, None)
        with torch.inference_mode():
            return Batch(cells, first, rows, work(model, cells, rows))

    with (
        cpu_workers(workers) as pool,
        closing(
            token_blocks(counts, genes, tokenizer_of(model, counts, genes), start=start)
        ) as blocks,
    ):
        yield from ordered_map(pool, run, schedule(blocks), ahead=ahead * workers + 1)


def batch_rows(model: CellModel, cells: CellTokens, tokens: int) -> list[Rows]:
    """Rows of the cells that are not empty, in batches of like length and about `tokens` tokens."""
    places = model.places(cells)
    filled = np.flatnonzero(places)
    return [filled[rows] for rows in length_buckets(places[filled], tokens)]


def cpu_blocks(
    model: CellModel,
    counts: Counts,
    genes: GeneMap,
    start: int = 0,
    progress: Progress | None = None,
    *,
    workers: int,
    tokens: int = CPU_TOKENS,
) -> Iterator[Block]:
    """Embed block by block from row `start` on; the same arguments as `gpu.gpu_blocks`."""

    def embed(model: CellModel, cells: CellTokens, rows: Rows) -> npt.NDArray[np.float32]:
        return model.embed(cells, rows).float().cpu().numpy()

    done, vectors = start, np.empty((0, model.width), np.float32)
    begun: CellTokens | None = None
    for batch in map_batches(
        model, counts, genes, embed, workers=workers, tokens=tokens, start=start
    ):
        if begun is not batch.cells:
            begun = batch.cells
            vectors = np.zeros((len(begun.lengths), model.width), dtype=np.float32)
            done += int((begun.lengths == 0).sum())
        if batch.rows is None:
            yield Block(vectors=vectors, cells=batch.cells)
            continue
        assert batch.result is not None
        vectors[batch.rows] = batch.result
        done += len(batch.rows)
        if progress is not None:
            progress(done, counts.n_cells)


@contextmanager
def cpu_workers(n: int) -> Iterator[Executor]:
    """Workers of one torch thread each; meanwhile the caller has one thread as well."""
    # Torch keeps the number per thread.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(
        n, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
