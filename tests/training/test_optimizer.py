"""Schedule, decay, clipping and loss scaling, beside closed forms and torch's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.training import SHAPE
from torch import nn

from cellscribe.config import TrainOptions
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.optimizer import (
    GROW_AFTER,
    LARGEST_SCALE,
    LossScale,
    clip_gradients,
    learning_rate,
    make_optimizer,
)
from cellscribe.training.signals import explained

OPTIONS = TrainOptions(schedule_steps=1_100, warmup_steps=100, learning_rate=2e-3, last_rate=0.01)


def rates(options: TrainOptions) -> np.ndarray:
    return np.array([learning_rate(step, options) for step in range(1, 1_101)])


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine() -> None:
    found = rates(OPTIONS)
    np.testing.assert_allclose(found[:100], 2e-5 * np.arange(1, 101), rtol=1e-12)
    done = np.arange(1, 1_001) / 1_000
    cosine = 2e-3 * (0.01 + 0.99 * (1 + np.cos(np.pi * done)) / 2)
    np.testing.assert_allclose(found[100:], cosine, rtol=1e-12)
    assert found[-1] == pytest.approx(2e-5)


def test_or_in_a_line_and_without_warm_up() -> None:
    found = rates(replace(OPTIONS, decay="linear", warmup_steps=0, last_rate=0.0))
    np.testing.assert_allclose(found, 2e-3 * (1 - np.arange(1, 1_101) / 1_100), atol=1e-18)


def test_torchs_schedules_say_the_same() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1_000, eta_min=2e-5)
    theirs = []
    for _ in range(1_000):
        optimizer.step()
        cosine.step()
        theirs.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates(OPTIONS)[100:], theirs, rtol=1e-9)


def test_only_weights_of_linear_layers_decay() -> None:
    model = MaskedGeneModel(SHAPE)
    groups = make_optimizer(model, TrainOptions(weight_decay=0.3)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    assert decayed == linear
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("scale", "clip"), [(1.0, 0.5), (1.0, 1e9), (1_024.0, 0.5)])
def test_clipping_is_torchs(scale: float, clip: float) -> None:
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        other.grad = torch.randn(other.shape, generator=torch.Generator().manual_seed(mine.numel()))
        mine.grad = other.grad * scale
    norm = clip_gradients(ours, scale, clip)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
    torch.testing.assert_close(norm, expected)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_gradient_that_is_not_finite_has_no_finite_norm() -> None:
    layer = nn.Linear(2, 2)
    for value in (math.inf, math.nan):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, value)
        assert not math.isfinite(float(clip_gradients(layer, 1.0, 1.0)))


def test_the_scale_halves_and_doubles_as_torchs_does() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=GROW_AFTER)
    ours = LossScale.of(torch.float16)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    # so seldom that all of it fits into few thousand steps
    for step in range(2 * GROW_AFTER + 10):
        bad = step in (3, 4, GROW_AFTER + 100)
        parameter.grad = torch.full((1,), math.inf if bad else 1.0)
        scaler.scale(torch.zeros(1))
        scaler.step(optimizer)
        scaler.update()
        explained_by_scale = ours.update(not bad)
        assert explained_by_scale == bad
        assert ours.scale == scaler.get_scale(), step


def test_the_scale_has_a_floor_a_ceiling_and_a_memory() -> None:
    scale = LossScale.of(torch.float16)
    told = [scale.update(False) for _ in range(20)]
    assert told == [True] * 16 + [False] * 4  # at 1 an infinite gradient is the batch's own fault
    assert scale.scale == 1
    again = LossScale.of(torch.float16)
    again.load_state_dict(scale.state_dict())
    assert again == scale
    top = LossScale(scale=LARGEST_SCALE, moving=True, finite=GROW_AFTER - 1)
    top.update(True)
    assert top.scale == LARGEST_SCALE
    still = LossScale.of(torch.bfloat16)
    assert not still.update(False)
    assert still.scale == 1


def test_too_little_memory_is_told_with_its_mend() -> None:
    from cellscribe.errors import InputError

    options = TrainOptions(micro_batch=32)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ):
        with (
            pytest.raises(InputError, match=r"micro_batch 32; give --micro-batch 16.*--resume"),
            explained(options),
        ):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), explained(options):
        raise RuntimeError("shapes do not fit")


def test_a_seed_initialises_one_model() -> None:
    models = [MaskedGeneModel(SHAPE) for _ in range(2)]
    for model in models:
        initialise(model, 4)
    for one, two in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(one, two)
