"""Masked-gene training on one device, top to bottom.

The cells are packed tokens in memory. Each step takes the next cells of the epoch's shuffle, keeps
at most `tokens_per_cell` of their genes (a random subset, each with its true rank: cells are seen
about four times as often for the same work, and never twice alike), masks, and steps AdamW. Every
step leaves a line in ``metrics.jsonl``; the newest state lies in ``state.safetensors``, from which
a killed run goes on with the very same next step.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from cellscribe.cells.rank import RankedCells
from cellscribe.cells.vocabulary import CLS, PAD, Vocabulary
from cellscribe.errors import InputError
from cellscribe.model.attention import Cells
from cellscribe.model.encoder import MaskedGeneModel, initialise, set_compute_dtype
from cellscribe.training.masking import MaskingConfig, cell_generator, mask_cell
from cellscribe.training.objective import masked_gene_loss
from cellscribe.training.start import start_from_cells

STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    steps: int = 10_000
    """Optimiser steps."""
    batch_cells: int = 64
    """Cells a step."""
    tokens_per_cell: int = 1_024
    """Genes of a cell that a step looks at; a random subset where the cell has more."""
    full_length_steps: int = 0
    """Last steps, which look at whole cells."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 500
    """Steps of linear warm-up; behind them the rate falls by a cosine to a hundredth."""
    weight_decay: float = 0.01
    """AdamW's decay; none on norms, biases and embeddings."""
    clip: float = 1.0
    """Largest gradient norm."""
    bf16: bool = False
    """Matrix products in bf16; parameters, residual stream and norms stay float32."""
    start_from_cells: bool = False
    """Start from what can be counted in the training cells, see `start`."""
    seed: int = 0
    """Of weights, shuffles, masks and dropout."""
    validate_every: int = 500
    """Steps between validations and saves."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Shares of the objective."""


@dataclass(frozen=True)
class Batch:
    """A masked batch on the device."""

    tokens_BL: torch.Tensor
    positions_BL: torch.Tensor
    cells: Cells
    chosen_M: torch.Tensor
    targets_M: torch.Tensor


def make_batch(
    ranked: RankedCells,
    rows: npt.NDArray[np.int64],
    epoch: int,
    tokens_per_cell: int,
    vocabulary: Vocabulary,
    config: TrainConfig,
    device: torch.device,
) -> Batch:
    """Cut, mask and pad the given cells; the same (seed, epoch, row) gives the same corruption."""
    genes = (vocabulary.n_special, len(vocabulary))
    kept, seen, asked = [], [], []
    for row in rows:
        generator = cell_generator(config.seed, epoch, int(row))
        tokens = ranked.tokens[ranked.offsets[row] : ranked.offsets[row + 1]].astype(np.int64)
        places = np.arange(len(tokens))
        if len(tokens) > tokens_per_cell:
            places = np.sort(generator.choice(len(tokens), tokens_per_cell, replace=False))
        corrupted, chosen = mask_cell(tokens[places], generator, genes, config.masking)
        kept.append(places)
        seen.append(corrupted)
        asked.append((chosen, tokens[places][chosen]))
    # [CLS] stands in front, at position 0; gene of rank r at position r + 1.
    lengths = [1 + len(tokens) for tokens in seen]
    tokens_BL = np.full((len(rows), max(lengths)), PAD, dtype=np.int64)
    positions_BL = np.zeros_like(tokens_BL)
    tokens_BL[:, 0] = CLS
    for i, (places, tokens) in enumerate(zip(kept, seen, strict=True)):
        tokens_BL[i, 1 : 1 + len(tokens)] = tokens
        positions_BL[i, 1 : 1 + len(tokens)] = places + 1
    width = tokens_BL.shape[1]
    chosen_M = np.concatenate([i * width + 1 + chosen for i, (chosen, _) in enumerate(asked)])
    targets_M = np.concatenate([target for _, target in asked])
    return Batch(
        tokens_BL=torch.from_numpy(tokens_BL).to(device),
        positions_BL=torch.from_numpy(positions_BL).to(device),
        cells=Cells(tuple(lengths), device),
        chosen_M=torch.from_numpy(chosen_M).to(device),
        targets_M=torch.from_numpy(targets_M).to(device),
    )


def batch_loss(model: MaskedGeneModel, batch: Batch) -> torch.Tensor:
    """``[B]`` loss of each cell of a batch."""
    return masked_gene_loss(
        model, batch.tokens_BL, batch.cells, batch.positions_BL, batch.chosen_M, batch.targets_M
    )


def make_optimizer(model: MaskedGeneModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; only the weights of `Linear` layers decay."""
    decayed = [p for n, p in model.named_parameters() if _decays(n)]
    others = [p for n, p in model.named_parameters() if not _decays(n)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _decays(name: str) -> bool:
    return name.endswith("weight") and not any(
        part in name for part in ("norm", "genes", "positions", "token_types")
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of a step: linear warm-up, then a cosine to a hundredth of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def validate(
    model: MaskedGeneModel,
    ranked: RankedCells,
    vocabulary: Vocabulary,
    config: TrainConfig,
    device: torch.device,
) -> float:
    """Mean loss over all given cells, whole, under masks that never change."""
    model.eval()
    total = 0.0
    rows = np.flatnonzero(ranked.lengths)
    for start in range(0, len(rows), 16):
        some = rows[start : start + 16]
        batch = make_batch(ranked, some, 0, 1 << 30, vocabulary, config, device)
        total += float(batch_loss(model, batch).sum())
    model.train()
    return total / len(rows)


def train(
    model: MaskedGeneModel,
    cells: RankedCells,
    validation: dict[str, RankedCells],
    vocabulary: Vocabulary,
    config: TrainConfig,
    run: Path,
    *,
    device: torch.device | None = None,
    say: Callable[[str], None] = print,
) -> tuple[float, dict[str, float]]:
    """Train `model` in place.

    Parameters
    ----------
    model
        Its weights are initialised here.
    cells, validation
        Packed tokens to learn from, and named sets to measure the loss on.
    vocabulary, config
        Gene table and recipe.
    run
        Folder for ``metrics.jsonl`` and the state; a state found there is gone on from.

    Returns
    -------
    hours
        What the steps took, earlier parts of a resumed run included.
    losses
        Last validation losses by name.

    Raises
    ------
    InputError
        There are fewer cells with genes than a batch holds.
    """
    rows = np.flatnonzero(cells.lengths)
    per_epoch = len(rows) // config.batch_cells
    if not per_epoch:
        raise InputError(
            f"{len(rows):,} cells with genes do not fill a batch of batch_cells "
            f"{config.batch_cells:,}; lower it"
        )
    device = device or torch.device("cpu")
    run.mkdir(parents=True, exist_ok=True)
    initialise(model, config.seed)
    if config.start_from_cells and not (run / STATE).exists():
        start_from_cells(model, cells, config.seed)
    model.to(device).train()
    set_compute_dtype(model, torch.bfloat16 if config.bf16 else torch.float32)
    optimizer = make_optimizer(model, config)
    first, seconds = load_state(run, model, optimizer)

    def measure() -> dict[str, float]:
        return {
            name: validate(model, held_out, vocabulary, config, device)
            for name, held_out in validation.items()
        }

    losses = {}
    keep_lines(run / "metrics.jsonl", first)
    with (run / "metrics.jsonl").open("a") as metrics:
        for step in range(first, config.steps):
            began = time.perf_counter()
            epoch, place = divmod(step, per_epoch)
            order = np.random.Generator(np.random.Philox(key=[config.seed, epoch])).permutation(
                rows
            )
            some = order[place * config.batch_cells : (place + 1) * config.batch_cells]
            whole = step >= config.steps - config.full_length_steps
            limit = 1 << 30 if whole else config.tokens_per_cell
            torch.manual_seed((config.seed << 32) + step)
            batch = make_batch(cells, some, 1 + epoch, limit, vocabulary, config, device)
            loss = batch_loss(model, batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            optimizer.step()
            seconds += time.perf_counter() - began
            line: dict[str, float] = {
                "step": step,
                "loss": float(loss.detach()),
                "gradient_norm": float(norm),
                "learning_rate": learning_rate(step, config),
                "seconds": seconds,
            }
            is_due = (step + 1) % config.validate_every == 0 or step + 1 == config.steps
            if is_due:
                losses = measure()
                line |= {f"loss_{name}": value for name, value in losses.items()}
            # The line first: one too many is dropped by a resumed run, a missing one stays missing.
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if is_due:
                save_state(run, model, optimizer, step + 1, seconds)
                say(json.dumps(line))
    if not losses:
        losses = measure()
    return seconds / 3600, losses


def keep_lines(metrics: Path, steps: int) -> None:
    """Drop what a killed run logged behind its last saved step: those steps are taken again."""
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(lines[:steps]))


def save_state(
    run: Path,
    model: MaskedGeneModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Save weights and optimiser, from which `load_state` goes on at `step`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    partial = run / f"{STATE}.partial"
    save_file(tensors, partial, metadata={"step": str(step), "seconds": str(seconds)})
    os.replace(partial, run / STATE)


def load_state(
    run: Path, model: MaskedGeneModel, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load what `save_state` left, if anything; returns next step and seconds spent so far."""
    from safetensors import safe_open

    path = run / STATE
    if not path.exists():
        return 0, 0.0
    with safe_open(path, framework="pt") as header:
        metadata = header.metadata()
    tensors = load_file(path)
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    saved = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            saved["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(saved)
    return int(metadata["step"]), float(metadata["seconds"])
