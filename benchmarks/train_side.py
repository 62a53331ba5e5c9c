"""One side of `bench train`, in a process of its own: what its allocator does is its own affair.

``python -m benchmarks.train_side SETTINGS`` (JSON) writes JSON lines: first the losses of the
first batch, then, for each line that holds a number of steps, how long these took. Ours goes
through the training loop itself, reading and masking included; only validation and saving are left
out, on both sides.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_peer import Losses, Turn, compared, peer_side, wait_for
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.errors import InputError
from cellscribe.model.checkpoint import load_checkpoint
from cellscribe.model.encoder import set_compute_dtype
from cellscribe.training.batches import StepBatches, step_batches
from cellscribe.training.distributed import Team
from cellscribe.training.downsampling import Downsampling
from cellscribe.training.loop import Callbacks, StepMetrics, TrainState, train
from cellscribe.training.objective import Objective
from cellscribe.training.optimizer import LossScale, make_optimizer
from cellscribe.training.plan import TrainPlan, plan
from cellscribe.training.pretrain import keep_freed_memory
from cellscribe.training.validation import Validation

OURS, PEER, KEEPING = "cellscribe", "transformers", "transformers_keeping_memory"
"""The third is the second under the settings of `pretrain.keep_freed_memory`."""


def our_side(
    planned: TrainPlan, checkpoint: Path, batches: Iterator[StepBatches]
) -> tuple[Losses, Turn]:
    """Make ours ready; returns the losses of the first batch by precision, and what takes steps."""
    device, team = planned.device, Team()
    model = load_checkpoint(checkpoint).model.to(device)
    module = team.wrap(Objective(model), planned.options)
    optimizer, scale = make_optimizer(model, planned.options), LossScale.of(planned.dtype)
    state = TrainState()

    def turn(steps: int) -> dict[str, Any]:
        lines: list[StepMetrics] = []
        callbacks = Callbacks(
            on_step=lines.append, save=lambda state: None, should_stop=lambda: False
        )
        options = dataclasses.replace(planned.options, steps=state.step + steps)
        wait_for(device)
        began = time.perf_counter()
        train(
            module, model, optimizer, scale, batches, Validation({}), options, state, callbacks,
            device=device, team=team,
        )  # fmt: skip
        wait_for(device)
        return {
            "seconds": time.perf_counter() - began,
            **{what: sum(line[what] for line in lines) for what in ("cells", "tokens", "flop")},
            # a step that was passed over has none
            "losses": [math.nan if line["loss"] is None else line["loss"] for line in lines],
        }

    first, losses = next(batches).micro[0].to(device), {}
    module.eval()
    for name, dtype in compared(planned.dtype).items():
        set_compute_dtype(model, dtype)
        # With gradients, so that the kernels are those of training.
        losses[name] = module(first)[1].tolist()
    set_compute_dtype(model, planned.dtype)
    return losses, turn


def plan_of(settings: dict[str, Any]) -> TrainPlan:
    """TrainPlan a run as the settings of a side tell; nothing is written."""
    return plan(
        settings["corpus"],
        settings["run"],
        ModelConfig(**settings["shape"]),
        TrainOptions(**settings["training"]),
        preset=settings["preset"],
    )


def batches_of(planned: TrainPlan) -> Generator[StepBatches]:
    """Give a run's batches, thinned if its preset wants that; the first is of no step."""
    config, options = planned.config, planned.options
    change = Downsampling.of(planned.corpus, config, options)
    return step_batches(planned.reader, config, options, 0, change)


def main(settings: dict[str, Any]) -> None:
    """Take the number of steps of each line of stdin, and print one line of JSON for it."""
    # Whatever a library prints must not come between the lines of JSON.
    out, sys.stdout = sys.stdout, sys.stderr

    def log(value: Any) -> None:
        print(json.dumps(value), file=out, flush=True)

    if settings["side"] != PEER:
        keep_freed_memory()
    make = our_side if settings["side"] == OURS else peer_side
    try:
        planned = plan_of(settings)
        losses, turn = make(planned, Path(settings["checkpoint"]), batches_of(planned))
    except InputError as error:
        log({"refused": str(error)})
        return
    log({"first_losses": losses, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        log(turn(int(line)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
