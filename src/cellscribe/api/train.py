"""The verb train: a corpus to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, log_stderr

if TYPE_CHECKING:
    pass


def train(
    corpus: str | Path,
    out: str | Path,
    *,
    preset: str = "geneformer-10m",
    init_from: str | Path | None = None,
    resume: bool = False,
    shape: Mapping[str, Any] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    log: Log = log_stderr,
    **settings: Any,
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
        Fields of `config.ModelConfig` that differ from the preset's.
    on_step
        Told of each step: what ``metrics.jsonl`` gets.
    log
        Told what a user should know.
    **settings
        Fields of `config.TrainOptions` that differ from the preset's.

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

    config, options = settle(preset, settings, shape or {}, init_from)
    planned = plan(corpus, out, config, options, preset=preset, init_from=init_from, resume=resume)
    return pretrain(planned, on_step=on_step, write_card=write_card_and_curve, log=log)
