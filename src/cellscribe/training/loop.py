"""The training loop, top to bottom: plain torch, one device or one rank's part of many.

A step takes the next cells of the corpus through the network, micro batch by micro batch, and then
AdamW. What it computes depends on the seed and the number of the step alone, so a run that
continues from a checkpoint takes exactly the steps that it would have taken without the stop. A
step whose loss or gradient is not finite changes nothing; it is skipped and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from cellscribe.config import TrainOptions
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel, training_flop
from cellscribe.training.batches import StepBatches
from cellscribe.training.distributed import Team
from cellscribe.training.gradients import StepLosses, gene_gradients, view_gradients
from cellscribe.training.objective import VIEWS
from cellscribe.training.optimizer import LossScale, clip_gradients, learning_rate
from cellscribe.training.validation import Validation

StepMetrics = dict[str, Any]
"""Numbers of one step: a line of ``metrics.jsonl``, see `metrics_log`."""


@dataclass(kw_only=True)
class TrainState:
    """How far a run is; a checkpoint stores it."""

    step: int = 0
    """Steps taken."""
    reader: dict[str, Any] = field(default_factory=dict)
    """State of the reader of the corpus."""
    seconds: float = 0.0
    """Time spent on steps since the run began."""
    skipped: int = 0
    """Steps skipped because loss or gradient was not finite."""
    bad_in_row: int = 0
    """Skipped steps since the last finite one."""
    best_step: int | None = None
    """Step of the lowest loss on val."""
    best_loss: float | None = None
    since_best: int = 0
    """Validations since then."""
    scale: dict[str, float] = field(default_factory=dict)
    """State of the loss scale."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that the loop calls."""

    on_step: Callable[[StepMetrics], None]
    """Called with the metrics of each step, before the step is saved."""
    save: Callable[[TrainState], None]
    """Saves a checkpoint; all ranks call it, because parameters may be in shards."""
    should_stop: Callable[[], bool]
    """Whether to save and end after this step."""


class StepSums(NamedTuple):
    """Sums of a step over all ranks."""

    loss: float
    """Masked-gene loss."""
    regression: float
    contrast: float
    cells: float
    """Cells, or views of cells, with a masked gene."""
    tokens: float
    flop: float
    stop: float
    """Ranks that are to stop."""
    save: float
    """1 if the time of a checkpoint has come."""


def train(
    module: nn.Module,
    model: MaskedGeneModel,
    optimizer: torch.optim.Optimizer,
    scale: LossScale,
    batches: Iterator[StepBatches],
    validation: Validation,
    options: TrainOptions,
    state: TrainState,
    callbacks: Callbacks,
    *,
    device: torch.device,
    team: Team,
) -> bool:
    """Train in place from `state` on, and update it.

    Parameters
    ----------
    module
        The objective as `Team.wrap` returned it; called with a masked batch.
    model
        The network within it.
    optimizer, scale
        From `optimizer`, as they were at `state`.
    batches
        From `step_batches`.
    validation
        Held-out cells.
    options
        How to train.
    state
        How far the run is.
    callbacks
        What to do with the metrics of each step, and at a checkpoint.

    Returns
    -------
    bool
        Whether the run is at its end; False if `Callbacks.should_stop` ended it.

    Raises
    ------
    InputError
        The loss was not finite for `bad_steps` steps in a row.
    """
    share = team.size / options.global_batch  # gradients are averaged over ranks
    saved = time.monotonic()
    module.train()
    while not _is_over(state, options):
        began = time.perf_counter()
        step = state.step + 1
        work = next(batches)
        seed = (options.seed << 31) + step * team.size + team.rank
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        optimizer.zero_grad(set_to_none=True)
        backward = view_gradients if options.two_views else gene_gradients
        losses = backward(module, work.micro, scale.scale * share, seed, options, device, team)
        norm = clip_gradients(model, scale.scale, options.clip)
        late = time.monotonic() - saved > 60 * options.checkpoint_minutes
        own = _sums(losses, work, model, callbacks.should_stop(), late and team.is_rank_zero)
        sums = StepSums(*team.all_reduce(own))
        is_finite = math.isfinite(sums.loss + sums.regression + sums.contrast + float(norm))
        if is_finite:
            optimizer.step()
        state.step, state.reader = step, work.reader
        state.seconds += time.perf_counter() - began
        _count(state, is_finite, scale.update(is_finite), options, work)
        metrics = _metrics(state, sums, float(norm), is_finite, options)
        is_end = step == options.last_step
        is_best = False
        if step % options.validate_every == 0 or is_end:
            held_out = validation.losses(module, device, team)
            metrics |= {f"loss_{split}": value for split, value in held_out.items()}
            is_best = _compare(state, held_out, follow=options.two_views)
            is_end |= _is_over(state, options)
        # Metrics before the checkpoint: a resumed run drops a line too many, but cannot make up
        # for a missing one.
        callbacks.on_step(metrics)
        is_stop = bool(sums.stop)
        if is_best or is_end or is_stop or sums.save or step % options.checkpoint_every == 0:
            callbacks.save(state)
            saved = time.monotonic()
        if is_end or is_stop:
            return is_end
    return True


def _sums(
    losses: StepLosses, work: StepBatches, model: MaskedGeneModel, stop: bool, save: bool
) -> StepSums:
    """Add up the micro batches of this rank."""
    return StepSums(
        **losses._asdict(),
        cells=sum(micro.n_masked for micro in work.micro),
        tokens=sum(len(micro.tokens_N) for micro in work.micro),
        flop=sum(training_flop(model.config, m.cells.lengths, len(m.chosen_M)) for m in work.micro),
        stop=stop,
        save=save,
    )


def _metrics(
    state: TrainState, sums: StepSums, norm: float, is_finite: bool, options: TrainOptions
) -> StepMetrics:
    metrics: StepMetrics = {
        "step": state.step,
        "loss": sums.loss / max(1, sums.cells) if is_finite else None,
        "gradient_norm": norm if is_finite else None,
        "learning_rate": learning_rate(state.step, options),
        "cells": options.global_batch,
        "tokens": int(sums.tokens),
        "flop": sums.flop,
        "seconds": state.seconds,
    }
    if options.two_views and is_finite:
        metrics["regression"] = sums.regression / (VIEWS * options.global_batch)
        metrics["contrast"] = sums.contrast / options.global_batch
    if not is_finite:
        metrics["skipped"] = True
    return metrics


def _is_over(state: TrainState, options: TrainOptions) -> bool:
    """Whether all steps are taken, or the loss on val has not fallen for too long."""
    out_of_patience = options.patience is not None and state.since_best >= options.patience
    return state.step >= options.last_step or out_of_patience


def _count(
    state: TrainState, is_finite: bool, is_explained: bool, options: TrainOptions, work: StepBatches
) -> None:
    """Count a skipped step; end the run after too many in a row."""
    if is_finite:
        state.bad_in_row = 0
        return
    state.skipped += 1
    # A loss scale that was too high is no fault of the batch, and already halved.
    state.bad_in_row += not is_explained
    if state.bad_in_row >= options.bad_steps:
        raise InputError(
            f"loss or gradient was not finite for {state.bad_in_row} steps in a row, last at step "
            f"{state.step:,} (batch {work.number:,} of epoch {work.epoch}); go on from the newest "
            "checkpoint with a lower --learning-rate, or with --precision float32, in a new run"
        )


def _compare(state: TrainState, losses: dict[str, float], *, follow: bool) -> bool:
    """Store the losses of a validation; return whether that on val is the lowest so far.

    With `follow` the newest counts as the best: masked genes are not all that is trained.
    """
    if "val" not in losses:
        return False
    if follow:
        state.best_step, state.best_loss = state.step, losses["val"]
        return False
    if state.best_loss is None or losses["val"] < state.best_loss:
        state.best_step, state.best_loss, state.since_best = state.step, losses["val"], 0
        return True
    state.since_best += 1
    return False
