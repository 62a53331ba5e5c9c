"""Learn labels: from labelled cells to a model directory with a calibrated head.

With ``mode = "head"`` a logistic regression on the frozen encoder's vectors is the head; otherwise
layers are trained from there on. Temperature and threshold come from groups that were held out of
a training of their own; the model that is saved has learnt from all cells. It is a checkpoint like
any other, with its head next to the weights.

Letters: ``B`` labelled cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import Calibration, calibrate, log_calibration
from cellscribe.annotation.domain import HeldOutDistances, fit_domain
from cellscribe.annotation.labels import (
    Labelled,
    check_labels,
    choose_folds,
    log_folds,
)
from cellscribe.annotation.linear import fit_head
from cellscribe.callbacks import Progress, in_step, no_progress
from cellscribe.config import FinetuneOptions
from cellscribe.escaping import plain
from cellscribe.families.saving import save_trained
from cellscribe.inference.session import Cells, Session
from cellscribe.model.checksums import seal
from cellscribe.model.heads import Head, save_head
from cellscribe.training.trained_cells import TRAINED_CELLS
from cellscribe.writing import writing

if TYPE_CHECKING:
    from cellscribe.annotation.tuning import Tuned
    from cellscribe.families.base import CellModel
    from cellscribe.inference.embedder import Embedder

FIGURES = {
    "cells": ("cells", ",d"),
    "accuracy": ("accuracy of the best label", ".3f"),
    "macro_f1": ("macro F1 of the best label", ".3f"),
    "error": ("expected calibration error", ".3f"),
    "coverage": ("share of cells that get a label", ".3f"),
    "accuracy_called": ("accuracy of these", ".3f"),
}
"""Of `Calls`, as the README has them."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What `finetune_model` made."""

    head: Head
    calibration: Calibration
    labelled: Labelled
    epochs: int
    """Passes over the cells where layers are trained."""


def finetune_model(
    session: Session,
    sources: Sequence[Cells],
    labelled: Labelled,
    out: Path,
    options: FinetuneOptions,
    *,
    progress: Progress | None = None,
) -> Finetuned:
    """Fine-tune a model on labelled cells and save it.

    Parameters
    ----------
    session
        The model and the device.
    sources
        Opened files of raw counts.
    labelled
        Their labels, from `read_labels`.
    out
        The new model's directory; it appears whole or not at all.
    options
        Columns, mode and recipe.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        Bad input, see `fit_head` and `tune`.
    """
    embedder, log = session.embedder, session.log
    trained: CellModel | None = None
    if options.mode != "head":
        from cellscribe.annotation.tuning import check_trainable

        # The embedder's weights are rounded to the type of its products; these are trained, saved.
        trained = session.header.load(embedder.options).cells
        check_trainable(trained, options)
        if options.trials is not None:
            from cellscribe.annotation.trials import need_optuna

            need_optuna()
    step = in_step(progress, "Embedding")
    vectors = np.concatenate(
        [
            embedder.embed_counts(each.counts, each.genes, progress=step)[0][rows]
            for each, rows in zip(sources, labelled.rows, strict=True)
        ]
    ).astype(np.float64)
    filled = vectors.any(axis=1)
    labelled, vectors = labelled.keep(filled), vectors[filled]
    counts = [each.counts for each in sources]
    check_labels(labelled, counts)
    log_folds(labelled, options.group, log)
    folds = choose_folds(labelled.truth, labelled.groups, options.folds, options.seed)
    tuned: Tuned | None = None
    held_out: HeldOutDistances | None = None
    trials: list[dict[str, Any]] = []
    if trained is None:
        head, logits, tested = fit_head(vectors, labelled, folds)
        how = "each fold of groups by a head that did not see it"
    else:
        from cellscribe.annotation.held_out import Training
        from cellscribe.annotation.trials import search
        from cellscribe.annotation.tuning import vectors_of

        training = Training(
            trained,
            session.header.untrained is not None,
            sources,
            labelled,
            vectors,
            folds,
            options,
            embedder.device,
            embedder.precision,
        )
        if options.trials is not None:
            options, trials = search(training, progress or no_progress, log)
            training = replace(training, options=options)
        tuned, logits, tested, how, held_out = training.run(progress or no_progress, log)
        head = tuned.model.linear_head()
        vectors = vectors_of(tuned.model, training.tokens(), np.arange(len(vectors)))
    if labelled.groups is None:
        how = how.replace("groups", "cells drawn at random")
    domain, known = fit_domain(
        vectors,
        labelled.truth,
        len(labelled.labels),
        folds,
        grouped=labelled.groups is not None,
        seed=options.seed,
        held_out=held_out,
    )
    calibration = calibrate(
        logits, labelled.truth[tested], folds[tested], options.accuracy, known=known[tested]
    )
    log_calibration(calibration, log)
    weight, bias = head.folded()
    saved = Head(
        labels=labelled.labels,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        about=about(embedder, labelled, calibration, how, tuned, options)
        | ({"trials": trials} if trials else {}),
        tensors=domain.tensors(),
    )
    save_finetuned(out, session, saved, tuned)
    return Finetuned(
        head=saved,
        calibration=calibration,
        labelled=labelled,
        epochs=tuned.epochs if tuned else 0,
    )


def about(
    embedder: Embedder,
    labelled: Labelled,
    calibration: Calibration,
    how: str,
    tuned: Tuned | None,
    options: FinetuneOptions,
) -> dict[str, Any]:
    """What a head's header says of where it comes from."""
    return {
        "mode": options.mode,
        "label": options.target,
        "group": options.group,
        "model": {"name": embedder.header.name, "hash": embedder.hash},
        "calibration": {"held_out_by": how, **calibration.as_json()},
        "cells": labelled.counts(),
        "left_out": labelled.left_out,
        "sources": labelled.sources,
        "epochs": tuned.epochs if tuned else 0,
        "options": asdict(options) | {"gene_list": options.gene_list and str(options.gene_list)},
        "cellscribe": metadata.version("cellscribe"),
    }


def save_finetuned(out: Path, session: Session, head: Head, tuned: Tuned | None) -> None:
    """Write the model's directory; it appears whole or not at all.

    Where only a head was trained, the weights are the very file of the model that was given.
    """
    header, folder = session.header, session.header.directory
    note = {"fine-tuned": f"{head.about['mode']} on {head.about['label']}, see head.json"}
    provenance = {**header.provenance, **note}
    trained: CellModel | None = None
    if tuned is not None:
        from cellscribe.annotation.tuning import merge_adapters

        trained = tuned.model.model
        merge_adapters(trained.trained_parts())
        trained.network.cpu()
    with writing(out) as partial:
        text = card(header.name, head, provenance.get("licence"))
        save_trained(partial, header, session.embedder.options, provenance, text, trained)
        save_head(partial, head)
        if (folder / TRAINED_CELLS).exists():  # what the base knows, this model knows
            shutil.copyfile(folder / TRAINED_CELLS, partial / TRAINED_CELLS)
        seal(partial)


def card(base: str, head: Head, licence: str | None = None) -> str:
    """README of a fine-tuned model, from what was measured; `licence` is that of its base."""
    facts, found = head.about, head.about["calibration"]
    trained = {
        "head": "A linear head on the frozen encoder",
        "last": f"A linear head and the last {facts['options']['layers']} layers",
        "lora": "A linear head and LoRA adapters, merged into the weights,",
        "all": "A linear head and the whole encoder",
    }[facts["mode"]]
    held, crossed, of = found["held_out"], found["crossed"], head.of
    verb = "annotate DATA" if of == "cells" else "genes CELLS"
    groups = (
        f"groups of {plain(facts['group'])}"
        if facts["group"]
        else f"random {of}" + (": no group was told" if of == "cells" else "")
    )
    lines = [
        f"# {plain(base)}, fine-tuned on {plain(facts['label'])}",
        "",
        f"{trained} learnt {plain(facts['label'])} from {sum(facts['cells'].values()):,} {of}. "
        f"Apply it with `cellscribe {verb} --model THIS_FOLDER -o OUT.csv`.",
        "",
        *(
            [f"**Licence of the weights that it began from: {plain(licence)}**", ""]
            if licence
            else []
        ),
        f"## On held-out {of}",
        "",
        f"Held out: {groups}; {found['held_out_by']}. Temperature and threshold of the first "
        f"column were chosen on the {of} that it is measured on; of the second, on other folds.",
        "",
        "| | chosen here | chosen on other folds |",
        "|---|---|---|",
    ]
    for key, (name, form) in FIGURES.items():
        cells = [
            "" if calls is None or calls[key] is None else format(calls[key], form)
            for calls in (held, crossed)
        ]
        lines.append(f"| {name.replace('cells', of)} | {cells[0]} | {cells[1]} |")
    lines += [
        "",
        f"Temperature {head.temperature:.3f} (calibration error without it "
        f"{found['error_before']:.3f}); below a probability of {head.threshold:.3f} a {of[:-1]} is "
        f"`unknown` (wanted: {found['wanted']:.0%} right).",
        "",
        *_trials(facts.get("trials", [])),
        "## Labels",
        "",
        f"| label | {of} |",
        "|---|---|",
        *(f"| {plain(label)} | {n:,} |" for label, n in facts["cells"].items()),
        "",
        *(f"- left out: {n:,} {of} ({plain(why)})" for why, n in facts["left_out"].items()),
        "",
        "## Sources",
        "",
        *(
            f"- {plain(source['name'])} ({source['cells']:,} cells"
            + (f", SHA-256 {source['hash']}…)" if source["hash"] else ")")
            for source in facts["sources"]
        ),
        f"- model: {plain(facts['model']['name'])} (hash {facts['model']['hash']})",
        "",
    ]
    return "\n".join(lines)


def _trials(trials: list[dict[str, Any]]) -> list[str]:
    """Table of a search, if there was one."""
    if not trials:
        return []
    names = [name for name in trials[0] if name not in ("best", "loss")]
    rows = [
        f"| {number} | "
        + " | ".join(f"{each[name]:.3g}" for name in names)
        + f" | {each['best']} | {'' if each['loss'] is None else format(each['loss'], '.4f')} |"
        for number, each in enumerate(trials, start=1)
    ]
    return [
        "## Trials",
        "",
        "Loss on the held-out part that ends a training; the part that calibrates was not looked "
        "at. The first trial is what was asked for.",
        "",
        f"| trial | {' | '.join(name.replace('_', ' ') for name in names)} | passes kept | loss |",
        "|---" * (len(names) + 3) + "|",
        *rows,
        "",
    ]
