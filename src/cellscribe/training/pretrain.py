"""One pre-training run, from a plan to a model: everything around the loop.

The folder of a run is described in `runs`, its checkpoints in `state`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cellscribe.callbacks import Log
from cellscribe.errors import InputError
from cellscribe.model.device import cpu_facts
from cellscribe.model.encoder import MaskedGeneModel, initialise, set_compute_dtype
from cellscribe.report.model_card import write_card
from cellscribe.training import checkpoints, runs
from cellscribe.training.allocator import keep_freed_memory
from cellscribe.training.batches import step_batches
from cellscribe.training.distributed import Team, team
from cellscribe.training.downsampling import Thinning
from cellscribe.training.init_from import continue_from
from cellscribe.training.loop import Follow, Line, Place, train
from cellscribe.training.metrics_log import Tracker
from cellscribe.training.objective import Objective
from cellscribe.training.optimizer import LossScale, make_optimizer
from cellscribe.training.plan import Plan
from cellscribe.training.signals import explained, stopping
from cellscribe.training.trained_cells import (
    MOST,
    trained_cells,
    with_earlier,
    write_trained_cells,
)
from cellscribe.training.validation import Validation, read_validation
from cellscribe.training.warm_start import ranked_sample, start_from_cells
from cellscribe.writing import alone, disk_errors, write_json, writing

FREE = {
    "steps", "patience", "micro_batch", "checkpoint_every", "checkpoint_minutes", "keep",
    "bad_steps", "device", "parallel", "tensorboard",
}  # fmt: skip
"""Options that may change when a run goes on; all others make another run."""


def pretrain(
    plan: Plan,
    *,
    on_step: Callable[[Line], None] | None = None,
    draw: Callable[[Path, Path], None] | None = None,
    log: Log = print,
) -> Path | None:
    """Train as planned.

    Parameters
    ----------
    plan
        From `plan`.
    on_step
        Told of each step, as ``metrics.jsonl`` has it.
    draw
        Draws the loss curve for the model card: told the run's folder and the finished model's.
    log
        Told what a user should know.

    Returns
    -------
    pathlib.Path or None
        The finished model; None if the run was asked to stop (SIGTERM, SIGINT) and can go on.

    Raises
    ------
    InputError
        The run that is there is another one, its checkpoints are damaged, the corpus cannot be
        read, the disk is full, memory runs out, another rank is lost, or the loss is not finite.
    """
    keep_freed_memory()
    with explained(plan.options), team(plan.device) as members:
        log = log if members.leads else (lambda line: None)
        with _files(plan, members, log), stopping() as stopped:
            done = _pretrain(plan, members, stopped, on_step or (lambda line: None), log)
            if done is None or not members.leads:
                return done
            if draw is not None:
                draw(plan.run, done)
            write_card(plan.run, plan.corpus.path, done)
            return done


def _pretrain(
    plan: Plan,
    members: Team,
    stopped: Callable[[], bool],
    on_step: Callable[[Line], None],
    log: Log,
) -> Path | None:
    options, run = plan.options, plan.run
    session = _begin(plan, members, log)
    place = session.place
    tracker = None
    if members.leads:
        write_json(run / runs.HEADER, _header(plan, session.model, members, place.step))
        tracker = Tracker(run, place.step, tensorboard=options.tensorboard)

    def line(told: Line) -> None:
        if tracker:
            tracker.write(told)
            on_step(told)

    def save(place: Place) -> None:
        members.rest(session.module)
        whole, averages = checkpoints.gather(session.model, session.optimizer, members)
        if members.leads:
            place.scale = session.scale.state_dict()
            told, folder = dataclasses.asdict(place), run / "checkpoints"
            checkpoints.save(folder, whole, averages, told, session.model, plan.corpus.vocabulary)
            checkpoints.prune(folder, options.keep, place.best_step)

    work = step_batches(plan.reader, plan.config, options, place.step + 1, session.change)
    try:
        with closing(work) as batches:
            done = train(
                session.module, session.model, session.optimizer, session.scale, batches,
                session.validation, options, place,
                Follow(line=line, save=save, stopped=stopped),
                device=plan.device, team=members,
            )  # fmt: skip
    finally:
        if tracker:
            tracker.close()
    if not done:
        log(f"Stopped and saved at step {place.step:,}; --resume goes on from there.")
        return None
    if members.leads:
        _finish(plan, place, log)
    members.total([0.0])  # the others wait for the files
    return run / "model"


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What the loop works with."""

    model: MaskedGeneModel
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scale: LossScale
    validation: Validation
    change: Thinning | None
    place: Place


def _begin(plan: Plan, members: Team, log: Log) -> _Session:
    """Make network and optimiser as the run begins, or as its newest checkpoint has them."""
    config, options = plan.config, plan.options
    model = MaskedGeneModel(config)
    set_compute_dtype(model, plan.dtype)
    place, weights, averages = _found(plan, model, log)
    change = Thinning.of(plan.corpus, config, options)
    if weights is None:
        initialise(model, options.seed)
        if plan.origin:
            continue_from(model, plan.origin)
        elif options.start_from_cells:
            start_from_cells(model, ranked_sample(plan.corpus, config, options.seed), options.seed)
    for note in plan.notes:
        log(note)
    model.to(plan.device)
    module = members.wrap(Objective(model), options)
    optimizer = make_optimizer(model, options)
    scale = LossScale.of(plan.dtype)
    if weights is not None:
        checkpoints.scatter(weights, averages, model, optimizer, members)
        scale.load_state_dict(place.scale)
        plan.reader.load_state_dict(place.reader)
    return _Session(
        model=model,
        module=module,
        optimizer=optimizer,
        scale=scale,
        validation=read_validation(plan.corpus, config, options, members),
        change=change,
        place=place,
    )


def _found(
    plan: Plan, model: MaskedGeneModel, log: Log
) -> tuple[Place, checkpoints.Whole | None, checkpoints.Whole]:
    """Find where to go on: the newest sound checkpoint, or the beginning."""
    path = plan.run / runs.HEADER
    if not path.exists():
        return Place(), None, {}
    header = runs.read_header(plan.run)
    for name, value in _identity(plan).items():
        was = header[name]
        for key in (key for key in value if was.get(key) != value[key]):
            raise InputError(
                f"{plan.run} began with {name} {key} {was.get(key)!r}, and not {value[key]!r}; "
                "give what it began with, or begin a new run"
            )
    found = checkpoints.newest(plan.run / "checkpoints", model, log)
    if found is None:
        return Place(), None, {}
    told, weights, averages = found
    place = Place(**{f.name: told[f.name] for f in dataclasses.fields(Place)})
    log(f"Going on behind step {place.step:,}.")
    return place, weights, averages


def _identity(plan: Plan) -> dict[str, dict[str, Any]]:
    """What makes this run this one."""
    options = dataclasses.asdict(plan.options)
    return {
        "model": dataclasses.asdict(plan.config),
        "training": {key: value for key, value in options.items() if key not in FREE},
        "corpus": {"hash": plan.corpus.hash},
    }


def _header(plan: Plan, model: MaskedGeneModel, members: Team, step: int) -> dict[str, Any]:
    """``run.json``: what the run is, and each time that it was begun or gone on with."""
    corpus, path = plan.corpus, plan.run / runs.HEADER
    before = runs.read_header(plan.run)["sessions"] if path.exists() else []
    session = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "device": _device_name(plan.device),
        "ranks": members.size,
        "micro_batch": plan.options.micro_batch,
        "accumulation": plan.options.accumulation(members.size),
        "precision": str(plan.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }
    return {
        "format": runs.FORMAT,
        "version": runs.VERSION,
        "preset": plan.preset,
        "model": dataclasses.asdict(plan.config),
        "training": dataclasses.asdict(plan.options),
        "corpus": {
            "name": corpus.path.resolve().name,
            "hash": corpus.hash,
            "vocabulary": corpus.vocabulary.hash,
            "splits": {
                split: {"cells": told["cells"], "tokens": told["tokens"]}
                for split, told in corpus.splits.items()
            },
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "init_from": plan.origin.told() if plan.origin else None,
        "sessions": [*before, session],
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} {'thread' if threads == 1 else 'threads'} of {cpu_facts()['model']}"


def _finish(plan: Plan, place: Place, log: Log) -> None:
    """Put the best checkpoint's network in place as the run's model."""
    from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint

    folder = plan.run / "checkpoints"
    best = folder / f"{place.best_step or place.step:06}"
    if not best.is_dir():
        best = checkpoints.checkpoints(folder)[-1]
        log(f"The checkpoint of the lowest loss is gone; the model is that of step {best.name}.")
    provenance = {
        "preset": plan.preset,
        "corpus": plan.corpus.hash,
        "step": int(best.name),
        "loss on val": place.best_loss,
        "trained on": [
            f"{name} ({told['cells']:,} cells)"
            for name, told in plan.corpus.manifest["datasets"].items()
            if told["side"] == "train"
        ],
        "hours": round(place.seconds / 3600, 3),
    }
    hashes = trained_cells(plan.corpus)
    if plan.origin:
        # its weights know what it learnt from, too
        before = plan.origin.checkpoint.provenance.get("trained on", [])
        provenance["trained before on"] = [before] if isinstance(before, str) else before
        hashes = with_earlier(hashes, plan.origin.directory)
    if hashes is None:
        provenance["training cells"] = f"more than {MOST:,}: told by their datasets' names alone"
    with writing(plan.run / "model") as partial:
        network = load_checkpoint(best / "model").model
        save_checkpoint(partial, network, plan.corpus.vocabulary, provenance)
        if hashes is not None:
            write_trained_cells(partial, hashes)


@contextmanager
def _files(plan: Plan, members: Team, log: Log) -> Iterator[None]:
    """Hold the folder of the run while the leading rank writes in it."""
    if not members.leads:
        yield
        return
    with disk_errors(plan.run):
        plan.run.mkdir(exist_ok=True)
    busy = f"another process trains in {plan.run}; wait for it to end"
    with alone(plan.run, busy, log):
        checkpoints.sweep(plan.run / "checkpoints")
        yield
