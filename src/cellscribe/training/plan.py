"""Check what a run needs before anything is made or loaded: preset, corpus, folder, device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cellscribe.config import ModelConfig, TrainOptions, from_mapping, read_preset
from cellscribe.corpus.reader import Reader
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.lease import lease
from cellscribe.model.attention_cpu import has_bf16_kernel
from cellscribe.model.device import DTYPES, SLOW_CPU, choose_device, choose_precision
from cellscribe.model.metadata import read_header
from cellscribe.training import runs
from cellscribe.training.batches import open_reader
from cellscribe.training.distributed import own_device, rank_here, ranks_here
from cellscribe.training.init_from import InitFrom
from cellscribe.training.metrics_log import need_tensorboard


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A run whose preset, corpus, folder and device are checked."""

    preset: str
    config: ModelConfig
    options: TrainOptions
    corpus: Corpus
    reader: Reader
    """Reader of this rank's training cells."""
    run: Path
    resume: bool
    init_from: InitFrom | None
    device: torch.device
    dtype: torch.dtype
    notes: tuple[str, ...]


def settle(
    preset: str,
    settings: Mapping[str, Any],
    shape: Mapping[str, Any],
    init_from: str | Path | None = None,
) -> tuple[ModelConfig, TrainOptions]:
    """Combine a preset with single fields; the shape is that of `init_from` where one is given.

    Raises
    ------
    InputError
        There is no such preset or model, or a field is unknown.
    """
    found = read_preset(preset)
    below = found.model
    if init_from is not None:
        below = dataclasses.asdict(read_header(init_from).config)
    where = f"train with preset {found.name}"
    return (
        from_mapping(ModelConfig, {**below, **shape}, where),
        from_mapping(TrainOptions, {**found.training, **settings}, where),
    )


def plan(
    corpus: str | Path,
    run: str | Path,
    shape: ModelConfig,
    options: TrainOptions,
    *,
    preset: str,
    init_from: str | Path | None = None,
    resume: bool = False,
) -> TrainPlan:
    """Check everything that a run needs.

    Parameters
    ----------
    corpus
        Folder of a training store.
    run
        Folder of the run.
    shape
        Shape of the network; its tokens are those of the corpus, its context at most the
        corpus's.
    options
        How to train.
    preset
        Name in the run's header.
    init_from
        Model whose weights the run starts from.
    resume
        Continue the run that is in the folder.

    Raises
    ------
    InputError
        Something is missing, or the parts do not fit each other.
    """
    run = Path(run)
    ranks = ranks_here()
    accumulation = options.accumulation(ranks)
    device = own_device(choose_device(options.device))
    precision = choose_precision(device, options.precision)
    if options.tensorboard:
        need_tensorboard()
    if rank_here() == 0:
        _check_folder(run, resume)
    opened = open_corpus(corpus)
    # Special tokens are those of the corpus, also if the model to start from has others.
    config = dataclasses.replace(
        shape,
        vocab_size=len(opened.vocabulary),
        context=min(shape.context, opened.context),
        pad_token_id=opened.vocabulary.special("[PAD]"),
        sep_token=False,
        pooler=False,
    )
    notes = []
    if options.two_views and not config.cell_vector_size:
        raise InputError(
            "regression_weight and contrast_weight train the cell head, and the model has none; "
            "set cell_vector_size (64, say), or both weights to 0"
        )
    if config.cell_vector_size and not options.two_views:
        config = dataclasses.replace(config, cell_vector_size=0)
        notes.append("The model gets no cell head: masked genes alone do not train it.")
    base = InitFrom.read(init_from, opened.vocabulary) if init_from else None
    if base:
        base.check(config)
    reader = open_reader(opened, config, options, rank=rank_here(), world_size=ranks)
    notes += base.notes if base else ()
    if device.type == "cpu" and not has_bf16_kernel():
        notes.append(SLOW_CPU[precision])
    if config.context < shape.context:
        notes.append(f"The corpus keeps {config.context:,} genes a cell: so does the model.")
    notes.append(
        f"{options.global_batch:,} cells a step: {options.micro_batch:,} at a time x {ranks:,} "
        f"{'rank' if ranks == 1 else 'ranks'} x {accumulation:,}; products in {precision}"
    )
    return TrainPlan(
        preset=Path(preset).stem,
        config=config,
        options=options,
        corpus=opened,
        reader=reader,
        run=run,
        resume=resume,
        init_from=base,
        device=device,
        dtype=DTYPES[precision],
        notes=tuple(notes),
    )


def _check_folder(run: Path, resume: bool) -> None:
    if run.exists() and not run.is_dir():
        raise InputError(f"{run} is a file; name a folder for the run")
    if not run.parent.is_dir():
        raise InputError(f"{run.parent}: no such folder; make it first")
    with lease(run):  # whoever trains in it is the reason to tell
        pass
    if (run / runs.HEADER).exists():
        if not resume:
            raise InputError(
                f"{run} holds a run; go on with it by --resume, or name another folder"
            )
    elif run.exists() and any(run.iterdir()):
        raise InputError(f"{run} is not empty and holds no run; name another folder")
