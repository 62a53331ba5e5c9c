"""Labels of cells: vectors block by block, called by a fine-tuned head or a labelled reference.

What is kept a cell is its best label and that label's probability, so memory does not grow with the
counts. A cell that is not called, and one without a count on a known gene, is ``unknown``.

Letters: ``B`` cells, ``D`` width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.calibration import log_calibration
from cellscribe.annotation.labels import (
    Labelled,
    check_labels,
    log_folds,
    read_labels,
)
from cellscribe.annotation.neighbors import Reference, fit_reference
from cellscribe.callbacks import Progress, in_step
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.config import AnnotateOptions
from cellscribe.errors import InputError
from cellscribe.escaping import safe_cells
from cellscribe.inference.outputs import (
    keep_facts,
    need_groups,
    sidecar,
    write_cells,
    write_element,
)
from cellscribe.inference.session import Cells, Session
from cellscribe.lease import claim
from cellscribe.model.heads import UNKNOWN, Head, best_of, load_head
from cellscribe.writing import writing

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

FORMS = (".csv", ".parquet", ".h5ad")

Call = Callable[[npt.NDArray[np.floating]], tuple[Any, Any, Any]]
"""Vectors ``[B, D]`` to best class, its probability, and whether it is called."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What each cell of a file is called."""

    labels: list[str]
    best: npt.NDArray[np.int32]
    """``[B]`` best class, -1 for a cell without a count on a known gene."""
    probability: npt.NDArray[np.float32]
    """``[B]`` of the best label."""
    called: npt.NDArray[np.bool_]
    """``[B]`` whether the cell gets its best label."""
    genes: GeneMap
    about: dict[str, Any]
    """Where the labels come from, as plain values."""

    @property
    def n_empty(self) -> int:
        """Cells without a count on a known gene."""
        return int((self.best < 0).sum())

    @property
    def n_unknown(self) -> int:
        """Cells that are not called, empty ones among them."""
        return int((~self.called).sum())

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell: ``label``, ``probability``, ``best``."""
        kinds = pd.Index([*self.labels, UNKNOWN])
        last = len(self.labels)
        best = np.where(self.best < 0, last, self.best)
        label = np.where(self.called, best, last)
        return pd.DataFrame(
            {
                "label": pd.Categorical.from_codes(label, kinds),
                "probability": self.probability,
                "best": pd.Categorical.from_codes(best, kinds),
            },
            index=pd.Index(names, name="cell_id"),
        )

    def counts(self) -> dict[str, int]:
        """Cells by the label that they get, `UNKNOWN` last."""
        numbers = np.bincount(self.best[self.called], minlength=len(self.labels))
        found = {label: int(n) for label, n in zip(self.labels, numbers, strict=True)}
        return found | {UNKNOWN: self.n_unknown}


class Labelling(Protocol):
    """What is written of an annotation, wherever its labels come from."""

    @property
    def about(self) -> dict[str, Any]:
        """Where the labels come from, as plain values."""

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell, texts as categories."""


def call_by_head(head: Head) -> Call:
    """Calls of a fine-tuned head."""

    def call(vectors: npt.NDArray[np.floating]) -> tuple[Any, Any, Any]:
        best, probability = best_of(head.probabilities(vectors))
        return best, probability, probability >= head.threshold

    return call


def call_cells(
    source: Cells,
    embedder: Embedder,
    labels: list[str],
    call: Call,
    about: Mapping[str, Any],
    *,
    progress: Progress | None = None,
) -> Annotation:
    """Call every cell of opened counts.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows, or the counts are bad.
    """
    counts, genes = source.counts, source.genes
    best = np.full(counts.n_cells, -1, np.int32)
    probability = np.zeros(counts.n_cells, np.float32)
    called = np.zeros(counts.n_cells, bool)
    done = 0
    for block in embedder.blocks(counts, genes, progress=progress):
        rows = done + np.flatnonzero(block.cells.lengths)
        if len(rows):
            best[rows], probability[rows], called[rows] = call(block.vectors[rows - done])
        done += len(block.vectors)
    if (best < 0).all():
        raise InputError(f"{counts.name}: no cell has a count on a gene that the model knows")
    return Annotation(
        labels=labels,
        best=best,
        probability=probability,
        called=called,
        genes=genes,
        about=dict(about),
    )


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
        labels, call = head.labels, call_by_head(head)
    else:
        opened, labelled = _open_reference(session, reference, options)
        voters, about = _fit_reference(session, opened, labelled, options, progress)
        labels, call = voters.labels, voters.call
    annotation = call_cells(
        cells,
        session.embedder,
        labels,
        call,
        session.about(cells, **about),
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
    return session.map_genes(counts), labelled


def _fit_reference(
    session: Session,
    opened: Cells,
    labelled: Labelled,
    options: AnnotateOptions,
    progress: Progress | None,
) -> tuple[Reference, dict[str, Any]]:
    """Embed a reference and make it ready to vote."""
    step = in_step(progress, "Embedding the reference")
    vectors, _ = session.embedder.embed_counts(opened.counts, opened.genes, progress=step)
    vectors = vectors[labelled.rows[0]]
    filled = vectors.any(axis=1)
    labelled = labelled.keep(filled)
    check_labels(labelled, [opened.counts])
    log_folds(labelled, options.group, session.log)
    voters = fit_reference(
        vectors[filled].astype(np.float64),
        labelled,
        n_neighbors=options.n_neighbors,
        folds=options.folds,
        accuracy=options.accuracy,
        seed=options.seed,
    )
    log_calibration(voters.calibration, session.log)
    found = voters.calibration.crossed or voters.calibration.held_out
    return voters, {
        "by": "reference",
        "label": str(options.label),
        "group": options.group or "",
        "reference": labelled.sources[0]["name"],
        "reference_hash": labelled.sources[0]["hash"] or "",
        "reference_cells": len(labelled.truth),
        "n_neighbors": options.n_neighbors,
        "threshold": voters.calibration.threshold,
        "limit": voters.limit,
        "held_out_accuracy": found.accuracy,
        "held_out_coverage": found.coverage,
    }


def claim_annotated(
    out: Path, sources: list[Path], *, overwrite: bool
) -> AbstractContextManager[None]:
    """Hold an output before anything is opened for it.

    Raises
    ------
    InputError
        Unknown form, or `claim` refuses it.
    """
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in one of {', '.join(FORMS)}")
    beside = [] if out.suffix == ".h5ad" else [sidecar(out)]
    return claim(out, sources, overwrite=overwrite, beside=beside)


def write_annotation(out: Path, annotation: Labelling, counts: Counts, key_added: str) -> None:
    """Write the calls as a table, or as columns of a copy of the input's AnnData.

    Raises
    ------
    OutputError
        The disk is full, or the place not writable.
    InputError
        The input is of an AnnData version whose obs cannot be added to.
    """
    table = annotation.table(counts.obs.index)
    if out.suffix == ".h5ad":
        with writing(out) as partial:
            _write_h5ad(partial, table, counts, annotation.about, key_added)
        return
    with writing(out) as partial:
        if out.suffix == ".csv":
            safe_cells(table).to_csv(partial, float_format="%.6g")
        else:
            # The texts, not categories: every reader of Parquet takes them for what they are.
            texts = {name: str for name in table if table[name].dtype == "category"}
            plain = table.astype(texts).reset_index()
            plain.to_parquet(partial, index=False)
        with writing(sidecar(out)) as note:
            note.write_text(json.dumps(annotation.about, indent=2) + "\n", encoding="utf-8")


def _write_h5ad(
    path: Path, table: pd.DataFrame, counts: Counts, about: Mapping[str, Any], key_added: str
) -> None:
    import h5py

    copied = counts.form == "h5ad" and counts.path is not None
    if copied:
        assert counts.path is not None
        shutil.copyfile(counts.path, path)
    with h5py.File(path, "r+" if copied else "w") as root:
        if not copied:
            write_cells(root, counts)
        need_groups(root, ("obs", "uns"), counts.name, ".csv")
        obs = root["obs"]
        order = [str(name) for name in obs.attrs["column-order"]]
        for name in table:
            column, values = f"{key_added}_{name}", table[name].array
            if column in obs:
                del obs[column]
            coded = table[name].dtype == "category"
            write_element(obs, column, values if coded else np.asarray(values))
            order = [*(other for other in order if other != column), column]
        obs.attrs.create("column-order", order, dtype=h5py.string_dtype())
        keep_facts(root, "annotation", about)
