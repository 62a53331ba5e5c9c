"""Labels of cells: vectors block by block, called by a fine-tuned head or a labelled reference.

Vectors are kept, on the disk where they are many, until all cells are embedded: how the file lies
next to the reference is known only then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.annotation.calibration import log_calibration
from cellscribe.annotation.call_cells import Annotation, call_cells
from cellscribe.annotation.calls import caller_of_head, caller_of_reference
from cellscribe.annotation.embedded import embed_cells
from cellscribe.annotation.heads_annotation import (
    HeadsAnnotation,
    Numbers,
    check_options,
    heads_annotation,
    predict_numbers,
)
from cellscribe.annotation.kept_metrics import read_metrics
from cellscribe.annotation.labels import (
    Labelled,
    check_labels,
    log_folds,
    read_labels,
)
from cellscribe.annotation.neighbors import CONTRADICTORY
from cellscribe.annotation.reference import Reference, fit_reference
from cellscribe.annotation.seen import Seen
from cellscribe.annotation.several_labels import naming
from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.cells.counts import Counts
from cellscribe.config import AnnotateOptions
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells, Session
from cellscribe.model.heads import Head
from cellscribe.model.several_heads import NumberHead, load_heads, name_of

if TYPE_CHECKING:
    from anndata import AnnData

FEW_GENES = 0.5
"""Share of the reference's genes below which a query is said to have other ones."""


def annotate_cells(
    session: Session,
    source: str | Path | AnnData,
    options: AnnotateOptions,
    *,
    reference: str | Path | AnnData | None = None,
    seen: Seen | None = None,
    progress: Progress | None = None,
) -> tuple[Annotation | HeadsAnnotation, Counts]:
    """Call every cell of a source with a fine-tuned model or a labelled reference.

    Parameters
    ----------
    session
        The model and the device.
    source
        Cells to call.
    options
        Reference and all the rest.
    reference
        Labelled cells, in place of `options.reference`, which only a path can be.
    seen
        Takes what a page shows.
    progress
        Called with (cells done, cells in all, name of the step).

    Returns
    -------
    annotation
        The calls and their provenance.
    counts
        The opened source.

    Raises
    ------
    InputError
        The model has no head and there is no reference, or bad input.
    """
    reference = options.reference if reference is None else reference
    counts = session.open_counts(source)
    heads = [] if reference is not None else load_heads(session.header.directory)
    if heads and (options.pool, options.hidden_layer) != (None, None):
        raise InputError(
            f"{session.header.name}: the head reads the vectors that it was trained on; leave out "
            "--pool and --hidden-layer, or fine-tune anew with them"
        )
    cells = session.map_genes(counts, options.gene_key)
    # All that can be refused without torch is refused before it is imported.
    if heads:
        check_options(heads, options)
        callers = {
            name_of(head): (caller_of_head(head), _about_head(head))
            for head in heads
            if isinstance(head, Head)
        }
        if heads[0].weight.shape[1] != (width := session.embedder.width):
            raise InputError(
                f"{session.header.directory}: the head reads vectors of "
                f"{heads[0].weight.shape[1]:,} values, the model makes {width:,}; they belong to "
                "different models"
            )
    else:
        opened, labelled = _open_reference(session, reference, options)
        about = _compare_genes(cells, opened, session.log)
        found, facts = _fit_reference(session, opened, labelled, options, seen, progress)
        callers = {str(options.label): (caller_of_reference(found), about | facts)}
    with embed_cells(cells, session.embedder, in_step(progress, "Annotating")) as embedded:
        named: dict[str, Annotation | Numbers] = {}
        for name, (caller, about) in callers.items():
            log = session.log if len(heads) < 2 else naming(name, session.log)
            named[name] = call_cells(
                embedded, cells.genes, caller, options, session.about(cells, **about), log=log
            )
        for head in heads:
            if isinstance(head, NumberHead):
                named[name_of(head)] = predict_numbers(embedded, head, session.log)
        if seen is not None:
            seen.take(embedded.blocks(), cells.counts.n_cells, options.seed)
            seen.metrics += read_metrics(session.header.directory) if heads else []
        first = next(iter(named.values()))
        if len(named) == 1 and isinstance(first, Annotation):
            return first, cells.counts
        about = session.about(cells, by="heads")
        return heads_annotation(named, embedded, cells.genes, about), cells.counts


def _about_head(head: Head) -> dict[str, Any]:
    """Where the labels of a head come from."""
    return {
        "by": "head",
        "label": head.about.get("label", ""),
        "temperature": head.temperature,
        "threshold": head.threshold,
    }


def _open_reference(
    session: Session, reference: str | Path | AnnData | None, options: AnnotateOptions
) -> tuple[Cells, Labelled]:
    """Open a reference and read its labels."""
    assert reference is not None
    assert options.label is not None
    counts = session.open_counts(reference, layer=options.reference_layer or "X")
    labelled = read_labels(
        [counts], options.label, options.group, options.min_cells, log=session.log
    )
    return session.map_genes(counts, species=options.reference_species), labelled


def _compare_genes(query: Cells, reference: Cells, log: Log) -> dict[str, Any]:
    """Say where a query lacks the genes by which the reference's cells are known."""
    mine, theirs = (
        np.unique(each.genes.token[each.genes.token >= 0]) for each in (query, reference)
    )
    shared = len(np.intersect1d(mine, theirs))
    if shared < FEW_GENES * len(theirs):
        log(
            f"Warning: {query.counts.name} has {shared:,} of the {len(theirs):,} genes of the "
            "reference; labels rest on these alone, and held-out figures do not hold for them."
        )
    return {"genes_shared": shared, "genes_reference": len(theirs)}


def _fit_reference(
    session: Session,
    opened: Cells,
    labelled: Labelled,
    options: AnnotateOptions,
    seen: Seen | None,
    progress: Progress | None,
) -> tuple[Reference, dict[str, Any]]:
    """Embed a reference and learn from it."""
    step = in_step(progress, "Embedding the reference")
    vectors, _ = session.embedder.embed_counts(opened.counts, opened.genes, progress=step)
    vectors = vectors[labelled.rows[0]]
    filled = vectors.any(axis=1)
    labelled = labelled.keep(filled)
    check_labels(labelled, [opened.counts])
    log_folds(labelled, options.group, session.log)
    fitted = fit_reference(
        vectors[filled].astype(np.float64),
        labelled,
        n_neighbors=options.n_neighbors,
        folds=options.folds,
        accuracy=options.accuracy,
        seed=options.seed,
    )
    session.log(fitted.calibration.summary())
    log_calibration(fitted.calibration, session.log)
    if seen is not None:
        seen.judge(fitted, opened, labelled, vectors[filled], options, progress)
    disagreement = fitted.contradictions
    if disagreement.share >= CONTRADICTORY:
        session.log(f"Warning: {disagreement.sentence()}")
    found = fitted.calibration.crossed or fitted.calibration.held_out
    return fitted, {
        "by": "reference",
        "label": str(options.label),
        "group": options.group or "",
        "reference": labelled.sources[0]["name"],
        "reference_hash": labelled.sources[0]["hash"] or "",
        "reference_cells": len(labelled.truth),
        "n_neighbors": options.n_neighbors,
        "neighbours_weight": fitted.neighbours_weight,
        "temperature": fitted.calibration.temperature,
        "threshold": fitted.calibration.threshold,
        "held_out_accuracy": found.accuracy,
        "held_out_coverage": found.coverage,
        "held_out_error": found.error,
        "contradicted": disagreement.share,
    }
