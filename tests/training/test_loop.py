"""A run learns what is planted, and passes over what is not finite."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import (
    LENGTH,
    N_SPECIAL,
    SHAPE,
    SHORT,
    lines_of,
    planted_corpus,
    run_training,
    two_types,
)

from cellscribe.config import ReaderOptions, TrainOptions
from cellscribe.corpus.reader import Reader
from cellscribe.errors import InputError
from cellscribe.model.checkpoint import load_checkpoint
from cellscribe.training import batches as batches_room
from cellscribe.training import objective as objective_room
from cellscribe.training import pretrain as pretrain_room

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus") / "planted")


def rank_conditioned_unigram(train: list[list[int]], held_out: list[list[int]]) -> float:
    """Mean over held-out genes of -log share of the gene among training genes of that rank."""
    counts = [Counter(cell[rank] for cell in train) for rank in range(LENGTH)]
    losses = [
        -math.log((counts[rank][gene] + 0.1) / (len(train) + 0.1 * 2 * LENGTH))
        for cell in held_out
        for rank, gene in enumerate(cell)
    ]
    return float(np.mean(losses))


def read(corpus: Path, split: str, n_cells: int) -> list[list[int]]:
    options = ReaderOptions(split=split, batch_cells=n_cells, layout="packed", cls_token=False)
    batch = next(iter(Reader(corpus, options)))
    return [cell.tolist() for cell in np.split(batch.tokens, batch.offsets[1:-1])]


def test_it_learns_more_than_ranks_and_frequencies_tell(corpus: Path, tmp_path: Path) -> None:
    """What is left to know is the cell's type, which only the other genes tell."""
    options = replace(
        SHORT,
        schedule_steps=300,
        global_batch=20,
        micro_batch=20,
        genes_per_cell=None,
        full_length_steps=0,
        learning_rate=5e-3,
        warmup_steps=20,
        validate_every=150,
    )
    model = run_training(corpus, tmp_path / "run", options=options)
    lines = lines_of(tmp_path / "run", timed=True)
    genes = math.log(len(load_checkpoint(model).vocabulary))
    assert lines[0]["loss"] == pytest.approx(genes, rel=0.1)
    baseline = rank_conditioned_unigram(read(corpus, "train", 200), read(corpus, "val", 40))
    assert baseline < genes / 2  # it is no straw man
    assert lines[-1]["loss_val"] < baseline - 0.2
    assert lines[-1]["loss_test_unseen"] < baseline - 0.2
    assert [line["step"] for line in lines] == list(range(1, 301))
    assert [line["step"] for line in lines if "loss_val" in line] == [150, 300]
    assert all(line["cells"] == 20 for line in lines)
    assert all(line["tokens"] == 20 * (1 + LENGTH) for line in lines)


def test_each_epoch_shows_every_cell_once_under_a_new_mask(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    whole = batches_room.mask_cells

    def noted(tokens: Any, lengths: Any, cells: Any, epoch: int, *rest: Any, **more: Any) -> Any:
        batch = whole(tokens, lengths, cells, epoch, *rest, **more)
        calls.append((epoch, more["genes_per_cell"], cells.tolist(), batch))
        return batch

    monkeypatch.setattr(batches_room, "mask_cells", noted)
    options = replace(SHORT, global_batch=50, micro_batch=25, schedule_steps=8)
    run_training(corpus, tmp_path / "run", options=options)
    calls = calls[:16]  # some more may have been masked ahead
    assert [epoch for epoch, *_ in calls] == [1] * 8 + [2] * 8
    assert [limit for _, limit, *_ in calls] == [12] * 10 + [None] * 6
    for some in (calls[:8], calls[8:]):
        assert sorted(cell for _, _, cells, _ in some for cell in cells) == list(range(200))
    assert [cells for _, _, cells, _ in calls[:8]] != [cells for _, _, cells, _ in calls[8:]]
    first = {c: b.cells.lengths for _, _, cells, b in calls for c in cells}
    assert set(first[0]) <= {13, 21}


def test_validation_is_always_of_the_same_masks_and_whole_cells(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    whole = objective_room.Objective.forward

    def forward(self: Any, batch: Any) -> Any:
        if not self.training:
            assert not torch.is_grad_enabled()
            seen.append(batch)
        return whole(self, batch)

    monkeypatch.setattr(objective_room.Objective, "forward", forward)
    run_training(corpus, tmp_path / "run")
    # after steps 5, 10 and 14: two splits of 16 cells, 8 at a time
    assert len(seen) == 3 * 2 * 2
    for place, batch in enumerate(seen):
        assert set(batch.cells.lengths) == {1 + LENGTH}
        same = seen[place % 4]
        for name in ("tokens_N", "positions_N", "chosen_M", "targets_M"):
            assert torch.equal(getattr(batch, name), getattr(same, name))


def test_accumulated_micro_batches_are_one_batch(corpus: Path, tmp_path: Path) -> None:
    traces = []
    for micro_batch in (16, 4):
        run = tmp_path / str(micro_batch)
        run_training(corpus, run, micro_batch=micro_batch)
        traces.append([line["loss"] for line in lines_of(run)])
    np.testing.assert_allclose(traces[0], traces[1], rtol=1e-6)


def test_another_seed_gives_another_run(corpus: Path, tmp_path: Path) -> None:
    traces = []
    for place, seed in enumerate((0, 0, 1)):
        run_training(corpus, tmp_path / str(place), seed=seed, steps=4)
        traces.append([line["loss"] for line in lines_of(tmp_path / str(place))])
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> list[float]:
    """Make the loss of some steps NaN; returns a weight's sum behind each step."""
    sums: list[float] = []
    whole = pretrain_room.train

    def train(module: Any, model: Any, optimizer: Any, *rest: Any, **more: Any) -> Any:
        step = 0

        def forward(self: Any, batch: Any) -> Any:
            nonlocal step
            total, losses = whole_forward(self, batch)
            if self.training:
                sums.append(float(model.bias.detach().sum()))
                step += 1
                total = total * math.nan if step in bad else total
            return total, losses

        whole_forward = objective_room.Objective.forward
        with monkeypatch.context() as patch:
            patch.setattr(objective_room.Objective, "forward", forward)
            return whole(module, model, optimizer, *rest, **more)

    monkeypatch.setattr(pretrain_room, "train", train)
    return sums


def test_a_step_that_is_not_finite_is_passed_over(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = poisoned(monkeypatch, {3, 4, 7})
    run_training(corpus, tmp_path / "run", micro_batch=16, bad_steps=3)
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines if line.get("skipped")] == [3, 4, 7]
    assert all((line["loss"] is None) == (line["step"] in (3, 4, 7)) for line in lines)
    moved = [after != before for before, after in pairwise(sums)]
    assert [step for step, changed in enumerate(moved, start=1) if not changed] == [3, 4, 7]


def test_too_many_in_a_row_end_the_run_by_name(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {7, 8, 9})
    with pytest.raises(InputError, match=r"3 steps in a row.*step 9 \(batch 8 of epoch 0\)"):
        run_training(corpus, tmp_path / "run", micro_batch=16, bad_steps=3)
    assert (tmp_path / "run/checkpoints/000005").is_dir()


def test_patience_ends_a_run_that_gets_no_better(corpus: Path, tmp_path: Path) -> None:
    options = replace(SHORT, learning_rate=1e-30, validate_every=1, patience=3)
    model = run_training(corpus, tmp_path / "run", options=options)
    lines = lines_of(tmp_path / "run")
    best = min(range(len(lines)), key=lambda i: lines[i]["loss_val"])
    assert len(lines) == best + 1 + 3
    assert load_checkpoint(model).provenance["step"] == best + 1
    # gone on with, it is at its end still, unless there is more patience
    run_training(corpus, tmp_path / "run", options=options, resume=True)
    assert len(lines_of(tmp_path / "run")) == len(lines)
    run_training(corpus, tmp_path / "run", options=options, resume=True, patience=4)
    assert len(lines_of(tmp_path / "run")) > len(lines)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"micro_batch": 5}, "global_batch 16 is not a multiple of micro_batch 5 x 1 rank"),
        ({"global_batch": 256, "micro_batch": 8}, "do not fill a batch of 256"),
        ({"steps": 20}, "steps 20 lie beyond schedule_steps 14"),
        ({"masked_share": 0.95}, "more than all"),
        ({"precision": "fp16"}, "choose bf16 or float32"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_what_cannot_be_is_refused(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        run_training(corpus, tmp_path / "run", **changes)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_tensorboard_gets_what_the_lines_say(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(corpus, tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    drawn = {event.step: event.value for event in events.Scalars("loss")}
    lines = lines_of(tmp_path / "run")
    assert drawn == pytest.approx({line["step"]: line["loss"] for line in lines}, rel=1e-6)


def test_the_planted_types_differ() -> None:
    cells = two_types(100, 0)
    firsts = {min(cell) for cell in cells}
    assert firsts == {N_SPECIAL, N_SPECIAL + LENGTH}
    assert SHAPE.context >= LENGTH
    assert isinstance(SHORT, TrainOptions)
