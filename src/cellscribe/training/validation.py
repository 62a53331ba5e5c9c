"""The loss on held-out cells: always the same cells, not shortened, with the same masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cellscribe.config import ModelConfig, ReaderOptions, TrainOptions
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus
from cellscribe.training.distributed import Team
from cellscribe.training.masking import VALIDATION_EPOCH, MaskedBatch, mask_cells

SPLITS = ("val", "test_unseen")
"""Cells held out of datasets of the training tissues, and cells of a dataset never seen."""
SEED = 0
"""Seed of the choice of cells."""


@dataclass(frozen=True)
class Validation:
    """A rank's share of the cells of each split."""

    batches: dict[str, list[MaskedBatch]]

    @torch.no_grad()
    def losses(self, objective: nn.Module, device: torch.device, team: Team) -> dict[str, float]:
        """Compute the mean loss over the cells of each split, over all ranks."""
        found = {}
        objective.eval()
        for split, batches in self.batches.items():
            total = n_masked = 0.0
            for batch in batches:
                total += float(objective(batch.to(device))[0])
                n_masked += batch.n_masked
            total, n_masked = team.all_reduce([total, n_masked])
            if n_masked:
                found[split] = total / n_masked
        objective.train()
        return found


def read_validation(
    corpus: Corpus, config: ModelConfig, options: TrainOptions, team: Team
) -> Validation:
    """Read and mask the first `validation_cells` of each held-out split, in an order of its own."""
    batches: dict[str, list[MaskedBatch]] = {}
    for split in SPLITS:
        if split not in corpus.splits:
            continue
        n_cells = min(options.validation_cells, corpus.splits[split]["cells"])
        reader = Reader(
            corpus,
            ReaderOptions(
                split=split,
                # Each rank gets some cells, so that all call the network equally often.
                batch_cells=max(n_cells, team.size),
                seed=SEED,
                lanes=options.lanes,
                layout="packed",
                cls_token=config.cls_token,
                context=config.context,
            ),
            rank=team.rank,
            world_size=team.size,
        )
        whole = next(reader.epoch(0))
        genes = (corpus.vocabulary.n_special, len(corpus.vocabulary))
        rounds = -(-n_cells // (team.size * options.micro_batch))
        batches[split] = []
        for cells in np.array_split(np.arange(len(whole.cells)), rounds):
            some = slice(cells[0], cells[-1] + 1) if len(cells) else slice(0, 0)
            tokens = whole.tokens[whole.offsets[some.start] : whole.offsets[some.stop]]
            lengths, numbers = whole.lengths[some], whole.cells[some]
            if not len(cells):
                # All ranks gather the shards of parameters: without cells, an empty one is used.
                lengths, numbers = np.zeros(1, np.int32), np.zeros(1, np.int64)
            front = int(config.cls_token)
            batches[split].append(
                mask_cells(tokens, lengths, numbers, VALIDATION_EPOCH, genes, options, front=front)
            )
    return Validation(batches)
