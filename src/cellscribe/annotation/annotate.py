"""Labels of cells: vectors block by block, called by a fine-tuned head or a labelled reference.

Vectors are kept, on the disk where they are many, until all cells are embedded: how the file lies
next to the reference is known only then. What is kept a cell afterwards is its best labels and
their probability, so memory does not grow with the counts. A cell that is not called, and one
without a count on a known gene, is ``unknown``.

Letters: ``B`` cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.calibration import log_calibration
from cellscribe.annotation.calls import Caller, caller_of_head, caller_of_reference
from cellscribe.annotation.labels import (
    Labelled,
    check_labels,
    log_folds,
    read_labels,
)
from cellscribe.annotation.reference import Reference, fit_reference
from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.config import AnnotateOptions
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells, Session
from cellscribe.model.heads import UNKNOWN, load_head
from cellscribe.writing import disk_errors

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

IN_MEMORY = 1 << 28
"""Bytes of vectors above which they lie on the disk."""
SAMPLE = 2_000
"""Cells by which it is measured how a file lies next to the reference."""
FEW_GENES = 0.5
"""Share of the reference's genes below which a query is said to have other ones."""
CONTRADICTORY = 0.1
"""Share of contradicted labels from which on a reference is warned of."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What each cell of a file is called."""

    labels: list[str]
    best: npt.NDArray[np.int32]
    """``[B]`` best class, -1 for a cell without a count on a known gene."""
    second: npt.NDArray[np.int32]
    """``[B]`` second best class, likewise."""
    probability: npt.NDArray[np.float32]
    """``[B]`` of the best label."""
    distance: npt.NDArray[np.float32]
    """``[B]`` from the reference, 1 where 95 % of its held-out cells are nearer; NaN if unknown."""
    called: npt.NDArray[np.bool_]
    """``[B]`` whether the cell gets its best label."""
    each: npt.NDArray[np.float32] | None
    """``[B, C]`` probabilities of all labels, where asked for."""
    genes: GeneMap
    about: dict[str, Any]
    """Where the labels come from, as plain values; ``shift`` is how the cells lie next to that."""

    @property
    def n_empty(self) -> int:
        """Cells without a count on a known gene."""
        return int((self.best < 0).sum())

    @property
    def n_unknown(self) -> int:
        """Cells that are not called, empty ones among them."""
        return int((~self.called).sum())

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: ``label``, ``probability``, ``best``, ``second``, ``distance``."""
        kinds = pd.Index([*self.labels, UNKNOWN])
        last = len(self.labels)
        best, second = (np.where(each < 0, last, each) for each in (self.best, self.second))
        label = np.where(self.called, best, last)
        return pd.DataFrame(
            {
                "label": pd.Categorical.from_codes(label, kinds),
                "probability": self.probability,
                "best": pd.Categorical.from_codes(best, kinds),
                "second": pd.Categorical.from_codes(second, kinds),
                "distance": self.distance,
            },
            index=pd.Index(names, name="cell_id"),
        )

    def counts(self) -> dict[str, int]:
        """Cells by the label that they get, `UNKNOWN` last."""
        numbers = np.bincount(self.best[self.called], minlength=len(self.labels))
        found = {label: int(n) for label, n in zip(self.labels, numbers, strict=True)}
        return found | {UNKNOWN: self.n_unknown}


def call_cells(
    source: Cells,
    embedder: Embedder,
    caller: Caller,
    options: AnnotateOptions,
    about: Mapping[str, Any],
    *,
    log: Log,
    progress: Progress | None = None,
) -> Annotation:
    """Call every cell of opened counts.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows, or the counts are bad.
    """
    n_cells, n_labels = source.counts.n_cells, len(caller.labels)
    best, second = np.full((2, n_cells), -1, np.int32)
    probability, distance = np.zeros(n_cells, np.float32), np.full(n_cells, np.nan, np.float32)
    called = np.zeros(n_cells, bool)
    each = np.zeros((n_cells, n_labels), np.float32) if options.probabilities else None
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        filled = _embed(source, embedder, spool, progress)
        if not filled.any():
            raise InputError(
                f"{source.counts.name}: no cell has a count on a gene that the model knows"
            )
        sample = _sample(spool, filled, embedder.width, options.seed)
        caller, shift = caller.meet(sample, options.align, log)
        for rows, vectors in _blocks(spool, filled, embedder.width):
            found = caller.call(vectors)
            best[rows], second[rows] = found.best, found.second
            probability[rows], called[rows] = found.probability, found.called
            distance[rows] = found.distance
            if each is not None:
                each[rows] = found.each
    more: dict[str, Any] = {"labels": caller.labels}
    if shift is not None and caller.alignment is not None:
        more |= {"shift": shift.as_json(), "align": caller.alignment.name}
    return Annotation(
        labels=caller.labels,
        best=best,
        second=second,
        probability=probability,
        distance=distance,
        called=called,
        each=each,
        genes=source.genes,
        about={**about, **more},
    )


def _embed(
    source: Cells, embedder: Embedder, spool: IO[bytes], progress: Progress | None
) -> npt.NDArray[np.bool_]:
    """Write the vectors of all cells, one after the other; tell which cells are not empty."""
    filled = np.zeros(source.counts.n_cells, bool)
    done = 0
    for block in embedder.blocks(source.counts, source.genes, progress=progress):
        filled[done : done + len(block.vectors)] = np.asarray(block.cells.lengths) > 0
        with disk_errors(tempfile.gettempdir(), "free some space, or set TMPDIR to another folder"):
            spool.write(np.asarray(block.vectors, np.float32).tobytes())
        done += len(block.vectors)
    return filled


def _blocks(
    spool: IO[bytes], filled: npt.NDArray[np.bool_], width: int, cells: int = 1 << 14
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
    """Rows of cells that are not empty, and their vectors, block by block."""
    spool.seek(0)
    for start in range(0, len(filled), cells):
        here = filled[start : start + cells]
        vectors = np.frombuffer(spool.read(4 * width * len(here)), np.float32)
        if here.any():
            yield start + np.flatnonzero(here), vectors.reshape(-1, width)[here]


def _sample(
    spool: IO[bytes], filled: npt.NDArray[np.bool_], width: int, seed: int
) -> npt.NDArray[np.float32]:
    """Vectors of some cells that are not empty, drawn at random."""
    rows = np.flatnonzero(filled)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    parts = []
    for row in rows:
        spool.seek(4 * width * int(row))
        parts.append(np.frombuffer(spool.read(4 * width), np.float32))
    return np.stack(parts)


def annotate_cells(
    session: Session,
    source: str | Path | AnnData,
    options: AnnotateOptions,
    *,
    reference: str | Path | AnnData | None = None,
    progress: Progress | None = None,
) -> tuple[Annotation, Counts]:
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
    head = None if reference is not None else load_head(session.header.directory)
    if head is not None and (options.pool, options.hidden_layer) != (None, None):
        raise InputError(
            f"{session.header.name}: the head reads the vectors that it was trained on; leave out "
            "--pool and --hidden-layer, or fine-tune anew with them"
        )
    cells = session.map_genes(counts, options.gene_key)
    # All that can be refused without torch is refused before it is imported.
    if head is not None:
        caller = caller_of_head(head)
        about = {
            "by": "head",
            "label": head.about.get("label", ""),
            "temperature": head.temperature,
            "threshold": head.threshold,
        }
        if head.weight.shape[1] != (width := session.embedder.width):
            raise InputError(
                f"{session.header.directory}: the head reads vectors of {head.weight.shape[1]:,} "
                f"values, the model makes {width:,}; they belong to different models"
            )
    else:
        opened, labelled = _open_reference(session, reference, options)
        about = _compare_genes(cells, opened, session.log)
        found, facts = _fit_reference(session, opened, labelled, options, progress)
        caller, about = caller_of_reference(found), about | facts
    annotation = call_cells(
        cells,
        session.embedder,
        caller,
        options,
        session.about(cells, **about),
        log=session.log,
        progress=in_step(progress, "Annotating"),
    )
    return annotation, cells.counts


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
