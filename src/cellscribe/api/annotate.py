"""The verb annotate: labels given to cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.annotation.annotate import annotate_cells
from cellscribe.annotation.call_cells import Annotation
from cellscribe.annotation.heads_annotation import HeadsAnnotation
from cellscribe.annotation.output import (
    claim_annotated,
    probabilities_of,
    with_probabilities,
    write_annotation,
)
from cellscribe.annotation.seen import Seen
from cellscribe.api.embed import keep_about, to_change
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import AnnotateOptions, CountsKind, Precision, Species, choose_options
from cellscribe.config.annotate import Align
from cellscribe.config.renamed import former_keywords
from cellscribe.families.named import local_model
from cellscribe.inference.outputs import sidecar
from cellscribe.inference.session import DEFAULT_MODEL, choose_model, open_session
from cellscribe.lease import lease
from cellscribe.model.heads import has_head
from cellscribe.model.metadata import find_checkpoint
from cellscribe.writing import writing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.cells.counts import Counts
    from cellscribe.index.annotate import IndexAnnotation
    from cellscribe.inference.embedder import Embedder

IN_MEMORY = "in memory"
"""Stands in the options for a reference that is an AnnData."""


@former_keywords(say="log", neighbours="n_neighbors")
def annotate(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    reference: str | Path | AnnData | None = None,
    index: str | Path | None = None,
    label: str | None = None,
    group: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    n_neighbors: int | None = None,
    reference_species: Species | None = None,
    align: Align | None = None,
    probabilities: bool | None = None,
    accuracy: float | None = None,
    min_cells: int | None = None,
    folds: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    options: AnnotateOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData | pd.DataFrame | None:
    """Label the cells of an AnnData in place, or those of a file in a table.

    Parameters
    ----------
    source
        AnnData, in memory or backed, or a file of any known format. Raw counts.
    model
        A fine-tuned model, as a directory or loaded; with `reference`, the model whose vectors
        are compared.
    reference
        Labelled cells, whose nearest give the label; `label` names their column.
    index
        An index of labelled cells (`build_index`), whose nearest give the label. Without model,
        reference and index it is the one that comes with ``"mini"``: blood and pancreas.
    label, group
        Columns of the reference's obs: its labels, and groups that are held out whole.
    key_added
        Start of the names of the columns that obs gets (``"cellscribe"`` if not given).
    copy
        Leave an AnnData as it is and return a changed copy.
    layer, gene_key, species, modality, table, counts, device, precision, threads
        As for `embed`.
    pool, hidden_layer
        How a cell's vector is made, with a reference.
    n_neighbors
        Nearest reference cells that vote on a label, next to a classifier of all of them.
    reference_species
        Whose genes the reference has, if not the same as the input's.
    align
        How vectors are brought to those of the reference: ``"none"``, ``"center"``, ``"scale"``,
        ``"mnn"`` or ``"auto"`` (if not given).
    probabilities
        Give the probabilities of all labels too: ``obsm["cellscribe_probabilities"]``, whose labels
        are ``uns["cellscribe"]["annotation"]["labels"]``, or columns of the table of a file.
    accuracy, min_cells, folds
        As for `finetune`, of the reference.
    seed
        Seed of all random draws.
    options
        All settings at once, in place of the keywords.
    progress
        Called with (cells done, cells in all, name of the step).
    log
        Called with each line that a user should read.

    Returns
    -------
    AnnData, pandas.DataFrame or None
        None for an AnnData, whose ``obs`` then has ``cellscribe_label``,
        ``cellscribe_probability``, ``cellscribe_best``, ``cellscribe_second`` and
        ``cellscribe_distance`` (with an index whose labels are terms of the Cell Ontology also
        ``cellscribe_ontology_id``); the copy with `copy`; for a file a table of the
        same, a row a cell. A model of several columns of labels gives these for each, its name
        before them (``cellscribe_cell_type_label``); one that has learnt a number gives
        ``cellscribe_prediction``, ``cellscribe_low`` and ``cellscribe_high``.

    Raises
    ------
    InputError
        Bad input, or settings given both by keyword and in `options`.
    """
    given: dict[str, Any] = {
        "reference": _named(reference),
        "index": None if index is None else str(index),
        "label": label,
        "group": group,
        "key_added": key_added,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "n_neighbors": n_neighbors,
        "reference_species": reference_species,
        "align": align,
        "probabilities": probabilities,
        "accuracy": accuracy,
        "min_cells": min_cells,
        "folds": folds,
        "seed": seed,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(AnnotateOptions, options, "annotate", given)
    with _annotated(source, options, model, reference, progress, log) as (done, opened):
        labelled = done.table(opened.obs.index)
    if isinstance(source, str | Path):
        return with_probabilities(labelled, done)
    adata = to_change(source, copy=copy)
    for name in labelled:
        adata.obs[f"{options.key_added}_{name}"] = labelled[name].array
    for found in probabilities_of(done):
        adata.obsm[f"{options.key_added}_{found.prefix}probabilities"] = found.each
    keep_about(adata, "annotation", done.about)
    return adata if copy else None


@former_keywords(say="log", neighbours="n_neighbors")
def annotate_file(
    source: str | Path | AnnData,
    out: str | Path,
    options: AnnotateOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    reference: str | Path | AnnData | None = None,
    index: str | Path | None = None,
    label: str | None = None,
    overwrite: bool | None = None,
    report: str | Path | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Annotation | HeadsAnnotation | IndexAnnotation:
    """Label every cell of `source` into ``.csv``, ``.parquet`` or a copy as ``.h5ad``.

    Parameters
    ----------
    source, model, reference, index, label, progress, log
        As for `annotate`.
    out
        The output; it appears when it is whole.
    options
        All settings at once, in place of `reference`, `index`, `label` and `overwrite`.
    overwrite
        Replace `out` if it exists.
    report
        Also write a self-contained HTML page here: whether the cells lie outside of what the labels
        come from, what was called, a map, and the figures of held-out cells. With a reference the
        baselines are fitted for it too.

    Raises
    ------
    InputError
        Bad input or options, a full disk.
    """
    given: dict[str, Any] = {
        "reference": _named(reference),
        "index": None if index is None else str(index),
        "label": label,
        "overwrite": overwrite,
    }
    options, out = choose_options(AnnotateOptions, options, "annotate_file", given), Path(out)
    inputs = [source, options.reference if reference is None else reference]
    paths = [Path(path) for path in inputs if isinstance(path, str | Path)]
    seen, page = (None, None) if report is None else (Seen(), Path(report))
    if page is not None:
        from cellscribe.report.embedding_files import check_drawn

        for path in [*paths, None]:
            check_drawn(path, [page], [out, sidecar(out)])
    with ExitStack() as stack:
        stack.enter_context(claim_annotated(out, paths, overwrite=options.overwrite))
        if page is not None:
            stack.enter_context(lease(page))
        done, opened = stack.enter_context(
            _annotated(source, options, model, reference, progress, log, seen)
        )
        text = ""
        if seen is not None:
            from cellscribe.report.annotation_page import render_annotated

            table = done.table(opened.obs.index)
            text = render_annotated(done, table, seen, source=Path(opened.name).name)
        write_annotation(out, done, opened, options.key_added)
        if page is not None:
            with writing(page) as partial:
                partial.write_text(text, encoding="utf-8")
    return done


@contextmanager
def _annotated(
    source: str | Path | AnnData,
    options: AnnotateOptions,
    model: str | Path | Embedder | None,
    reference: str | Path | AnnData | None,
    progress: Progress | None,
    log: Log,
    seen: Seen | None = None,
) -> Iterator[tuple[Annotation | HeadsAnnotation | IndexAnnotation, Counts]]:
    """Call every cell of a source, which is open meanwhile."""
    from cellscribe.index.annotate import annotate_by_index, what_it_knows
    from cellscribe.index.made_by import session_for
    from cellscribe.index.store import bundled_index, open_index

    if options.index is None and reference is None and options.reference is None:
        directory = _directory(choose_model(model, options))
        bundled = None if has_head(directory) else bundled_index(directory)
        if bundled is not None:
            options = replace(options, index=str(bundled))
            log(
                f"No fine-tuned model, reference or index is given: labels come from the index of "
                f"{directory.name}. {what_it_knows(open_index(bundled))}"
            )
    if options.index is None:
        with open_session(model, options, log=log) as session:
            yield annotate_cells(
                session, source, options, reference=reference, seen=seen, progress=progress
            )
        return
    index = open_index(options.index)
    if model is None and options.model != DEFAULT_MODEL:
        model = options.model
    with session_for(index, options, model, log=log) as session:
        yield annotate_by_index(session, index, source, options, seen=seen, progress=progress)


def _directory(model: str | Path | Embedder) -> Path:
    """Directory of a model, loaded or not."""
    return (
        find_checkpoint(local_model(model))
        if isinstance(model, str | Path)
        else model.header.directory
    )


def _named(reference: str | Path | AnnData | None) -> str | None:
    """A reference as options can hold it."""
    if reference is None:
        return None
    return str(reference) if isinstance(reference, str | Path) else IN_MEMORY
