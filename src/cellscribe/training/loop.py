"""The training loop, top to bottom: plain torch, one device or one rank's part of many.

A step takes the next cells of the corpus through the network, micro batch by micro batch, and then
AdamW. What it computes depends on the seed and the number of the step alone, so a run that goes on
from a checkpoint takes the very steps that it would have taken. What is not finite is not learned
from: such a step is passed over and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cellscribe.config import TrainOptions
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel, training_flop
from cellscribe.training.batches import StepBatches
from cellscribe.training.distributed import Team
from cellscribe.training.optimizer import LossScale, clip_gradients, learning_rate
from cellscribe.training.validation import Validation

Line = dict[str, Any]
"""What is told of a step, see `tracking`."""


@dataclass(kw_only=True)
class Place:
    """How far a run is."""

    step: int = 0
    """Steps taken."""
    reader: dict[str, Any] = field(default_factory=dict)
    """Where the reader stands."""
    seconds: float = 0.0
    """Spent on steps, since the run began."""
    skipped: int = 0
    """Steps passed over."""
    bad_in_row: int = 0
    """Of these, the last ones, without a finite step between."""
    best_step: int | None = None
    """Step of the lowest loss on val."""
    best_loss: float | None = None
    since_best: int = 0
    """Validations since then."""
    scale: dict[str, float] = field(default_factory=dict)
    """State of the loss scale."""


@dataclass(frozen=True, kw_only=True)
class Follow:
    """Whom the loop tells; only the leading rank's are heard."""

    line: Callable[[Line], None]
    """Of each step, before it is saved."""
    save: Callable[[Place], None]
    """Keep this place; all ranks call it, for parameters may be in shards."""
    stopped: Callable[[], bool]
    """Whether to save and end."""


def train(
    module: nn.Module,
    model: MaskedGeneModel,
    optimizer: torch.optim.Optimizer,
    scale: LossScale,
    batches: Iterator[StepBatches],
    validation: Validation,
    options: TrainOptions,
    place: Place,
    follow: Follow,
    *,
    device: torch.device,
    team: Team,
) -> bool:
    """Train in place, from behind `place` on, which is moved along.

    Parameters
    ----------
    module
        The objective as `Team.wrap` gave it; called with a masked batch.
    model
        The network within it.
    optimizer, scale
        From `optimizer`, in the state of `place`.
    batches
        From `step_batches`.
    validation
        Held-out cells.

    Returns
    -------
    bool
        Whether the run is at its end; False if it was asked to stop.

    Raises
    ------
    InputError
        The loss was not finite for `bad_steps` steps in a row.
    """
    share = team.size / options.global_batch  # gradients are averaged over ranks
    saved = time.monotonic()
    module.train()
    while not _is_over(place, options):
        began = time.perf_counter()
        step = place.step + 1
        work = next(batches)
        torch.manual_seed((options.seed << 31) + step * team.size + team.rank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for micro in work.micro:
            is_last = micro is work.micro[-1]
            with nullcontext() if is_last else team.holding_back(module):
                total, _ = module(micro.to(device))
                (total * (scale.scale * share)).backward()
            loss += total.detach()
        norm = clip_gradients(model, scale.scale, options.clip)
        late = time.monotonic() - saved > 60 * options.checkpoint_minutes
        sums = team.total(
            [
                float(loss),
                sum(micro.n_asked for micro in work.micro),
                sum(len(micro.tokens_N) for micro in work.micro),
                sum(
                    training_flop(model.config, m.cells.lengths, len(m.chosen_M))
                    for m in work.micro
                ),
                follow.stopped(),
                late and team.leads,
            ]
        )
        mean, is_finite = sums[0] / max(1, sums[1]), math.isfinite(sums[0] + float(norm))
        if is_finite:
            optimizer.step()
        place.step, place.reader = step, work.reader
        place.seconds += time.perf_counter() - began
        _count(place, is_finite, scale.update(is_finite), options, work)
        line: Line = {
            "step": step,
            "loss": mean if is_finite else None,
            "gradient_norm": float(norm) if is_finite else None,
            "learning_rate": learning_rate(step, options),
            "cells": options.global_batch,
            "tokens": int(sums[2]),
            "flop": sums[3],
            "seconds": place.seconds,
        }
        if not is_finite:
            line["skipped"] = True
        is_end = step == options.last_step
        is_best = False
        if step % options.validate_every == 0 or is_end:
            losses = validation.losses(module, device, team)
            line |= {f"loss_{split}": value for split, value in losses.items()}
            is_best = _compare(place, losses)
            is_end |= _is_over(place, options)
        # The line first: a resumed run drops one too many, and cannot make up for a missing one.
        follow.line(line)
        is_stop = bool(sums[4])
        if is_best or is_end or is_stop or sums[5] or step % options.checkpoint_every == 0:
            follow.save(place)
            saved = time.monotonic()
        if is_end or is_stop:
            return is_end
    return True


def _is_over(place: Place, options: TrainOptions) -> bool:
    """Whether all steps are taken, or the loss on val has not fallen for too long."""
    tired = options.patience is not None and place.since_best >= options.patience
    return place.step >= options.last_step or tired


def _count(
    place: Place, is_finite: bool, is_explained: bool, options: TrainOptions, work: StepBatches
) -> None:
    """Count steps that are passed over, and end a run that takes no others."""
    if is_finite:
        place.bad_in_row = 0
        return
    place.skipped += 1
    # A loss scale that was too high is no fault of the batch, and already halved.
    place.bad_in_row += not is_explained
    if place.bad_in_row >= options.bad_steps:
        raise InputError(
            f"loss or gradient was not finite for {place.bad_in_row} steps in a row, last at step "
            f"{place.step:,} (batch {work.number:,} of epoch {work.epoch}); go on from the newest "
            "checkpoint with a lower --learning-rate, or with --precision float32, in a new run"
        )


def _compare(place: Place, losses: dict[str, float]) -> bool:
    """Note the losses of a validation; whether that on val is the lowest so far."""
    if "val" not in losses:
        return False
    if place.best_loss is None or losses["val"] < place.best_loss:
        place.best_step, place.best_loss, place.since_best = place.step, losses["val"], 0
        return True
    place.since_best += 1
    return False
