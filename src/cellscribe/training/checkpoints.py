"""Checkpoints of a run: complete or absent, checked when read, the newest few kept.

::

    RUN/checkpoints/000500/model/              the network, as `model.checkpoint` saves it
    RUN/checkpoints/000500/state.safetensors   AdamW's two averages of each parameter
    RUN/checkpoints/000500/state.json          step, place in the corpus, counts, hashes

A folder gets its name when all its files are on disk, so that a kill at any moment leaves the older
checkpoints as they were. Checkpoints hold whole tensors and do not depend on the number of ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config.checked import Count, check_value
from cellscribe.config.files import check_file, read_json
from cellscribe.errors import InputError
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.model.weights import check_finite, read_tensors
from cellscribe.training.distributed import Team
from cellscribe.writing import disk_errors, hash_of, remove

HASHED = ("model/model.safetensors", "state.safetensors")
"""Files whose SHA-256 is in ``state.json``."""
AVERAGES = ("exp_avg", "exp_avg_sq", "step")
Whole = dict[str, torch.Tensor]


Hashes = TypedDict("Hashes", {"model/model.safetensors": str, "state.safetensors": str})


class State(TypedDict):
    """What is read of ``state.json`` here; the loop's own part is `loop.TrainState`."""

    step: Count
    hashes: Hashes


def gather(
    model: MaskedGeneModel, optimizer: torch.optim.Optimizer, team: Team
) -> tuple[Whole, Whole]:
    """Gather parameters and AdamW's averages as whole tensors on the CPU; all ranks call it."""
    weights = {name: team.full_tensor(p.detach()).cpu() for name, p in model.named_parameters()}
    averages = {
        f"{key}.{name}": team.full_tensor(optimizer.state[p][key]).cpu()
        for name, p in model.named_parameters()
        for key in AVERAGES
        if p in optimizer.state
    }
    return weights, averages


def scatter(
    weights: Whole,
    averages: Whole,
    model: MaskedGeneModel,
    optimizer: torch.optim.Optimizer,
    team: Team,
) -> None:
    """Put whole tensors from `gather` into model and optimizer, for any number of ranks."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(team.shard_like(weights[name], parameter))
            if f"step.{name}" in averages:
                optimizer.state[parameter] = {
                    key: averages[f"{key}.{name}"].to(parameter.device)
                    if key == "step"
                    else team.shard_like(averages[f"{key}.{name}"], parameter)
                    for key in AVERAGES
                }


def save(
    folder: Path,
    weights: Whole,
    averages: Whole,
    state: Mapping[str, Any],
    model: MaskedGeneModel,
    vocabulary: Vocabulary,
) -> Path:
    """Write a checkpoint into ``folder``, named by its step, and return it.

    Raises
    ------
    OutputError
        The disk is full or cannot be written; older checkpoints stay as they were.
    """
    target = folder / f"{state['step']:06}"
    partial = folder / f".{target.name}.partial-{os.getpid()}"
    fix = "free some space and go on with --resume"
    try:
        with disk_errors(target, fix):
            folder.mkdir(exist_ok=True)
            partial.mkdir()
            _write(lambda: save_weights(partial / "model", weights, model, vocabulary, {}))
            _write(lambda: save_file(averages, partial / "state.safetensors"))
            record = {**state, "hashes": {name: hash_of(partial / name) for name in HASHED}}
            (partial / "state.json").write_text(json.dumps(record, indent=1) + "\n")
            for path in sorted(partial.rglob("*")):
                _flush(path)
            remove(target)
            partial.rename(target)
            _flush(folder)
    finally:
        remove(partial)
    return target


def save_weights(
    directory: Path,
    weights: Whole,
    model: MaskedGeneModel,
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
) -> None:
    """Write whole weights as a checkpoint directory of the model."""
    with torch.device("meta"):
        whole = MaskedGeneModel(model.config)
    whole.load_state_dict(weights, assign=True)
    save_checkpoint(directory, whole, vocabulary, provenance)


def newest(
    folder: Path, model: MaskedGeneModel, log: Log
) -> tuple[dict[str, Any], Whole, Whole] | None:
    """Read the newest checkpoint that is sound; log and skip damaged ones.

    Returns
    -------
    tuple or None
        ``state.json``, weights and averages; None where there is no checkpoint.

    Raises
    ------
    InputError
        There are checkpoints, and all are damaged.
    """
    there = checkpoints(folder)
    for path in reversed(there):
        try:
            return _read(path, model)
        except InputError as error:
            log(f"Checkpoint {path.name} is damaged ({error}): passed over.")
    if there:
        raise InputError(f"{folder} holds no checkpoint that is sound; begin a new run")
    return None


def _read(path: Path, model: MaskedGeneModel) -> tuple[dict[str, Any], Whole, Whole]:
    state = read_json(path / "state.json", fix="it was not saved whole")
    check_value(State, state, "")
    if state["step"] != int(path.name):
        raise InputError(f"state.json is of step {state['step']:,}")
    for name in HASHED:
        check_file(path / name, fix="it was not saved whole")
        if hash_of(path / name) != state["hashes"][name]:
            raise InputError(f"{name} is not what was saved")
    averages = read_tensors(path / "state.safetensors", fix="it was not saved whole")
    check_finite(averages, "state.safetensors")
    saved = load_checkpoint(path / "model")
    if saved.config != model.config:
        raise InputError("it is of a model of another shape")
    weights: Whole = dict(saved.model.named_parameters())
    wanted = {f"{key}.{name}": key for name in weights for key in AVERAGES}
    for name in averages:
        if name not in wanted:
            raise InputError(f"state.safetensors has {name[:100]}, which is none of the model's")
    for name, parameter in weights.items():
        found = [averages.get(f"{key}.{name}") for key in AVERAGES]
        shapes = [None if each is None else each.shape for each in found]
        if shapes not in ([None] * 3, [parameter.shape, parameter.shape, torch.Size([])]):
            raise InputError(f"state.safetensors lacks averages of {name}, or they do not fit")
    return state, weights, averages


def checkpoints(folder: Path) -> list[Path]:
    """Return finished checkpoints, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    named = (p for p in found if p.name.isascii() and p.name.isdigit() and len(p.name) < 20)
    return sorted(named, key=lambda path: int(path.name))


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and that of step `best`."""
    for path in checkpoints(folder)[:-keep]:
        if int(path.name) != best:
            remove(path)


def sweep(folder: Path) -> None:
    """Remove the partial files of writers that were killed."""
    for left in folder.glob(".*.partial-*"):
        remove(left)


def _write(write: Callable[[], None]) -> None:
    """Turn safetensors' error of a full disk into an `OSError`."""
    try:
        write()
    except SafetensorError as error:
        raise OSError(28 if "os error 28" in str(error) else 5, str(error)) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
