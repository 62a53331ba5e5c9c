"""Training runs so small that a test can have many, and a corpus in which something is planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellscribe.config import ModelConfig, TrainOptions
from support.corpus import write_corpus

N_SPECIAL = 5
SHAPE = ModelConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
    context=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
DROPPING = replace(SHAPE, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
SHORT = TrainOptions(
    schedule_steps=14,
    global_batch=16,
    micro_batch=8,
    genes_per_cell=12,
    full_length_steps=3,
    warmup_steps=4,
    validate_every=5,
    validation_cells=16,
    checkpoint_every=5,
    precision="float32",
)
LENGTH = 20


def two_types(n_cells: int, seed: int) -> list[list[int]]:
    """A cell shows its type's 20 genes, in its type's order but for a few neighbours swapped."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(n_cells):
        order = np.arange(LENGTH) + rng.normal(scale=0.4, size=LENGTH)
        cells.append((N_SPECIAL + LENGTH * rng.integers(2) + np.argsort(order)).tolist())
    return cells


def planted_corpus(folder: Path, **cells: list[int]) -> Path:
    """Cells of two types; by default 200 for training, 40 for val and 24 for test_unseen."""

    def change(table: pa.Table, split: str, place: int) -> pa.Table:
        some = two_types(table.num_rows, seed=hash_of(split) + place)
        tokens = table.schema.field("input_ids").type
        table = table.set_column(
            table.schema.get_field_index("input_ids"),
            table.schema.field("input_ids"),
            pa.array(some, tokens),
        )
        lengths = pa.array([len(cell) for cell in some], pa.int32())
        return table.set_column(table.schema.get_field_index("length"), "length", lengths)

    shards = cells or {"train": [100, 100], "val": [40], "test_unseen": [24]}
    return write_corpus(folder, shards, change=change)


def hash_of(text: str) -> int:
    """A number that belongs to a text, the same in every process."""
    return sum(10 * place + ord(letter) for place, letter in enumerate(text))


def run_training(
    corpus: Path,
    run: Path,
    *,
    shape: ModelConfig = SHAPE,
    options: TrainOptions = SHORT,
    log: Any = lambda line: None,
    on_step: Any = None,
    resume: bool = False,
    init_from: Any = None,
    **changes: Any,
) -> Path | None:
    """Plan and train; `changes` are fields of the options."""
    from cellscribe.training.plan import plan
    from cellscribe.training.pretrain import pretrain

    planned = plan(
        corpus,
        run,
        shape,
        replace(options, **changes),
        preset="tiny",
        resume=resume,
        init_from=init_from,
    )
    return pretrain(planned, on_step=on_step, log=log)


def lines_of(run: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``, without what differs from run to run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    if not timed:
        for line in lines:
            del line["seconds"]
    return lines
