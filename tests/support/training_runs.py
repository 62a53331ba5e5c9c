"""Runs written by hand, laid out as the training loop does: what reports and cards are tested on.

Curves fall like a power of the steps, with noise; `memorised` makes validation rise from there on.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from cellscribe.config import ModelConfig, TrainOptions

CORPUS = {
    "name": "atlas",
    "hash": "0123456789abcdef",
    "vocabulary": "fedcba9876543210",
    "splits": {
        "train": {"cells": 5_000, "tokens": 2_000_000},
        "val": {"cells": 300, "tokens": 120_000},
        "test_unseen": {"cells": 400, "tokens": 160_000},
    },
}
SESSION = {
    "date": "2026-03-04", "step": 0, "device": "cpu: Some CPU", "ranks": 1, "micro_batch": 32,
    "accumulation": 2, "precision": "bf16", "torch": "2.13.0",
}  # fmt: skip


def metrics(
    n_steps: int,
    *,
    seed: int = 0,
    every: int = 50,
    floor: float = 4.0,
    memorised: int | None = None,
    skipped: tuple[int, ...] = (),
    splits: tuple[str, ...] = ("val", "test_unseen"),
    peak: float = 1e-3,
) -> list[dict[str, Any]]:
    """One line a step, as the loop writes them."""
    rng = np.random.default_rng(seed)
    seconds, lines = 0.0, []
    for step in range(1, n_steps + 1):
        curve = floor + (10.1 - floor) * (1 + step / 12) ** -0.6
        tokens = int(rng.integers(14_000, 18_000))
        seconds += tokens / 9_000 * float(rng.uniform(0.95, 1.2))
        warm = min(1.0, step / max(n_steps // 20, 1))
        line: dict[str, Any] = {
            "step": step,
            "loss": curve + float(rng.normal(scale=0.08)),
            "gradient_norm": float(np.exp(rng.normal(-0.5 + 2 / step, 0.3))),
            "learning_rate": peak * warm * (0.505 + 0.495 * float(np.cos(np.pi * step / n_steps))),
            "cells": 64,
            "tokens": tokens,
            "seconds": seconds,
        }
        if step in skipped:
            line |= {"loss": None, "gradient_norm": None, "skipped": True}
        if step % every == 0 or step == n_steps:
            past = max(0, step - memorised) / n_steps if memorised is not None else 0.0
            for place, split in enumerate(splits):
                noise = float(rng.normal(scale=0.01))
                line[f"loss_{split}"] = curve + 0.15 + 0.4 * place + 1.5 * past + noise
        lines.append(line)
    return lines


def write_run(
    folder: Path,
    lines: list[dict[str, Any]] | int = 400,
    *,
    finished: bool = True,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    corpus: dict[str, Any] | None = None,
    sessions: list[dict[str, Any]] | None = None,
    **header: Any,
) -> Path:
    """Write ``run.json``, ``metrics.jsonl`` and, of a finished run, an empty ``model``."""
    if isinstance(lines, int):
        lines = metrics(lines)
    folder.mkdir(parents=True, exist_ok=True)
    options = TrainOptions(**({"schedule_steps": max(len(lines), 1), "steps": None, "warmup_steps":
        20, "global_batch": 64, "micro_batch": 32} | (training or {})))  # fmt: skip
    shape = ModelConfig(
        **({"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3} | (model or {}))
    )
    told = {
        "format": "cellscribe run",
        "version": 1,
        "preset": "mini",
        "model": dataclasses.asdict(shape),
        "training": dataclasses.asdict(options),
        "corpus": CORPUS | (corpus or {}),
        "parameters": 6_033_877,
        "init_from": None,
        "sessions": sessions or [SESSION],
    } | header
    (folder / "run.json").write_text(json.dumps(told))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if finished:
        (folder / "model").mkdir(exist_ok=True)
    return folder
