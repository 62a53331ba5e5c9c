"""What it takes to train the model card's models on the Census, counted from what was measured.

Tokens come from the presets' steps and batches and a mean length of cells; GPU hours from these
tokens and the speed of the benchmark of training on a GPU (`benchmarks/results/train-*-cuda.json`).
A shape that was not measured is given the measured operations per second of the one that was: large
products are no slower. The second objective reads two views of each cell, of a mean size given by
its bounds; contrast and cell head are small beside the encoder and not counted.

    python -m benchmarks.census_cost        # prints the table that recipes/census.md has
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cellscribe.config import ModelConfig, TrainOptions, from_mapping, read_preset
from cellscribe.model.encoder import training_flop

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "benchmarks/results/train-geneformer-10m-cuda.json"
GPUS = {"geneformer-10m": 64, "geneformer-106m": 128}
"""As the model card has them."""
PRICE = 2.5
"""US dollars for an hour of one GPU: an assumption, of the order of what an H100 is let for."""
VIEW = (256, 1_000)
"""Genes of a view."""


def rows(measured: dict[str, Any]) -> list[list[str]]:
    """Return a line for each preset, without and with the second objective."""
    speed = 1e9 * measured["gflop_per_second"]["cellscribe"]
    length = round(measured["tokens_per_cell"])
    found = []
    for preset, gpus in GPUS.items():
        found_in = read_preset(preset)
        config = from_mapping(ModelConfig, found_in.model, preset)
        options = from_mapping(TrainOptions, found_in.training, preset)
        for views in (1, 2):
            tokens = length if views == 1 else min(length, sum(VIEW) // 2)
            flop = cells_of(options) * views * cell_flop(config, options, tokens)
            hours = flop / speed / 3_600
            found.append(
                [
                    preset,
                    "masked genes" if views == 1 else "with two views",
                    f"{cells_of(options) * views * tokens / 1e9:,.0f}",
                    f"{flop / 1e18:,.1f}",
                    f"{hours:,.0f}",
                    f"{hours / gpus:,.1f} h on {gpus}",
                    f"{hours * PRICE:,.0f}",
                ]
            )
    return found


def cells_of(options: TrainOptions) -> int:
    """Cells of all steps, each as often as it is read."""
    return options.schedule_steps * options.global_batch


def cell_flop(config: ModelConfig, options: TrainOptions, tokens: int) -> float:
    """Operations of a training step on one cell of a length."""
    return training_flop(config, [tokens], round(options.mlm_probability * tokens))


def main() -> None:
    from benchmarks.render_tables import table

    columns = [
        "preset", "objective", "10^9 tokens", "10^18 operations", "GPU hours", "time", "US dollars",
    ]  # fmt: skip
    print(table(columns, rows(json.loads(MEASURED.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
