"""One pre-training run, from a plan to a model: everything around the loop.

The folder of a run is described in `runs`, its checkpoints in `checkpoints`.
"""

from __future__ import annotations

import ctypes
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
from cellscribe.config import ModelConfig, TrainOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.lease import lease
from cellscribe.model.checksums import seal
from cellscribe.model.device import cpu_facts
from cellscribe.model.encoder import MaskedGeneModel, initialise, set_compute_dtype
from cellscribe.training import checkpoints, runs
from cellscribe.training.batches import step_batches
from cellscribe.training.distributed import Team, team
from cellscribe.training.downsampling import Downsampling
from cellscribe.training.init_from import continue_from
from cellscribe.training.loop import Callbacks, StepMetrics, TrainState, train
from cellscribe.training.metrics_log import MetricsLog
from cellscribe.training.objective import Objective
from cellscribe.training.optimizer import LossScale, make_optimizer
from cellscribe.training.plan import TrainPlan
from cellscribe.training.signals import explained, stopping
from cellscribe.training.trained_cells import (
    MOST,
    trained_cells,
    with_earlier,
    write_trained_cells,
)
from cellscribe.training.validation import Validation, read_validation
from cellscribe.training.views import Views
from cellscribe.training.warm_start import ranked_sample, start_from_cells
from cellscribe.writing import disk_errors, write_json, writing

FREE = {
    "steps", "patience", "micro_batch", "checkpoint_every", "checkpoint_minutes", "keep",
    "bad_steps", "device", "parallel", "tensorboard",
}  # fmt: skip
"""Options that may change when a run is continued; all others make another run."""
DEFAULTS = {
    "model": dataclasses.asdict(ModelConfig()),
    "training": dataclasses.asdict(TrainOptions()),
    "corpus": {},
}
WriteCard = Callable[[Path, Path, Path], object]
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of glibc's settings of memory."""


def pretrain(
    plan: TrainPlan,
    *,
    on_step: Callable[[StepMetrics], None] | None = None,
    write_card: WriteCard | None = None,
    log: Log = print,
) -> Path | None:
    """Train as planned.

    Parameters
    ----------
    plan
        From `plan`.
    on_step
        Called with the metrics of each step, as in ``metrics.jsonl``.
    write_card
        Called with the folders of run, corpus and finished model; writes the model's card.
    log
        Called with messages for the user.

    Returns
    -------
    pathlib.Path or None
        The finished model; None if SIGTERM or SIGINT stopped the run, which can be continued.

    Raises
    ------
    InputError
        The run in the folder is another one, its checkpoints are damaged, the corpus cannot be
        read, the disk is full, memory runs out, another rank is lost, or the loss is not finite.
    """
    keep_freed_memory()
    with explained(plan.options), team(plan.device) as members:
        log = log if members.is_rank_zero else (lambda line: None)
        with _files(plan, members), stopping() as should_stop:
            done = _pretrain(plan, members, should_stop, on_step or (lambda metrics: None), log)
            if done is not None and members.is_rank_zero and write_card is not None:
                write_card(plan.run, plan.corpus.path, done)
            return done


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next step; False where there is another allocator.

    Activations of a step are some hundred MB, allocated and freed again in each step. By default
    glibc returns such blocks to the kernel, which clears every page when it is allocated again: a
    third of a step's time on two cores.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) for name, value in settings)


def _pretrain(
    plan: TrainPlan,
    members: Team,
    should_stop: Callable[[], bool],
    on_step: Callable[[StepMetrics], None],
    log: Log,
) -> Path | None:
    options, run = plan.options, plan.run
    session = _begin(plan, members, log)
    state = session.state
    metrics_log = None
    if members.is_rank_zero:
        write_json(run / runs.HEADER, _header(plan, session.model, members, state.step))
        metrics_log = MetricsLog(run, state.step, tensorboard=options.tensorboard)

    def write(metrics: StepMetrics) -> None:
        if metrics_log:
            metrics_log.write(metrics)
            on_step(metrics)

    def save(state: TrainState) -> None:
        members.reshard(session.module)
        whole, averages = checkpoints.gather(session.model, session.optimizer, members)
        if members.is_rank_zero:
            state.scale = session.scale.state_dict()
            saved, folder = dataclasses.asdict(state), run / "checkpoints"
            checkpoints.save(folder, whole, averages, saved, session.model, plan.corpus.vocabulary)
            checkpoints.prune(folder, options.keep, state.best_step)

    work = step_batches(
        plan.reader, plan.config, options, state.step + 1, session.change, session.views
    )
    try:
        with closing(work) as batches:
            done = train(
                session.module, session.model, session.optimizer, session.scale, batches,
                session.validation, options, state,
                Callbacks(on_step=write, save=save, should_stop=should_stop),
                device=plan.device, team=members,
            )  # fmt: skip
    finally:
        if metrics_log:
            metrics_log.close()
    if not done:
        log(f"Stopped and saved at step {state.step:,}; --resume goes on from there.")
        return None
    if members.is_rank_zero:
        _finish(plan, state, session.views, log)
    members.all_reduce([0.0])  # the others wait for the files
    return run / "model"


@dataclass(frozen=True, kw_only=True)
class _Session:
    """The objects that the loop needs."""

    model: MaskedGeneModel
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scale: LossScale
    validation: Validation
    change: Downsampling | None
    views: Views | None
    state: TrainState


def _begin(plan: TrainPlan, members: Team, log: Log) -> _Session:
    """Make network and optimizer, new or from the newest checkpoint of the run."""
    config, options = plan.config, plan.options
    model = MaskedGeneModel(config)
    set_compute_dtype(model, plan.dtype)
    state, weights, averages = _newest(plan, model, log)
    change = Downsampling.of(plan.corpus, config, options)
    views = Views(plan.corpus, config, options) if options.two_views else None
    if weights is None:
        initialise(model, options.seed)
        if plan.init_from:
            continue_from(model, plan.init_from)
        elif options.start_from_cells:
            start_from_cells(model, ranked_sample(plan.corpus, config, options.seed), options.seed)
    for note in plan.notes:
        log(note)
    model.to(plan.device)
    objective = Objective(model, options.mlm_weight, options.regression_weight)
    module = members.wrap(objective, options)
    optimizer = make_optimizer(model, options)
    scale = LossScale.of(plan.dtype)
    if weights is not None:
        checkpoints.scatter(weights, averages, model, optimizer, members)
        scale.load_state_dict(state.scale)
        plan.reader.load_state_dict(state.reader)
    return _Session(
        model=model,
        module=module,
        optimizer=optimizer,
        scale=scale,
        validation=read_validation(plan.corpus, config, options, members),
        change=change,
        views=views,
        state=state,
    )


def _newest(
    plan: TrainPlan, model: MaskedGeneModel, log: Log
) -> tuple[TrainState, checkpoints.Whole | None, checkpoints.Whole]:
    """Return state and tensors of the newest sound checkpoint, or the initial state."""
    path = plan.run / runs.HEADER
    if not path.exists():
        return TrainState(), None, {}
    header = runs.read_header(plan.run)
    for name, value in _identity(plan).items():
        # a run that began before there was an option began with its default
        was = {**DEFAULTS[name], **header[name]}
        for key in (key for key in value if was.get(key) != value[key]):
            raise InputError(
                f"{plan.run} began with {name} {key} {was.get(key)!r}, and not {value[key]!r}; "
                "give what it began with, or begin a new run"
            )
    found = checkpoints.newest(plan.run / "checkpoints", model, log)
    if found is None:
        return TrainState(), None, {}
    saved, weights, averages = found
    names = [each.name for each in dataclasses.fields(TrainState)]
    known = {name: saved[name] for name in names if name in saved}
    where = str(plan.run / "checkpoints" / f"{saved['step']:06}" / "state.json")
    state = from_mapping(TrainState, known, where, needed=names)
    log(f"Going on after step {state.step:,}.")
    return state, weights, averages


def _identity(plan: TrainPlan) -> dict[str, dict[str, Any]]:
    """Return what must be equal for a run to be the same run."""
    options = dataclasses.asdict(plan.options)
    return {
        "model": dataclasses.asdict(plan.config),
        "training": {key: value for key, value in options.items() if key not in FREE},
        "corpus": {"hash": plan.corpus.hash},
    }


def _header(plan: TrainPlan, model: MaskedGeneModel, members: Team, step: int) -> dict[str, Any]:
    """Return ``run.json``: what the run is, and one entry for each start or continuation."""
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
                split: {"cells": size["cells"], "tokens": size["tokens"]}
                for split, size in corpus.splits.items()
            },
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "init_from": plan.init_from.record() if plan.init_from else None,
        "sessions": [*before, session],
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} {'thread' if threads == 1 else 'threads'} of {cpu_facts()['model']}"


def _finish(plan: TrainPlan, state: TrainState, views: Views | None, log: Log) -> None:
    """Save the network of the best checkpoint as the run's model."""
    from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint

    folder = plan.run / "checkpoints"
    best = folder / f"{state.best_step or state.step:06}"
    if not best.is_dir():
        best = checkpoints.checkpoints(folder)[-1]
        log(f"The checkpoint of the lowest loss is gone; the model is that of step {best.name}.")
    provenance = {
        "preset": plan.preset,
        "corpus": plan.corpus.hash,
        "step": int(best.name),
        "loss on val": state.best_loss,
        "trained on": [
            f"{name} ({dataset['cells']:,} cells)"
            for name, dataset in plan.corpus.manifest["datasets"].items()
            if dataset["side"] == "train"
        ],
        "hours": round(state.seconds / 3600, 3),
    }
    hashes = trained_cells(plan.corpus)
    if plan.init_from:
        # the weights were also trained on the cells of the model they started from
        before = plan.init_from.checkpoint.provenance.get("trained on", [])
        provenance["trained before on"] = [before] if isinstance(before, str) else before
        hashes = with_earlier(hashes, plan.init_from.directory)
    if hashes is None:
        provenance["training cells"] = f"more than {MOST:,}: told by their datasets' names alone"
    with writing(plan.run / "model") as partial:
        network = load_checkpoint(best / "model").model
        save_checkpoint(partial, network, plan.corpus.vocabulary, provenance)
        if views is not None:
            views.components.save(partial)
        if hashes is not None:
            write_trained_cells(partial, hashes)
        seal(partial)


@contextmanager
def _files(plan: TrainPlan, members: Team) -> Iterator[None]:
    """Hold the folder of the run while rank zero writes in it."""
    if not members.is_rank_zero:
        yield
        return
    with disk_errors(plan.run):
        plan.run.mkdir(exist_ok=True)
    with lease(plan.run):
        checkpoints.sweep(plan.run / "checkpoints")
        yield
