"""Labels of cells: vectors block by block, called by a fine-tuned head or a labelled reference.

What is kept a cell is its best label and that label's probability, so memory does not grow with the
counts. A cell that is not called, and one without a count on a known gene, is ``unknown``.

Letters: ``B`` cells, ``D`` width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.calibration import tell_of_calibration
from cellscribe.annotation.labels import (
    Labelled,
    Log,
    check_labels,
    read_labels,
    tell_of_folds,
)
from cellscribe.annotation.neighbors import Reference, fit_reference
from cellscribe.callbacks import Progress, in_step, log_stderr
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.genes import GeneMap
from cellscribe.config import AnnotateOptions
from cellscribe.errors import InputError
from cellscribe.families.registry import read_model
from cellscribe.inference.outputs import (
    keep_facts,
    need_groups,
    sidecar,
    write_cells,
    write_element,
)
from cellscribe.model.heads import UNKNOWN, Head, best_of, load_head
from cellscribe.writing import check_target, writing

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

FORMS = (".csv", ".parquet", ".h5ad")
PREFIX = "cellscribe_"
"""Before the names of the columns that are added to an obs."""
COLUMNS = ("label", "probability", "best")

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


def call_by_head(head: Head) -> Call:
    """Calls of a fine-tuned head."""

    def call(vectors: npt.NDArray[np.floating]) -> tuple[Any, Any, Any]:
        best, probability = best_of(head.probabilities(vectors))
        return best, probability, probability >= head.threshold

    return call


def annotate_counts(
    counts: Counts,
    genes: GeneMap,
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


def annotate_opened(
    counts: Counts,
    options: AnnotateOptions,
    *,
    reference: str | Path | AnnData | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Annotation:
    """Call every cell of opened counts with a fine-tuned model or a labelled reference.

    Parameters
    ----------
    counts
        From `open_counts`.
    options
        Model, reference and all the rest.
    reference
        In place of `options.reference`, which only a path can be.
    progress
        Told (cells done, cells in all, what is being done).
    log
        Told, a line each, what a user should know.

    Raises
    ------
    InputError
        The model has no head and there is no reference, or bad input.
    """
    header = read_model(options.model)
    reference = options.reference if reference is None else reference
    head = load_head(header.directory) if reference is None else None
    genes = header.map_genes(counts.var, gene_key=options.gene_key, name=counts.name)
    with ExitStack() as stack:
        # All that can be refused without torch is refused before it is imported.
        opened, labelled = None, None
        if reference is not None:
            layer = options.reference_layer
            opened = stack.enter_context(open_counts(reference, layer=layer, log=log))
            assert options.label is not None
            labelled = read_labels(
                [opened], options.label, options.group, options.fewest_cells, log=log
            )
            header.map_genes(opened.var, name=opened.name)
        from cellscribe.inference.embedder import load

        embedder = load(
            options.model,
            device=options.device,
            precision=options.precision,
            threads=options.threads,
        )
        if embedder.note:
            log(embedder.note)
        about: dict[str, Any] = {
            "cellscribe": metadata.version("cellscribe"),
            "model": embedder.header.name,
            "model_hash": embedder.hash,
            "precision": embedder.precision,
            "device": embedder.device.type,
            "source": Path(counts.name).name,
        }
        if head is not None:
            about |= {
                "by": "head",
                "label": head.about.get("label", ""),
                "temperature": head.temperature,
                "threshold": head.threshold,
            }
            labels, call = head.labels, call_by_head(head)
        else:
            assert opened is not None and labelled is not None
            voters, facts = _reference(opened, labelled, embedder, options, progress, log)
            about |= facts
            labels, call = voters.labels, voters.call
    return annotate_counts(
        counts, genes, embedder, labels, call, about, progress=in_step(progress, "Annotating")
    )


def _reference(
    opened: Counts,
    labelled: Labelled,
    embedder: Embedder,
    options: AnnotateOptions,
    progress: Progress | None,
    log: Log,
) -> tuple[Reference, dict[str, Any]]:
    """Embed a reference and make it ready to vote."""
    genes = embedder.header.map_genes(opened.var, name=opened.name)
    step = in_step(progress, "Embedding the reference")
    vectors = embed_opened(embedder, opened, genes, progress=step)[labelled.rows[0]]
    filled = vectors.any(axis=1)
    labelled = labelled.keep(filled)
    check_labels(labelled, [opened])
    tell_of_folds(labelled, options.group, log)
    voters = fit_reference(
        vectors[filled].astype(np.float64),
        labelled,
        neighbours=options.neighbours,
        folds=options.folds,
        accuracy=options.accuracy,
        seed=options.seed,
    )
    tell_of_calibration(voters.calibration, log)
    found = voters.calibration.crossed or voters.calibration.held_out
    return voters, {
        "by": "reference",
        "label": str(options.label),
        "group": options.group or "",
        "reference": labelled.sources[0]["name"],
        "reference_hash": labelled.sources[0]["hash"] or "",
        "reference_cells": len(labelled.truth),
        "neighbours": options.neighbours,
        "threshold": voters.calibration.threshold,
        "limit": voters.limit,
        "held_out_accuracy": found.accuracy,
        "held_out_coverage": found.coverage,
    }


def embed_opened(
    embedder: Embedder,
    counts: Counts,
    genes: GeneMap,
    *,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """``[n_cells, D]`` vectors of opened counts, which stay open."""
    blocks = embedder.blocks(counts, genes, progress=progress)
    return np.concatenate([block.vectors for block in blocks])


def check_annotated(out: Path, sources: list[Path], *, overwrite: bool) -> None:
    """Refuse an output before anything is opened for it.

    Raises
    ------
    InputError
        Unknown form, or `check_target` refuses it.
    """
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in one of {', '.join(FORMS)}")
    for source in sources:
        check_target(out, source, overwrite=overwrite)
        if out.suffix != ".h5ad":
            check_target(sidecar(out), source, overwrite=overwrite)


def write_annotation(out: Path, annotation: Annotation, counts: Counts) -> None:
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
            _write_h5ad(partial, table, counts, annotation.about)
        return
    with writing(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, float_format="%.6g")
        else:
            # The texts, not categories: every reader of Parquet takes them for what they are.
            plain = table.astype({"label": str, "best": str}).reset_index()
            plain.to_parquet(partial, index=False)
        with writing(sidecar(out)) as beside:
            beside.write_text(json.dumps(annotation.about, indent=2) + "\n", encoding="utf-8")


def _write_h5ad(path: Path, table: pd.DataFrame, counts: Counts, about: Mapping[str, Any]) -> None:
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
        for name in COLUMNS:
            column, values = f"{PREFIX}{name}", table[name].array
            if column in obs:
                del obs[column]
            write_element(obs, column, values if name != "probability" else np.asarray(values))
            order = [*(other for other in order if other != column), column]
        obs.attrs.create("column-order", order, dtype=h5py.string_dtype())
        keep_facts(root, "annotation", about)
