"""The training loop learns what is planted, and goes on as if it had never stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellscribe.cells.rank import RankedCells
from cellscribe.cells.vocabulary import CLS, MASK, PAD, Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.training import loop
from cellscribe.training.loop import (
    STATE,
    Batch,
    TrainConfig,
    learning_rate,
    make_batch,
    make_optimizer,
    train,
    validate,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
N_GENES = 40
VOCABULARY = Vocabulary.build(
    [f"ENSG{i:011}" for i in range(N_GENES)], [""] * N_GENES, np.ones(N_GENES)
)
MODEL = ModelConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    context=31,
)


def as_ranked(cells: list[np.ndarray]) -> RankedCells:
    lengths = np.array([len(cell) for cell in cells], dtype=np.int64)
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        umis=lengths,
        umis_known=lengths,
        genes=lengths.astype(np.int32),
        genes_known=lengths.astype(np.int32),
    )


def two_types(n_cells: int, seed: int) -> RankedCells:
    """A cell shows its type's 20 genes, in its type's order but for a few neighbours swapped."""
    rng = np.random.default_rng(seed)
    cells = []
    for cell in range(n_cells):
        order = np.arange(20) + rng.normal(scale=0.4, size=20)
        cells.append(5 + 20 * (cell % 2) + np.argsort(order))
    return as_ranked(cells)


def lines_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert seconds == sorted(seconds)
    return lines


def quiet(_: str) -> None: ...


def test_it_learns_what_is_planted(tmp_path: Path) -> None:
    """All genes are as common: knowing no more than that costs log 40."""
    cells, held_out = two_types(200, 0), two_types(40, 1)
    config = TrainConfig(
        steps=220, batch_cells=20, learning_rate=5e-3, warmup_steps=20, validate_every=110
    )
    model, said = MaskedGeneModel(MODEL), []
    hours, losses = train(
        model, cells, {"held_out": held_out}, VOCABULARY, config, tmp_path, say=said.append
    )
    unigram = math.log(N_GENES)
    lines = lines_of(tmp_path)
    assert lines[0]["loss"] == pytest.approx(unigram, rel=0.1)
    assert losses["held_out"] < unigram / 2
    assert [line["step"] for line in lines] == list(range(220))
    assert [line["step"] for line in lines if "loss_held_out" in line] == [109, 219]
    assert [json.loads(line)["loss_held_out"] for line in said] == [
        line["loss_held_out"] for line in lines if "loss_held_out" in line
    ]
    assert lines[-1]["loss_held_out"] == losses["held_out"]
    assert losses["held_out"] == validate(model, held_out, VOCABULARY, config, CPU)
    assert hours > 0


class Stop(Exception):
    """As if the machine had gone away."""


SHORT = TrainConfig(
    steps=14,
    batch_cells=16,
    tokens_per_cell=12,
    full_length_steps=3,
    warmup_steps=4,
    validate_every=5,
    start_from_cells=True,
)


def run_short(run: Path, **more) -> dict[str, torch.Tensor]:
    model = MaskedGeneModel(MODEL)
    cells = two_types(64, 2)
    train(model, cells, {"a": two_types(10, 3)}, VOCABULARY, SHORT, run, **{"say": quiet, **more})
    return model.state_dict()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("whole")
    return run, run_short(run)


@pytest.mark.parametrize("when", ["saved at 10", "two steps behind 5", "before the first save"])
def test_resumed_is_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: tuple[Path, dict], when: str
) -> None:
    last = {"saved at 10": 10, "two steps behind 5": 7, "before the first save": 3}[when]

    def say(line: str) -> None:
        if when == "saved at 10" and json.loads(line)["step"] == 9:
            raise Stop

    def batch_loss(model: MaskedGeneModel, batch: Batch) -> torch.Tensor:
        nonlocal taken
        taken += model.training
        if when != "saved at 10" and taken > last:
            raise Stop
        return whole_loss(model, batch)

    taken, whole_loss = 0, loop.batch_loss
    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_loss", batch_loss)
        with pytest.raises(Stop):
            run_short(tmp_path, say=say)
    assert len(lines_of(tmp_path)) == last
    assert (tmp_path / STATE).exists() == (last > 5)

    run, expected = uninterrupted
    resumed = run_short(tmp_path)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert lines_of(tmp_path) == lines_of(run)
    assert (tmp_path / STATE).exists()
    assert {path.name for path in tmp_path.iterdir()} == {STATE, "metrics.jsonl"}


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, uninterrupted: tuple[Path, dict]) -> None:
    run, expected = uninterrupted
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    again = run_short(tmp_path)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    for path in run.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        model = MaskedGeneModel(MODEL)
        config = replace(SHORT, steps=3, seed=seed)
        run = tmp_path / str(len(weights))
        train(model, two_types(64, 2), {}, VOCABULARY, config, run, say=quiet)
        weights.append(model.encoder.genes.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_validation_masks_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, whole_loss = [], loop.batch_loss

    def batch_loss(model: MaskedGeneModel, batch: Batch) -> torch.Tensor:
        if not model.training:
            assert not torch.is_grad_enabled()
            seen.append(batch)
        return whole_loss(model, batch)

    monkeypatch.setattr(loop, "batch_loss", batch_loss)
    run_short(tmp_path)
    assert len(seen) == 3  # behind steps 5, 10 and 14
    for batch in seen:
        assert set(batch.cells.lengths) == {21}  # whole, though steps look at 12 genes
        for name in ("tokens_BL", "positions_BL", "chosen_M", "targets_M"):
            assert torch.equal(getattr(batch, name), getattr(seen[0], name))


def test_each_epoch_shows_every_cell_once_under_a_new_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, whole_batch = [], loop.make_batch

    def noted(ranked, rows, epoch, limit, *rest):
        calls.append((epoch, limit, rows.tolist()))
        return whole_batch(ranked, rows, epoch, limit, *rest)

    monkeypatch.setattr(loop, "make_batch", noted)
    cells = as_ranked([np.arange(5, 5 + n) for n in [9] * 10 + [0] * 3 + [20] * 14])
    config = TrainConfig(
        steps=6, batch_cells=8, tokens_per_cell=12, full_length_steps=2, warmup_steps=1
    )
    train(MaskedGeneModel(MODEL), cells, {}, VOCABULARY, config, tmp_path, say=quiet)
    assert [epoch for epoch, _, _ in calls] == [1, 1, 1, 2, 2, 2]
    assert [limit == 12 for _, limit, _ in calls] == [True] * 4 + [False] * 2
    not_empty = set(np.flatnonzero(cells.lengths).tolist())
    epochs = [[row for _, _, rows in calls[i : i + 3] for row in rows] for i in (0, 3)]
    for rows in epochs:
        assert sorted(rows) == sorted(not_empty)
    assert epochs[0] != epochs[1]


def test_fewer_cells_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_cells 16"):
        train(MaskedGeneModel(MODEL), two_types(10, 0), {}, VOCABULARY, SHORT, tmp_path, say=quiet)


def test_a_batch_keeps_true_ranks_of_a_random_subset() -> None:
    cells = as_ranked([np.arange(44, 14, -1), np.arange(10, 15), np.arange(5, 30)])
    rows, config = np.array([2, 0, 1]), TrainConfig(seed=4)
    batch = make_batch(cells, rows, 1, 12, VOCABULARY, config, CPU)
    assert batch.cells.lengths == (13, 13, 6)
    assert batch.tokens_BL.shape == batch.positions_BL.shape == (3, 13)
    assert (batch.tokens_BL[:, 0] == CLS).all()
    assert (batch.tokens_BL[2, 6:] == PAD).all()
    chosen = {
        divmod(int(place), 13): int(t)
        for place, t in zip(batch.chosen_M, batch.targets_M, strict=True)
    }
    assert [sum(cell == i for cell, _ in chosen) for i in range(3)] == [2, 2, 1]
    for i, row in enumerate(rows):
        whole = cells.tokens[cells.offsets[row] : cells.offsets[row + 1]]
        n = batch.cells.lengths[i]
        ranks = batch.positions_BL[i, 1:n]
        assert (ranks.diff() > 0).all()
        for place in range(1, n):
            truth = int(whole[int(batch.positions_BL[i, place]) - 1])
            if (i, place) in chosen:
                assert chosen[i, place] == truth
            else:
                assert batch.tokens_BL[i, place] == truth
    assert MASK in batch.tokens_BL
    other = make_batch(cells, rows, 2, 12, VOCABULARY, config, CPU)
    assert not torch.equal(other.positions_BL, batch.positions_BL)


def test_learning_rate_rises_in_a_line_and_falls_by_a_cosine() -> None:
    config = TrainConfig(steps=1_100, warmup_steps=100, learning_rate=2e-3)
    rates = np.array([learning_rate(step, config) for step in range(1_100)])
    np.testing.assert_allclose(rates[:100], 2e-5 * np.arange(1, 101), rtol=1e-12)
    assert rates.max() == rates[99] == rates[100] == 2e-3
    assert (np.diff(rates[100:]) < 0).all()
    assert learning_rate(600, config) == pytest.approx(2e-3 * (0.01 + 0.99 / 2))
    assert learning_rate(350, config) == pytest.approx(2e-3 * (0.01 + 0.99 * (2 + 2**0.5) / 4))
    assert learning_rate(1_100, config) == pytest.approx(2e-5)
    assert learning_rate(5_000, config) == pytest.approx(2e-5)
    assert learning_rate(0, replace(config, warmup_steps=0)) == 2e-3


def test_the_steps_use_that_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        used.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    run_short(tmp_path)
    assert used == [{learning_rate(step, SHORT)} for step in range(SHORT.steps)]
    assert [{line["learning_rate"]} for line in lines_of(tmp_path)] == used


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients if g is not None]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    config = replace(SHORT, steps=3, clip=0.05)
    train(MaskedGeneModel(MODEL), two_types(64, 2), {}, VOCABULARY, config, tmp_path, say=quiet)
    assert min(line["gradient_norm"] for line in lines_of(tmp_path)) > 0.05
    np.testing.assert_allclose(norms, 0.05, rtol=1e-3)


def test_only_weights_of_linear_layers_decay() -> None:
    model = MaskedGeneModel(MODEL)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.3))
    decay_of = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay_of.keys() == {id(p) for p in model.parameters()}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    assert {key for key, decay in decay_of.items() if decay == 0.3} == linear
    assert {decay for key, decay in decay_of.items() if key not in linear} == {0.0}


def test_bf16_training_keeps_float32_parameters(tmp_path: Path) -> None:
    model = MaskedGeneModel(MODEL)
    config = replace(SHORT, steps=2, bf16=True)
    train(model, two_types(64, 2), {}, VOCABULARY, config, tmp_path, say=quiet)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.transform.compute_dtype == torch.bfloat16
    assert all(math.isfinite(line["loss"]) for line in lines_of(tmp_path))
