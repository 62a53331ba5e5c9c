"""The verb finetune: labels learnt from annotated cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.annotation.compare import tell
from cellscribe.annotation.finetune import Finetuned, Page, finetune_model
from cellscribe.annotation.gene_classes import finetune_genes
from cellscribe.annotation.judged import Judged
from cellscribe.annotation.measured import read_target
from cellscribe.annotation.regression import (
    FinetunedNumber,
    HeldOutNumbers,
    NumberPage,
    finetune_number,
)
from cellscribe.annotation.several_labels import read_columns
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import (
    CountsKind,
    FinetuneOptions,
    ModelOptions,
    Precision,
    Species,
    choose_options,
)
from cellscribe.config.finetune import Mode
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.session import Session, open_session, part_of
from cellscribe.lease import claim
from cellscribe.model.several_heads import NumberHead

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


@former_keywords(say="log", fewest_cells="min_cells")
def finetune(
    model: str | Path | Embedder,
    data: str | Path | AnnData | Sequence[str | Path | AnnData],
    out: str | Path,
    options: FinetuneOptions | None = None,
    *,
    label: str | Sequence[str] | None = None,
    loss_weight: Mapping[str, float] | None = None,
    target: str | None = None,
    coverage: float | None = None,
    gene_list: str | Path | None = None,
    group: str | None = None,
    mode: Mode | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    layers: int | None = None,
    accuracy: float | None = None,
    min_cells: int | None = None,
    folds: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    trials: int | None = None,
    no_report: bool | None = None,
    compare: bool | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    overwrite: bool | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Finetuned | FinetunedNumber:
    """Learn labels from annotated cells or genes, and save a model that gives them to others.

    Parameters
    ----------
    model
        A bundled model's name, a checkpoint directory or a loaded model.
    data
        One or several files, or AnnData, of raw counts with labels in obs.
    out
        The new model's directory; it appears whole or not at all.
    options
        All settings at once, in place of the keywords from `label` to `overwrite`.
    label
        Column of obs with the labels to learn, or several: a head for each, on one encoder. A cell
        with a label in one of them is learnt from for that one.
    loss_weight
        Weight of each column's loss where layers are trained for several (1 if not named).
    target
        In place of `label`, a column of obs with a number: age, dose, score. `annotate` then gives
        its prediction with an interval.
    coverage
        Share of new cells that this interval is to hold (0.9 if not given).
    gene_list
        In place of `label`, a CSV or TSV with columns gene and label: labels of genes are learnt
        from their vectors over the cells of `data`, and `embed_genes` gives them.
    group
        Column of obs whose groups are held out whole: donor, batch or dataset.
    mode
        What is trained: ``"head"`` (default), ``"last"`` layers, ``"lora"`` adapters or ``"all"``.
    pool, hidden_layer
        How a cell's vector is made; kept in the new model. ``"conv"``, of scBERT, is the published
        classifier's convolution over genes, which is then trained.
    layers
        Last layers that are trained with ``mode="last"``.
    accuracy, min_cells, folds
        Accuracy wanted among the held-out cells that get a label, fewest cells of a label, and
        parts of the groups that are held out in turn.
    epochs, learning_rate
        Most passes over the cells, and the peak rate, where layers are trained.
    trials
        Recipes that are tried on held-out groups before (needs Optuna): learning rate, layers and
        passes. They are in the new model's README and ``head.json``.
    no_report
        Leave out ``report.html`` and ``metrics.json``: figures of each label on held-out cells, and
        of baselines that are fitted on the same folds.
    compare
        Train head, last layers and adapters too, on the same folds, and say which way is best for
        these cells, ours or not; `mode` is saved all the same.
    seed
        Seed of all random draws.
    layer, gene_key, species, modality, table, counts, device, precision, threads
        As for `embed`.
    overwrite
        Replace `out` if it exists.
    progress
        Called with (cells done, cells in all, name of the step).
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        Bad input, in one line that says how to fix it.
    """
    given: dict[str, Any] = {
        "label": label if label is None or isinstance(label, str) else tuple(label),
        "loss_weight": None
        if loss_weight is None
        else tuple(f"{name}={weight}" for name, weight in loss_weight.items()),
        "target": target,
        "coverage": coverage,
        "gene_list": None if gene_list is None else Path(gene_list),
        "group": group,
        "mode": mode,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "layers": layers,
        "accuracy": accuracy,
        "min_cells": min_cells,
        "folds": folds,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "trials": trials,
        "no_report": no_report,
        "compare": compare,
        "seed": seed,
        "device": device,
        "precision": precision,
        "threads": threads,
        "overwrite": overwrite,
    }
    options = choose_options(FinetuneOptions, options, "finetune", given)
    several = isinstance(data, Sequence) and not isinstance(data, str)
    sources: list[Any] = list(data) if several else [data]  # type: ignore[arg-type]
    out = Path(out)
    paths = [Path(source) for source in sources if isinstance(source, str | Path)]
    with ExitStack() as stack:
        session = stack.enter_context(open_session(model, options, log=log))
        inputs = [session.header.directory, *paths]
        stack.enter_context(claim(out, inputs, overwrite=options.overwrite, is_folder=True))
        _begin(session, options)
        opened = [session.open_counts(source) for source in sources]
        if options.gene_list is not None:
            cells = [session.map_genes(counts, options.gene_key) for counts in opened]
            return finetune_genes(session, cells, out, options, progress=progress)
        if options.target is not None:
            measured = read_target(
                opened, options.target, options.group, options.min_cells, log=session.log
            )
            cells = [session.map_genes(counts, options.gene_key) for counts in opened]
            number_page = None if options.no_report else _number_page(session.header.name, paths)
            return finetune_number(
                session, cells, measured, out, options, page=number_page, progress=progress
            )
        columns = read_columns(
            opened, options.labels, options.group, options.min_cells, log=session.log
        )
        cells = [session.map_genes(counts, options.gene_key) for counts in opened]
        page = _page(session.header.name, paths) if not options.no_report else None
        done = finetune_model(session, cells, columns, out, options, page=page, progress=progress)
    if options.compare:
        for each in done.judged:
            tell(each.metrics["comparison"], log)
    return done


def _page(base: str, paths: Sequence[Path]) -> Page:
    """Make the page of a model that is fine-tuned from another."""

    def page(judged: Sequence[Judged], about: Mapping[str, Any]) -> str:
        from cellscribe.report.label_page import render_finetuned

        names = ", ".join(each.metrics["label"] for each in judged)
        return render_finetuned(
            judged,
            title=f"{base}, fine-tuned on {names}",
            source=", ".join(path.name for path in paths) or "cells in memory",
            facts={
                "Labels from": names,
                "Held out": about["calibration"]["held_out_by"],
                **_facts(about),
            },
        )

    return page


def _number_page(base: str, paths: Sequence[Path]) -> NumberPage:
    """Make the page of a model that predicts a number."""

    def page(found: HeldOutNumbers, head: NumberHead) -> str:
        from cellscribe.report.number_page import render_number

        return render_number(
            found,
            head,
            title=f"{base}, fine-tuned on {head.target}",
            source=", ".join(path.name for path in paths) or "cells in memory",
            facts={
                "Number from": head.target,
                "Held out": head.about["held_out"]["by"],
                **_facts(head.about),
            },
        )

    return page


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    """Provenance of a head, as a page has it."""
    return {
        "Trained": about["mode"],
        "Groups": about["group"] or "none",
        "Model": f"{about['model']['name']} (hash {about['model']['hash']})",
        "Sources": "; ".join(
            f"{each['name']}, {each['cells']:,} cells" for each in about["sources"]
        ),
        "cellscribe": about["cellscribe"],
    }


def _begin(session: Session, options: FinetuneOptions) -> None:
    """Add to the model what the wanted vector needs and published weights lack."""
    header = session.header.to_train(part_of(ModelOptions, options), options.seed)
    if header.untrained is not None and options.mode == "head":
        raise InputError(
            f"--pool {options.pool}: {header.name} has no such layers, so they are to be trained; "
            "take --mode last, lora or all"
        )
    session.header = header
