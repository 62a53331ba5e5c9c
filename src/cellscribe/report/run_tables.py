"""Tables of training runs; the page of a run and the card of its model render the same ones.

Each function takes one or several runs by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellscribe.report.numbers import decimals, hours, value_text
from cellscribe.report.tables import Table
from cellscribe.training.runs import Run, best, last, loss_at, summarise

RunsByName = Mapping[str, Run]
COMPARABLE = {
    "corpus": ("corpus", "hash"),
    "context": ("model", "context"),
    "chosen share": ("training", "mlm_probability"),
    "masked share": ("training", "masked_share"),
    "random share": ("training", "random_share"),
    "validation cells": ("training", "validation_cells"),
}
"""Settings that must be equal for validation losses to be comparable."""


def of_recipe(runs: RunsByName) -> tuple[Table, Table]:
    """Tabulate all settings, a column per run: those that differ, and those that are equal."""
    settings = [_settings(run.header) for run in runs.values()]
    names = list(dict.fromkeys(name for each in settings for name in each))
    rows = [(name, *(each.get(name, "") for each in settings)) for name in names]
    header = ("Setting", *runs) if len(runs) > 1 else ("Setting", "Value")
    differ = tuple(row for row in rows if len(set(row[1:])) > 1)
    same = tuple(row for row in rows if len(set(row[1:])) == 1)
    if len(runs) > 1:
        return (
            Table(header, differ, n_text=len(header)),
            Table(("Setting", "Value"), tuple(row[:2] for row in same), n_text=2),
        )
    return Table(header, (), n_text=2), Table(header, same, n_text=2)


def unlike(runs: RunsByName) -> list[str]:
    """Name the settings by which the runs' validation losses are not comparable."""
    found = []
    for name, (part, key) in COMPARABLE.items():
        if len({str(run.header[part].get(key)) for run in runs.values()}) > 1:
            found.append(name)
    return found


def of_summary(runs: RunsByName) -> Table:
    """Tabulate how far each run is, how fast, and its best loss."""
    rows = []
    for name, run in runs.items():
        summary, lowest = summarise(run), best(run)
        rows.append(
            (
                name,
                f"{run.header['parameters']:,}",
                f"{summary.steps:,}",
                f"{summary.cells:,}",
                decimals(summary.epochs, 2),
                hours(summary.hours),
                decimals(summary.tokens_per_second, 0),
                "" if lowest is None else f"{lowest[1]:.4f}",
                "" if lowest is None else f"{lowest[0]:,}",
            )
        )
    header = ("Run", "Parameters", "Steps", "Cells seen", "Epochs", "Hours", "Tokens/s")
    return Table((*header, "Best val loss", "At step"), tuple(rows))


def of_losses(runs: RunsByName) -> Table:
    """Tabulate the loss of train (smoothed) and of each validated split at best and last step."""
    rows = []
    for name, run in runs.items():
        lowest, latest = best(run), last(run)
        # the last validation, or the last step where there was none
        steps = [None if lowest is None else lowest[0], latest[0] if latest else len(run.step)]
        for split in ("train", *run.validation):
            losses = [
                part
                for step in steps
                for part in (
                    ("", "")
                    if step is None
                    else (f"{step:,}", decimals(loss_at(run, step, split), 4))
                )
            ]
            rows.append((*((name,) if len(runs) > 1 else ()), split, *losses))
    header = (*(("Run",) if len(runs) > 1 else ()), "Split", "Best step", "Loss there")
    return Table((*header, "Last step", "Loss there"), tuple(rows), n_text=1 + (len(runs) > 1))


def of_validations(runs: RunsByName) -> Table:
    """Tabulate every validation: run, step, and the loss of each split there."""
    splits = list(dict.fromkeys(split for run in runs.values() for split in run.validation))
    rows = []
    for name, run in runs.items():
        steps = sorted({int(step) for at, _ in run.validation.values() for step in at})
        for step in steps:
            losses = [
                decimals(loss_at(run, step, split), 4) if split in run.validation else ""
                for split in splits
            ]
            rows.append((*((name,) if len(runs) > 1 else ()), f"{step:,}", *losses))
    header = (*(("Run",) if len(runs) > 1 else ()), "Step", *splits)
    return Table(header, tuple(rows), n_text=int(len(runs) > 1))


def of_sessions(runs: RunsByName) -> Table:
    """Tabulate the sessions of each run and their hardware."""
    keys = ("date", "step", "device", "ranks", "micro_batch", "accumulation", "precision", "torch")
    columns = ("Date", "Steps before", "Device", "Ranks", "Micro batch", "Accumulation")
    header = (*(("Run",) if len(runs) > 1 else ()), *columns, "Products in", "torch")
    rows = [
        (*((name,) if len(runs) > 1 else ()), *(value_text(session.get(key)) for key in keys))
        for name, run in runs.items()
        for session in run.header["sessions"]
    ]
    return Table(header, tuple(rows), n_text=len(header))


def shape_text(header: Mapping[str, Any]) -> str:
    """Describe number and size of a model's layers."""
    model = header["model"]
    return (
        f"{value_text(model.get('num_hidden_layers'))} layers, "
        f"{value_text(model.get('hidden_size'))} wide"
    )


def _settings(header: Mapping[str, Any]) -> dict[str, str]:
    corpus = header["corpus"]
    settings: dict[str, Any] = {
        "preset": header["preset"],
        "parameters": header["parameters"],
        "corpus": corpus["name"],
        "corpus hash": corpus["hash"],
        "gene table hash": corpus.get("vocabulary"),
    }
    for split, size in corpus["splits"].items():
        settings[f"cells of {split}"] = size.get("cells")
    settings["started from"] = header.get("init_from")
    settings |= {key.replace("_", " "): value for key, value in header["model"].items()}
    settings |= {key.replace("_", " "): value for key, value in header["training"].items()}
    return {name: value_text(value) for name, value in settings.items()}
