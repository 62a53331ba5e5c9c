"""Tokens/s of pre-training, compared with `transformers.BertForMaskedLM` and AdamW.

Three processes take turns of a few steps (A B C A B C) after a turn of each that compiles
kernels and fills caches: ours, the peer as it comes, and the peer under the allocator settings that
our training chooses for its process. All take the same cells, masks, first weights, precision and
dropout. Before any step they must agree on the loss at every chosen place, dropout off: a peer that
computes something else says nothing. Tokens are those of cells, [CLS] included and padding not, and
the work counted is that of `training_flop` on every side, so a peer gets no credit for logits at
places that are not masked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_cells import real_cells
from benchmarks.record import write_result
from benchmarks.train_peer import ATTENTION, Losses, Turn
from benchmarks.train_side import KEEPING, OURS, PEER, plan_of
from cellscribe.callbacks import log_stderr
from cellscribe.errors import InputError
from cellscribe.model import peak
from cellscribe.training.plan import TrainPlan, settle

RESULTS = Path("benchmarks/results")
CORPUS_CELLS = 4_096
"""Cells of the corpus that is built where none is named."""
TOLERANCE = {"float32": 5e-5, "bf16": 0.05}
"""Largest difference between two losses of a place; one wrong gene of a thousand makes 2e-4."""
SIDE = ("-m", "benchmarks.train_side")
Turns = dict[str, list[dict[str, Any]]]


def bench_train(
    corpus: Path | None,
    data: Path | None,
    preset: str = "geneformer-10m",
    cells: int = 8,
    steps: int = 2,
    repeats: int = 7,
    device: str = "auto",
    out: Path = RESULTS,
) -> Path:
    """Measure tokens/s of training steps.

    Parameters
    ----------
    corpus
        Folder of a corpus; one is built from `data` if not given.
    data
        Folder of real h5ad files, see `real_cells`.
    preset
        Shape and recipe: a name or a TOML file.
    cells
        Cells of a step, which are one micro batch.
    steps
        Steps of a turn.
    repeats
        Turns of each side.
    device
        ``"auto"``, ``"cpu"`` or a CUDA device; all sides use the same.
    out
        Folder of results.

    Raises
    ------
    InputError
        There is neither a corpus nor data, the preset or the device does not do, or a side ended.
    RuntimeError
        The sides did not compute the same, so that their times say nothing.
    """
    if min(steps, repeats) < 1:
        raise InputError("--steps and --repeats must be positive")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        settings = _settings(preset, cells, steps * (1 + repeats), device, scratch)
        settings["corpus"] = str(corpus or _build(data, scratch))
        planned = plan_of(settings)
        about = {
            "preset": planned.preset,
            "cells": cells,
            "steps": steps,
            "repeats": repeats,
            "device": planned.device.type,
            "precision": _precision(planned),
            "hidden_dropout": planned.config.hidden_dropout_prob,
            "attention_dropout": planned.config.attention_probs_dropout_prob,
            "peer_attention": ATTENTION,
            "corpus": planned.corpus.hash,
        }
        for note in planned.notes:
            log_stderr(note)
        figures = _measure(planned, settings, scratch, steps, repeats)
    name = f"train-{planned.preset}-{planned.device.type}"
    return write_result(out, name, "train", about, figures, str(planned.device))


def _measure(
    planned: TrainPlan, settings: dict[str, Any], scratch: Path, steps: int, repeats: int
) -> dict[str, Any]:
    """Start the sides, compare them, and let them take turns."""
    _start(planned, Path(settings["checkpoint"]))
    peaks = peak.measure_peak(str(planned.device))
    # The allocator in question is the host's.
    names = (OURS, PEER, KEEPING) if planned.device.type == "cpu" else (OURS, PEER)
    with ExitStack() as stack:
        sides = {side: stack.enter_context(_side(side, settings, scratch)) for side in names}
        agreement = compare_losses(
            {side: losses for side, (losses, _) in sides.items()}, _precision(planned)
        )
        taken = in_turns({side: turn for side, (_, turn) in sides.items()}, steps, repeats)
    return {**rates(taken, peak.highest(peaks)), **agreement, "peak_gflop_per_second": peaks}


def _settings(preset: str, cells: int, steps: int, device: str, scratch: Path) -> dict[str, Any]:
    """Collect what all sides are given, but for corpus and side."""
    shape, options = settle(
        preset, {"global_batch": cells, "micro_batch": cells, "device": device}, {}
    )
    options = dataclasses.replace(
        options, steps=None, schedule_steps=max(steps, options.schedule_steps)
    )
    return {
        "preset": preset,
        "shape": dataclasses.asdict(shape),
        "training": dataclasses.asdict(options),
        "run": str(scratch / "run"),
        "checkpoint": str(scratch / "model"),
    }


def _build(data: Path | None, scratch: Path) -> Path:
    """Make a corpus of real cells."""
    from cellscribe.config import BuildOptions, SplitOptions
    from cellscribe.corpus.build.build import build_corpus

    if data is None:
        raise InputError(
            "bench train needs cells: name a --corpus, or a folder of h5ad with --data"
        )
    source = scratch / "cells.h5ad"
    real_cells(data, CORPUS_CELLS, source)
    options = BuildOptions(keep_duplicates=True, obs=("dataset_id=source_dataset",))
    return build_corpus([source], scratch / "corpus", options, SplitOptions(holdout=0)).path


def _precision(planned: TrainPlan) -> str:
    """Name of the dtype of products.

    Raises
    ------
    InputError
        It is fp16, for which the peer would need a loss scale.
    """
    import torch

    if planned.dtype == torch.float16:
        raise InputError("bench train compares in bf16, which this device does not have")
    return "bf16" if planned.dtype == torch.bfloat16 else "float32"


def _start(planned: TrainPlan, target: Path) -> None:
    """Write the weights that all sides start from."""
    from cellscribe.model.checkpoint import save_checkpoint
    from cellscribe.model.encoder import MaskedGeneModel, initialise

    model = MaskedGeneModel(planned.config)
    initialise(model, planned.options.seed)
    save_checkpoint(target, model, planned.corpus.vocabulary, {"weights": "random"})


@contextmanager
def _side(side: str, settings: dict[str, Any], scratch: Path) -> Iterator[tuple[Losses, Turn]]:
    """Start a side; gives the losses of its first batch, and what makes it take steps."""
    words = [sys.executable, *SIDE, json.dumps({**settings, "side": side})]
    errors = scratch / f"{side}.err"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def answer() -> dict[str, Any]:
            line = stdout.readline()
            if not line:
                last = (errors.read_text().strip().splitlines() or ["killed, without a word"])[-1]
                raise InputError(f"{side} ended: {last}; if memory ran out, lower --cells")
            record: dict[str, Any] = json.loads(line)
            if "refused" in record:
                raise InputError(record["refused"])
            return record

        def turn(steps: int) -> dict[str, Any]:
            if process.poll() is None:
                stdin.write(f"{steps}\n")
                stdin.flush()
            return answer()

        try:
            yield answer()["first_losses"], turn
        finally:
            process.kill()


def compare_losses(losses: dict[str, Losses], precision: str) -> dict[str, Any]:
    """Mean of each side's losses in `precision`, and by precision how far the peers are from ours.

    Places are compared one by one: at random weights the mean hardly depends on what is masked.

    Raises
    ------
    RuntimeError
        At some place they are further apart than rounding explains.
    """
    largest = {}
    for name, ours in losses[OURS].items():
        for side, theirs in losses.items():
            if len(theirs[name]) != len(ours):
                raise RuntimeError(
                    f"{OURS} asks for {len(ours)} genes, {side} for {len(theirs[name])}: not one "
                    "batch"
                )
        all_sides = np.array([each[name] for each in losses.values()])
        largest[name] = float(np.ptp(all_sides, axis=0).max())
        # "not <=": a loss that is no number is a difference too
        if not largest[name] <= TOLERANCE[name]:
            raise RuntimeError(
                f"first losses differ by up to {largest[name]:.3g} a place, where {name} explains "
                f"{TOLERANCE[name]}: the sides do not compute the same"
            )
    return {
        "first_loss": {side: float(np.mean(each[precision])) for side, each in losses.items()},
        "largest_loss_difference": largest,
    }


def in_turns(sides: dict[str, Turn], steps: int, repeats: int) -> Turns:
    """Collect the record of each turn of each side, without the first, a warm-up.

    Raises
    ------
    RuntimeError
        The sides did not take the same steps, or a loss was not finite.
    """
    taken: Turns = {side: [] for side in sides}
    for _ in range(1 + repeats):
        for side, turn in sides.items():
            taken[side].append(turn(steps))
        last = {side: turns[-1] for side, turns in taken.items()}
        for what in ("cells", "tokens", "flop"):
            if len({record[what] for record in last.values()}) > 1:
                raise RuntimeError(f"the sides differ in {what} of a turn: {last}")
        if not all(math.isfinite(loss) for record in last.values() for loss in record["losses"]):
            raise RuntimeError(f"a loss is not finite: {last}")
    return {side: turns[1:] for side, turns in taken.items()}


def rates(taken: Turns, peak_gflops: float) -> dict[str, Any]:
    """Raw seconds, and what follows from them: medians over turns, and ratios of these."""
    turns = taken[OURS]
    cells, tokens = ([record[what] for record in turns] for what in ("cells", "tokens"))
    seconds = {side: [record["seconds"] for record in each] for side, each in taken.items()}

    def median_rate(what: str, side: str) -> float:
        return statistics.median(record[what] / record["seconds"] for record in taken[side])

    rate = {side: median_rate("tokens", side) for side in taken}
    gflops = {side: 1e-9 * median_rate("flop", side) for side in taken}
    return {
        "seconds": seconds,
        "tokens": tokens,
        "gflop": [1e-9 * record["flop"] for record in turns],
        "tokens_per_cell": sum(tokens) / sum(cells),
        "padding_of_peer": 1 - sum(tokens) / sum(record["places"] for record in taken[PEER]),
        "tokens_per_second": rate,
        "ratio_of_medians": {side: rate[OURS] / rate[side] for side in taken if side != OURS},
        "gflop_per_second": gflops,
        "share_of_peak": {side: each / peak_gflops for side, each in gflops.items()},
    }
