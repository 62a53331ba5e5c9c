"""Verbs that train."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.config import Dict

from cellscribe.cli.app import app, under_flags
from cellscribe.cli.progress import training_bar
from cellscribe.config import ModelConfig, TrainOptions, read_preset

if TYPE_CHECKING:
    from cyclopts.argument import ArgumentCollection

PRESET = "geneformer-10m"


@app.command
def train(
    *,
    corpus: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    preset: str = PRESET,
    init_from: str | None = None,
    resume: bool = False,
    options: Annotated[TrainOptions | None, Parameter(name="*")] = None,
    shape: Annotated[ModelConfig | None, Parameter(name="--model")] = None,
) -> None:
    """Pre-train a model on a corpus.

    Many GPUs: torchrun --nproc-per-node 8 -m cellscribe train ...

    Defaults below are those without a preset, whose values take their place.

    Parameters
    ----------
    corpus
        Folder that cellscribe corpus build made.
    out
        Folder of the run: metrics.jsonl, checkpoints, and at its end model/.
    preset
        Shape and recipe under the flags: geneformer-10m, geneformer-106m, mini, or a TOML file.
    init_from
        Begin with the weights and the shape of this model, a name or a folder.
    resume
        Go on with an interrupted run, where there is one.
    """
    from cellscribe.callbacks import log_stderr
    from cellscribe.report.model_card import write_card_and_curve
    from cellscribe.training.distributed import rank_here, ranks_here
    from cellscribe.training.plan import plan
    from cellscribe.training.pretrain import pretrain

    planned = plan(
        corpus,
        out,
        shape or ModelConfig(),
        options or TrainOptions(),
        preset=preset,
        init_from=init_from,
        resume=resume,
    )
    leads = rank_here() == 0
    steps, device = planned.options.last_step, planned.device.type
    with training_bar(steps, device, ranks_here(), shown=leads, log=log_stderr) as on_step:
        model = pretrain(planned, on_step=on_step, write_card=write_card_and_curve, log=log_stderr)
    if model is not None and leads:
        if find_spec("matplotlib") is None:
            log_stderr(
                'The model card has no loss curve: pip install "cellscribe[report]" draws one.'
            )
        print(model)


@under_flags
def _preset(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Lay the preset under the flags of ``train``."""
    if commands != ("train",):
        return
    given: dict[str, Any] = {
        name: argument.tokens[-1].value
        for argument in arguments
        for name in argument.names
        if name in ("--preset", "--init-from") and argument.tokens
    }
    preset = read_preset(given.get("--preset", PRESET))
    shape = preset.model
    if "--init-from" in given:
        from cellscribe.families.named import local_model
        from cellscribe.model.metadata import read_header

        shape = dataclasses.asdict(read_header(local_model(given["--init-from"])).config)
    tables = {"train": {**preset.training, "model": shape}}
    Dict(tables, source=f"preset {preset.name}")(app, commands, arguments)
