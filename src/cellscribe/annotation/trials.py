"""A search for learning rate, layers and passes, by Optuna, where layers are trained.

Each trial is the training that holds the first fold out, and is judged by its loss on the fold that
also ends it. The fold that calibrates is never looked at, so what is measured there stays honest.
The first trial is what was asked for, and no other one is taken unless it is better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cellscribe.annotation.held_out import Training
from cellscribe.callbacks import Log, Progress
from cellscribe.config import FinetuneOptions
from cellscribe.errors import InputError

RATES = (1e-5, 3e-3)
"""Peak learning rates that are searched, drawn by their logarithm."""


def need_optuna() -> Any:
    """Import Optuna.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            '--trials needs optuna, which is not installed: pip install "cellscribe[finetune]"'
        ) from None
    return optuna


def search(
    training: Training, progress: Progress, log: Log
) -> tuple[FinetuneOptions, list[dict[str, Any]]]:
    """Try recipes, and return the best one as options, and all of them.

    Parameters
    ----------
    training
        Cells, folds and the options that `trials`, and the first trial, are taken from.
    progress
        Called with (cells done, cells in all, name of the step).
    log
        Called with each line that a user should read.

    Returns
    -------
    options
        Those of the best trial.
    trials
        Of each ``learning_rate``, ``layers``, ``epochs``, the passes that were ``best``, and the
        held-out ``loss``.

    Raises
    ------
    InputError
        Optuna is not installed, or every trial ended in numbers that are not finite.
    """
    optuna = need_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = training.options
    assert given.trials is not None
    most_layers = len(training.model.trained_parts().blocks)
    tried: list[dict[str, Any]] = []

    def ask(trial: Any) -> float:
        rate = trial.suggest_float("learning_rate", *RATES, log=True)
        epochs = trial.suggest_int("epochs", 1, given.epochs)
        chosen = {"learning_rate": rate, "epochs": epochs}
        if given.mode == "last":
            chosen["layers"] = trial.suggest_int("layers", 1, most_layers)
        options = replace(given, **chosen)
        what = f"Trial {len(tried) + 1} of {given.trials}"
        try:
            done = replace(training, options=options).try_once(progress, what)
            loss, best = min(done.losses), done.epochs
        except InputError as error:  # the loss is no longer finite
            log(f"{what}: {error}")
            loss, best = np.inf, 0
        tried.append({**chosen, "best": best, "loss": loss if np.isfinite(loss) else None})
        return float(loss)

    sampler = optuna.samplers.TPESampler(seed=given.seed)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    rate = min(max(given.peak_rate, RATES[0]), RATES[1])
    first = {"learning_rate": rate, "epochs": given.epochs}
    study.enqueue_trial(first | ({"layers": given.layers} if given.mode == "last" else {}))
    study.optimize(ask, n_trials=given.trials)
    if all(each["loss"] is None for each in tried):
        raise InputError("no trial ended in a finite loss; check the counts of the input")
    best = tried[study.best_trial.number]
    log(
        f"Of {len(tried)} trials number {study.best_trial.number + 1} is best: "
        + ", ".join(f"{name} {best[name]:.3g}" for name in best)
    )
    kept = {name: best[name] for name in ("learning_rate", "layers", "epochs") if name in best}
    return replace(given, **kept), tried
