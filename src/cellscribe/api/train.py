"""The verb train: a corpus to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, log_stderr
from cellscribe.config import ModelConfig, Precision, TrainOptions
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.session import checkpoint_path

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder


@former_keywords(say="log", watch="on_step")
def train(
    corpus: str | Path,
    out: str | Path,
    *,
    preset: str = "geneformer-10m",
    init_from: str | Path | Embedder | None = None,
    resume: bool = False,
    shape: ModelConfig | Mapping[str, Any] | None = None,
    steps: int | None = None,
    global_batch: int | None = None,
    micro_batch: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    options: TrainOptions | Mapping[str, Any] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    log: Log = log_stderr,
) -> Path | None:
    """Pre-train a model on a corpus.

    Parameters
    ----------
    corpus
        Folder that `build_corpus` made.
    out
        Folder of the run: ``metrics.jsonl``, checkpoints, and at its end ``model``.
    preset
        A preset's name, or a TOML file with tables ``[model]`` and ``[training]``.
    init_from
        Begin with the weights, and the shape, of this model.
    resume
        Go on with an interrupted run, where there is one.
    shape
        Shape of the network: a mapping of the fields that differ from the preset's, or all of it.
    steps, global_batch, micro_batch, learning_rate, seed, device, precision
        Settings that differ from the preset's.
    options
        Settings in place of these keywords: a mapping of the fields that differ from the preset's,
        or all of them, whatever the preset has.
    on_step
        Called after each step with the line that ``metrics.jsonl`` gets.
    log
        Called with each line that a user should read.

    Returns
    -------
    pathlib.Path or None
        The finished model; None if SIGTERM or Ctrl-C asked for the end, and ``resume`` goes on.

    Raises
    ------
    InputError
        Something is missing or does not go together; see `training.plan` and `training.pretrain`.
    """
    from cellscribe.report.model_card import write_card_and_curve
    from cellscribe.training.plan import plan, settle
    from cellscribe.training.pretrain import pretrain

    given = {
        "steps": steps,
        "global_batch": global_batch,
        "micro_batch": micro_batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if options is not None and settings:
        raise InputError(
            f"train: {', '.join(settings)} given together with options; put everything into "
            "options, or leave options out"
        )
    if options is not None:
        settings = asdict(options) if isinstance(options, TrainOptions) else dict(options)
    fields = asdict(shape) if isinstance(shape, ModelConfig) else dict(shape or {})
    if init_from is not None:
        init_from = checkpoint_path(init_from)
    config, chosen = settle(preset, settings, fields, init_from)
    planned = plan(corpus, out, config, chosen, preset=preset, init_from=init_from, resume=resume)
    return pretrain(planned, on_step=on_step, write_card=write_card_and_curve, log=log)
