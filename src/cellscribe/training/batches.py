"""The batches of each step: one rank's cells, masked, in micro batches, read ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellscribe.config import ModelConfig, ReaderOptions, TrainOptions
from cellscribe.corpus.reader import Batch, Reader
from cellscribe.corpus.store import Corpus
from cellscribe.training.masking import MaskedBatch, mask_cells
from cellscribe.training.views import Views

AHEAD = 2
"""Number of steps that are masked before they are needed."""
Change = Callable[[Batch], Batch]


@dataclass(frozen=True, eq=False)
class StepBatches:
    """One step's cells of one rank."""

    micro: list[MaskedBatch]
    reader: dict[str, Any]
    """State of the reader after them."""
    epoch: int
    number: int
    """Place of the batch in the epoch."""


def open_reader(
    corpus: Corpus, config: ModelConfig, options: TrainOptions, *, rank: int, world_size: int
) -> Reader:
    """Open the training split, in the order that the run's seed gives.

    Raises
    ------
    InputError
        There is no training split, or it does not fill a batch.
    """
    return Reader(
        corpus,
        ReaderOptions(
            batch_cells=options.global_batch,
            seed=options.seed,
            lanes=options.lanes,
            layout="packed",
            cls_token=config.cls_token,
            context=config.context,
            drop_last=True,
        ),
        rank=rank,
        world_size=world_size,
    )


def step_batches(
    reader: Reader,
    config: ModelConfig,
    options: TrainOptions,
    first_step: int,
    change: Change | None = None,
    views: Views | None = None,
) -> Generator[StepBatches]:
    """Yield the batches of steps `first_step` and later, without end.

    Parameters
    ----------
    reader
        From `open_reader`; its next batch is that of `first_step`.
    config, options
        Where the use of [CLS], and seed, shares and sizes are set.
    change
        Function that is applied to each batch before it is masked.
    views
        Makes two views of each cell, which are then the batch.
    """
    accumulation = options.accumulation(reader.world_size)
    genes = (reader.corpus.vocabulary.n_special, len(reader.corpus.vocabulary))
    front = int(config.cls_token)

    def mask(batch: Batch, state: dict[str, Any], step: int) -> StepBatches:
        batch = change(batch) if change else batch
        whole = step > options.schedule_steps - options.full_length_steps
        micro = []
        for rows in np.split(np.arange(len(batch.cells)), accumulation):
            some = slice(rows[0], rows[-1] + 1)
            if views is not None:
                micro.append(views.masked(batch.cells[some], batch.epoch, whole=whole))
                continue
            micro.append(
                mask_cells(
                    batch.tokens[batch.offsets[some.start] : batch.offsets[some.stop]],
                    batch.lengths[some],
                    batch.cells[some],
                    1 + batch.epoch,
                    genes,
                    options,
                    front=front,
                    genes_per_cell=None if whole else options.genes_per_cell,
                )
            )
        return StepBatches(micro, state, batch.epoch, batch.number)

    waiting: deque[Any] = deque()
    step = first_step
    with ThreadPoolExecutor(1, thread_name_prefix="mask") as pool:
        while True:
            for batch in reader:
                waiting.append(pool.submit(mask, batch, reader.state_dict(), step))
                step += 1
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
