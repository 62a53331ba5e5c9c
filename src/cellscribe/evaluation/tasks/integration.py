"""Integration: do frozen vectors put cells of one type together, and batches on each other?

No method gets labels. Harmony and scVI, which correct batches, get the batches; no other method
does. Every figure is made of numbers of single cells (their cluster, silhouette, neighbours), and
its interval resamples these numbers. Cells that are drawn again and searched anew would have copies
of themselves, at distance zero, as neighbours.

The figures are this program's own (`metrics`), in every environment. Where scib-metrics is
installed, its figures of the same vectors are added as a breakdown; not its BRAS and its
kBET by label, which take half a minute a method to compile. The tests hold BRAS to it all the same.

Letters: ``B`` cells, ``D`` width of a vector.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.columns import has_label
from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.corpus_pca import corpus_rows
from cellscribe.evaluation.data import CellProvenance, Cells, Data, column, draw
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats import features, metrics
from cellscribe.evaluation.stats.estimates import between

Texts = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FEWEST = 10
"""Fewest cells of a class or a batch; smaller ones are left out."""
MOST = 4_000
"""Most cells of a repetition, since distances of all pairs are kept in memory."""
BATCHES = (
    "batch", "donor", "library", "sample", "donor_id", "batch_id", "plate", "replicate",
)  # fmt: skip
"""Columns of obs that are taken for batches, in this order."""
ENOUGH = 0.9
"""Share of the labelled cells that must be in such a column's batches of `FEWEST` cells."""
PROTOCOL = 1
"""Raised when figures change for the same data and settings."""
COMPONENTS = 50
HVG, PCA, HARMONY, SCVI = "HVG 2,000", f"PCA-{COMPONENTS}", "Harmony", "scVI"
BY_LABEL, BY_REFERENCE = "Label silhouette, by label", "By scib-metrics"

NAME = "integration"
TITLE = "Zero-shot clustering and batch integration"
ABOUT = (
    "Frozen vectors, as they are, are clustered by k-means with as many clusters as there are "
    "labels (ten starts, seeded) and compared with the labels; where the data have batches, "
    "neighbours are asked how batches mix. Labels of fewer than "
    f"{FEWEST} cells and cells without a label are left out; at most {MOST:,} cells a repetition, "
    "drawn with its seed. Intervals: bootstrap over cells, with clusters and neighbours held "
    "fixed; k-means starts elsewhere in every repetition. AvgBIO and the choice of baselines "
    "follow Kedzierska et al. 2025, metrics Luecken et al. 2022, but for the batch silhouette, "
    "which BRAS replaces (Rautenstrauch and Ohler 2025)."
)
HEADLINES = ("avg_bio",)
METRICS = {
    "avg_bio": Metric(
        title="AvgBIO",
        about="Mean of NMI, ARI and label silhouette (Cui et al. 2024).",
        better="higher",
    ),
    "nmi": Metric(
        title="NMI",
        about="Normalised mutual information of labels and k-means clusters.",
        better="higher",
    ),
    "ari": Metric(
        title="ARI",
        about="Adjusted Rand index of labels and k-means clusters (Hubert and Arabie 1985).",
        better="higher",
    ),
    "label_asw": Metric(
        title="Label silhouette",
        about="Mean silhouette among labels, scaled to 0..1; 0.5 is none (Rousseeuw 1987).",
        better="higher",
    ),
    "ilisi": Metric(
        title="iLISI",
        about="Effective number of batches among 90 neighbours, scaled to 0..1 (Korsunsky 2019).",
        better="higher",
    ),
    "kbet": Metric(
        title="kBET",
        about=(
            "Share of cells whose neighbours of the same label are a fair draw of the batches; "
            "mean over labels (Büttner 2019). 0.95 is perfect."
        ),
        better="higher",
    ),
    "graph_connectivity": Metric(
        title="Graph connectivity",
        about=(
            "Share of a label's cells in the largest connected part of its 15-neighbour graph, "
            "mean over labels (Luecken 2022)."
        ),
        better="higher",
    ),
    "pcr": Metric(
        title="PCR",
        about=(
            "Share of the vectors' variance that batches explain (principal component regression, "
            "Büttner 2019); types that differ in number between batches add to it."
        ),
        better="lower",
    ),
    "bras": Metric(
        title="BRAS",
        about="Batch-removal-adapted silhouette, mean over labels (Rautenstrauch and Ohler 2025).",
        better="higher",
    ),
}
BASELINES = (HVG, PCA)
PCA_BASELINE = PCA
EXTRA_BASELINES = {HARMONY: "harmonypy", SCVI: "scvi"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Labelled cells of a file, and their batches if there are any."""

    name: str
    models: Sequence[Model]
    whole: Cells
    """All cells of the file: what models embed, so that other tasks share the vectors."""
    rows: Integers
    """``[B]`` rows of `whole` that are scored."""
    labels: Texts
    """``[B]``."""
    batches: Texts | None
    """``[B]``."""
    about: dict[str, Any]
    provenance: CellProvenance
    identity: dict[str, Any]
    bootstrap: int

    @property
    def cells(self) -> Cells:
        """The cells that are scored."""
        return self.whole.take(self.rows)


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Make the case of a file; see `evaluation.task.Task`."""
    cells = data.cells
    if cells is None:
        raise UnfitError(f"{data.name}: a corpus has no labels to cluster by; give a file of cells")
    labels = column(cells, options.label, "--label")
    kept = has_label(labels)
    left_out = {"no label": int((~kept).sum())}
    named, batches = _find_batches(cells, kept, options)
    if batches is not None:
        batched = kept & _in_groups(batches, kept)
        left_out["no batch, or a small one"] = int((kept & ~batched).sum())
        kept = batched
    common = kept & _in_groups(labels, kept)
    left_out[f"label of fewer than {FEWEST} cells"] = int((kept & ~common).sum())
    rows = np.flatnonzero(common)
    found = np.unique(labels[rows])
    if len(found) < 2:
        has = f"only {found[0]!r}" if len(found) else "none"
        raise UnfitError(
            f"{cells.name}: two labels of {FEWEST} cells are needed, {options.label} has {has}; "
            "name another column with --label"
        )
    if batches is not None and len(np.unique(batches[rows])) < 2:
        if options.batch is not None:
            raise InputError(
                f"{cells.name}: all cells of labels that count are of one {named}; "
                "name another column with --batch, or leave it out"
            )
        named, batches = None, None
    batches = None if batches is None else batches[rows]
    about = {
        "cells": len(rows),
        "labels": len(found),
        **_about_batches(named, labels[rows], batches),
        "left out": {why: n for why, n in left_out.items() if n},
    }
    identity = {
        "cells": cells.hash,
        "label": options.label,
        "batch": named,
        "labels and batches": _digest(rows, labels[rows], batches),
        "most cells": MOST,
        "fewest cells": FEWEST,
        "protocol": PROTOCOL,
        "scib-metrics": metadata.version("scib-metrics") if _reference_is_here() else None,
    }
    return [
        Case(
            name=cells.name, models=models, whole=cells, rows=rows, labels=labels[rows],
            batches=batches, about=about, provenance=cells.provenance, identity=identity,
            bootstrap=options.bootstrap,
        )
    ]  # fmt: skip


def _in_groups(values: Texts, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find the cells with a value that at least `FEWEST` of the cells `among` have."""
    known, sizes = np.unique(values[among], return_counts=True)
    large = [value for value, n in zip(known, sizes, strict=True) if n >= FEWEST and value]
    return np.isin(values, large)


def _find_batches(
    cells: Cells, among: npt.NDArray[np.bool_], options: EvaluateOptions
) -> tuple[str | None, Texts | None]:
    """Read the column of batches: the user's, or the first one that is usable."""
    if options.batch is not None:
        values = column(cells, options.batch, "--batch")
        n = len(np.unique(values[among & _in_groups(values, among)]))
        if n < 2:
            raise InputError(
                f"{cells.name}: two batches of {FEWEST} labelled cells are needed, "
                f"{options.batch} has {n}; name another column with --batch, or leave it out"
            )
        return options.batch, values
    for name in BATCHES:
        if name in cells.obs and name != options.label:
            values = column(cells, name, "--batch")
            inside = among & _in_groups(values, among)
            if len(np.unique(values[inside])) > 1 and inside.sum() >= ENOUGH * among.sum():
                return name, values
    return None, None


def _about_batches(named: str | None, labels: Texts, batches: Texts | None) -> dict[str, Any]:
    if batches is None:
        return {"batch column": "none: figures of batches are left out"}
    shared = sum(len(np.unique(batches[labels == label])) > 1 for label in np.unique(labels))
    return {
        "batch column": named,
        "batches": len(np.unique(batches)),
        "labels in two batches or more": shared,
    }


def _digest(rows: Integers, labels: Texts, batches: Texts | None) -> str:
    texts = [*map(str, rows), *labels, *(() if batches is None else batches)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: its vectors, ``[B, D]``."""
    return [model.row(lambda: model.vectors(case.whole)[case.rows])]


def baselines(case: Case) -> list[Method]:
    """Return the rows of genes, principal components, Harmony (with batches only) and scVI."""

    @cache  # Harmony begins with them
    def pca() -> Floats:
        return features.pca(case.cells.counts, COMPONENTS)

    made: dict[str, Callable[[], npt.NDArray[np.floating]]] = {
        HVG: lambda: features.hvg(case.cells.counts),
        PCA: pca,
    }
    batches = case.batches
    if batches is not None and find_spec(EXTRA_BASELINES[HARMONY]) is not None:
        made[HARMONY] = lambda: features.harmony(pca(), batches)
    if find_spec(EXTRA_BASELINES[SCVI]) is not None:
        made[SCVI] = lambda: features.scvi_latent(case.cells, batches)
    methods = [Method(name=name, kind="baseline", predict=make) for name, make in made.items()]
    return methods + corpus_rows(case.models, lambda corpus: corpus.scores(case.whole)[case.rows])


def score(case: Case, prediction: npt.NDArray[np.floating], seed: int) -> Scores:
    """Score vectors ``[B, D]``.

    Raises
    ------
    InputError
        A vector has a value that is no number.
    """
    if not np.isfinite(prediction).all():
        raise InputError(f"{case.name}: vectors have values that are no numbers; mend the model")
    rows = draw(len(prediction), MOST, seed)
    vectors = np.asarray(prediction[rows], np.float64)
    names, labels = np.unique(case.labels[rows], return_inverse=True)
    apart = metrics.distances(vectors)
    silhouettes = metrics.label_silhouettes(apart, labels)
    statistics = [_by_labels(labels, silhouettes, metrics.cluster(vectors, len(names), seed))]
    breakdowns = {
        BY_LABEL: {
            str(name): float(silhouettes[labels == n].mean()) for n, name in enumerate(names)
        }
    }
    if case.batches is not None:
        batches = np.unique(case.batches[rows], return_inverse=True)[1]
        statistics.append(_by_batches(vectors, apart, labels, batches))
        if _reference_is_here():
            breakdowns[BY_REFERENCE] = _by_reference(vectors, apart, labels, batches)
    return Scores(
        estimates=_estimate(statistics, len(rows), draws=case.bootstrap, seed=seed),
        breakdowns=breakdowns,
    )


Statistics = Callable[[Integers], dict[str, float]]


def _by_labels(labels: Integers, silhouettes: Floats, clusters: Integers) -> Statistics:
    def statistics(rows: Integers) -> dict[str, float]:
        found = {
            "nmi": metrics.nmi(labels[rows], clusters[rows]),
            "ari": metrics.ari(labels[rows], clusters[rows]),
            "label_asw": float(silhouettes[rows].mean()),
        }
        return {"avg_bio": sum(found.values()) / len(found), **found}

    return statistics


def _by_batches(vectors: Floats, apart: Floats, labels: Integers, batches: Integers) -> Statistics:
    n_batches = int(batches.max()) + 1
    lisi = metrics.lisi(apart, batches)
    accepted = metrics.kbet_by_label(apart, labels, batches)
    rows, _ = metrics.nearest(apart, metrics.CONNECTED_NEIGHBOURS)
    connected = metrics.connected(rows, labels).astype(np.float64)
    mixed = metrics.batch_silhouettes(vectors, labels, batches)

    def statistics(rows: Integers) -> dict[str, float]:
        times = np.bincount(rows, minlength=len(labels)).astype(np.float64)
        return {
            "ilisi": metrics.ilisi(lisi[rows], n_batches),
            "kbet": metrics.mean_of_labels(accepted[rows], labels[rows]),
            "graph_connectivity": metrics.mean_of_labels(connected[rows], labels[rows]),
            "pcr": metrics.explained_by_batch(vectors, batches, times),
            "bras": metrics.mean_of_labels(mixed[rows], labels[rows]),
        }

    return statistics


def _estimate(
    statistics: Sequence[Statistics], n: int, *, draws: int, seed: int
) -> dict[str, Estimate]:
    """Compute figures of all cells, with intervals of one set of draws; NaN ones are left out."""

    def all_of(rows: Integers) -> dict[str, float]:
        return {name: value for each in statistics for name, value in each(rows).items()}

    values = all_of(np.arange(n))
    random = np.random.default_rng(seed)
    found = [all_of(random.integers(0, n, n)) for _ in range(draws)]
    return {
        name: between(value, np.array([each[name] for each in found]))
        for name, value in values.items()
        if np.isfinite(value)
    }


def _reference_is_here() -> bool:
    return find_spec("scib_metrics") is not None


def _by_reference(
    vectors: Floats, apart: Floats, labels: Integers, batches: Integers
) -> dict[str, float]:
    """Compute figures of scib-metrics; its kBET takes cells of all labels together."""
    with warnings.catch_warnings():
        # umap, which it imports, tells of a part of its own that would need TensorFlow
        warnings.simplefilter("ignore", ImportWarning)
        import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults
    from scib_metrics.utils import principal_component_regression

    rows, near = metrics.nearest(apart, metrics.LISI_NEIGHBOURS)
    neighbours = NeighborsResults(indices=rows, distances=near)
    fewer = neighbours.subset_neighbors(min(50, rows.shape[1]))
    few = neighbours.subset_neighbors(min(metrics.CONNECTED_NEIGHBOURS, rows.shape[1]))
    found = {
        "iLISI": scib_metrics.ilisi_knn(neighbours, batches),
        "kBET, all cells": scib_metrics.kbet(fewer, batches)[0],
        "graph connectivity": scib_metrics.graph_connectivity(few, labels),
        "PCR": principal_component_regression(vectors, batches, categorical=True),
    }
    return {name: float(value) for name, value in found.items()}
