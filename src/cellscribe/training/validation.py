"""The loss on held-out cells: always the same cells, whole, under masks that never change."""

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
"""Cells of the datasets in training's tissues that were held out, and a dataset never seen."""
SEED = 0
"""Of which cells of a split are read."""


@dataclass(frozen=True)
class Validation:
    """A rank's share of the cells of each split."""

    batches: dict[str, list[MaskedBatch]]

    @torch.no_grad()
    def losses(self, objective: nn.Module, device: torch.device, team: Team) -> dict[str, float]:
        """Mean loss over the cells of each split, of all ranks together."""
        found = {}
        objective.eval()
        for split, batches in self.batches.items():
            total = asked = 0.0
            for batch in batches:
                total += float(objective(batch.to(device))[0])
                asked += batch.n_asked
            total, asked = team.total([total, asked])
            if asked:
                found[split] = total / asked
        objective.train()
        return found


def read_validation(
    corpus: Corpus, config: ModelConfig, options: TrainOptions, team: Team
) -> Validation:
    """Read and mask the first `validation_cells` of each held-out split in an order of its own."""
    batches: dict[str, list[MaskedBatch]] = {}
    for split in SPLITS:
        if split not in corpus.splits:
            continue
        n_cells = min(options.validation_cells, corpus.splits[split]["cells"])
        reader = Reader(
            corpus,
            ReaderOptions(
                split=split,
                # Each rank gets some, if only to call the network as often as the others.
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
                # Shards of parameters are gathered by all ranks: this one takes an empty cell.
                lengths, numbers = np.zeros(1, np.int32), np.zeros(1, np.int64)
            front = int(config.cls_token)
            batches[split].append(
                mask_cells(tokens, lengths, numbers, VALIDATION_EPOCH, genes, options, front=front)
            )
    return Validation(batches)
