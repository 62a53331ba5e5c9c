"""How well a cell's depth can be predicted from its vector, and how far depth moves the vector.

Depth is an accident of the experiment, so a vector of the cell's state should not depend on it. Two
measures: how well a ridge regression predicts depth for held-out cells, and whether a downsampled
cell, as if it had been sequenced less deeply, is still nearest to itself.

Letters: ``B`` cells, ``G`` genes, ``D`` width of a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.downsample import downsample as downsample_counts
from cellscribe.evaluation.corpus_pca import corpus_rows
from cellscribe.evaluation.data import CellProvenance, Cells, Data, draw
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Curve, Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap, bootstrap_mean
from cellscribe.evaluation.stats.features import HVG, fit_features
from cellscribe.evaluation.stats.ridge import ALPHAS, FOLDS, out_of_fold, r2

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from cellscribe.config import EvaluateOptions

Floats = npt.NDArray[np.float64]

SHARES = (50, 25, 10)
"""Per cent of its counts that a downsampled cell keeps."""
PAIR = (50, 25)
"""Shares of two downsampled copies of a cell that are compared with each other."""
MOST_DOWNSAMPLED = 500
LEAST_CELLS = 20
CONTEXT = 1_024
"""Length at which the detected genes of a baseline are cut, as most models cut theirs."""
COMPONENTS = 50
TIE = 1e-9
"""Cosines closer than this are equal, and an own cell among equals counts in part."""
ROUNDING = 1e-6
"""Share of the centre up to which a difference from it is rounding error of float32."""
TARGETS = ("depth_r2", "genes_r2", "length_r2")
PCA_BASELINE = f"log-norm PCA-{COMPONENTS}"
BASELINES = (PCA_BASELINE, f"log-norm HVG {HVG:,}")
MOVED = "distance moved, share of the distance between cells"
FOUND = "downsampled cells nearest to their own whole cell"

NAME = "confounding"
TITLE = "Confounding by depth"
ABOUT = (
    f"A ridge regression on standardised vectors, {FOLDS} folds, is asked for the logarithm of a "
    "cell's total counts, the logarithm of its number of genes, and its length in tokens (genes "
    f"that the model knows, cut to its context; for baselines detected genes, cut to {CONTEXT:,}); "
    "its R² on cells it never saw says how much a vector gives away. Deep cells are often of "
    "other types, so some R² is honest: compare it with the baselines'. Then the counts of at most "
    f"{MOST_DOWNSAMPLED} cells are downsampled binomially to {', '.join(map(str, SHARES))} %. "
    "Self-match is the share of these cells whose nearest whole cell, by cosine, is the cell "
    f"itself; from {PAIR[0]} to {PAIR[1]} %, the share of the copies of {PAIR[1]} % whose nearest "
    f"copy of {PAIR[0]} %, drawn on its own, is of the same cell. The mean of the cells that are "
    "searched is subtracted from all vectors first: those of a network share a direction next to "
    "which all others vanish, and principal components have none. Random weights keep cells apart "
    "and match well: a self-match is worth something where the macro-F1 of the probe and of the "
    "neighbours (Cell types) is high too. Counts are downsampled once for all seeds; seeds change "
    "folds and bootstrap."
)


def _given_away(name: str, target: str) -> Metric:
    about = f"R² on held-out cells of {target}, by ridge regression from the vectors."
    return Metric(title=f"R² of {name}", about=about, better="lower")


def _self_match(share: int, among: int = 100) -> Metric:
    title, which = f"Self-match, {share} %", "whole cells"
    if among < 100:
        title, which = f"Self-match, {among} to {share} %", f"cells with {among} % of their counts"
    about = (
        f"Share of cells with {share} % of their counts whose nearest of the {which} (cosine) is "
        "the same cell; by chance one over the number of cells."
    )
    return Metric(title=title, about=about, better="higher")


METRICS = {
    "depth_r2": _given_away("depth", "the logarithm of total counts"),
    "genes_r2": _given_away("genes", "the logarithm of the number of detected genes"),
    "length_r2": _given_away("length", "the number of tokens (none if it is the same for all)"),
    **{f"stays_{share}": _self_match(share) for share in SHARES},
    "stays_50_25": _self_match(PAIR[1], among=PAIR[0]),
}
HEADLINES = ("depth_r2", "stays_50", "stays_50_25")
EXTRA_BASELINES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Downsampled:
    """Cells with a share of their counts, without those that have no count left."""

    cells: Cells
    own: npt.NDArray[np.int64]
    """Places of the same cells in `Problem.some`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CellVectors:
    """Vectors of the cells of a case, whole and downsampled."""

    vectors: Floats
    """``[B, D]``."""
    lengths: Floats
    """``[B]`` tokens."""
    downsampled: dict[int, Floats]
    """By the share kept, ``[b, D]``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Cells of a file, and some of them downsampled."""

    name: str
    models: Sequence[Model]
    cells: Cells
    filled: npt.NDArray[np.int64]
    """``[B]`` rows that have a count."""
    some: npt.NDArray[np.int64]
    """Rows that are downsampled, all among `filled`."""
    downsampled: dict[int, Downsampled]
    options: EvaluateOptions

    @property
    def about(self) -> dict[str, Any]:
        """Sizes."""
        return {"cells": len(self.filled), "thinned cells": len(self.some), "folds": FOLDS}

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.cells.provenance

    @property
    def identity(self) -> dict[str, Any]:
        """Data and settings."""
        return {
            "cells": self.cells.hash,
            "folds": FOLDS,
            "alphas": list(ALPHAS),
            "shares": list(SHARES),
            "pair": list(PAIR),
            "thinned vectors": "centred",
            "thinned cells": len(self.some),
            "draw": self.options.seed,
        }


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Downsample some cells of a file.

    Raises
    ------
    UnfitError
        It is a corpus, has next to no cells, or cells that are all equally deep.
    """
    cells = data.cells
    if cells is None:
        raise UnfitError(f"{data.name} is a corpus; {NAME} reads counts: give a file of cells")
    if cells.kind != "raw":
        raise UnfitError(
            f"{data.name}: {NAME} draws molecules from whole counts, and these are {cells.kind} "
            "(--counts); give raw counts"
        )
    totals = _totals(cells.counts)
    filled = np.flatnonzero(totals > 0)
    if len(filled) < LEAST_CELLS:
        raise UnfitError(
            f"{data.name}: {len(filled)} cells with counts are too few for {NAME}; "
            f"give {LEAST_CELLS} or more"
        )
    if len(np.unique(totals[filled])) == 1:
        raise UnfitError(
            f"{data.name}: all cells have {totals[filled[0]]:,.0f} counts, so no vector can give "
            "depth away; give counts as they were sequenced"
        )
    some = filled[draw(len(filled), MOST_DOWNSAMPLED, options.seed)]
    return [
        Case(
            name=data.name,
            models=models,
            cells=cells,
            filled=filled,
            some=some,
            downsampled={
                share: downsample(cells.take(some), share, options.seed) for share in SHARES
            },
            options=options,
        )
    ]


def downsample(cells: Cells, share: int, seed: int) -> Downsampled:
    """Keep each count of every cell with a probability of `share` per cent.

    Binomial downsampling is what less sequencing of the same library gives. A cell without a count
    left is dropped.
    """
    counts = downsample_counts(cells.counts, share / 100, np.random.default_rng([seed, share]))
    own = np.flatnonzero(np.diff(counts.indptr))
    return Downsampled(cells=dataclasses.replace(cells, counts=counts).take(own), own=own)


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: its vectors of whole and of downsampled cells."""

    def predict() -> CellVectors:
        return CellVectors(
            vectors=model.vectors(case.cells)[case.filled].astype(np.float64),
            lengths=token_lengths(model, case.cells)[case.filled],
            downsampled={
                share: model.vectors(downsampled.cells).astype(np.float64)
                for share, downsampled in case.downsampled.items()
            },
        )

    return [model.row(predict)]


def token_lengths(model: Model, cells: Cells) -> Floats:
    """``[B]`` genes of each cell that a model knows, at most as many as it reads."""
    from cellscribe.cells.tokens import known_counts

    genes = model.header.map_genes(
        cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
    )
    known = known_counts(cells.counts, genes.token).genes_known
    return np.minimum(known, model.embedder.context).astype(np.float64)


def baselines(case: Case) -> list[Method]:
    """Return the rows of the standard workflow, fitted on whole cells, and of training corpora."""
    lengths = np.minimum(_detected(case.cells.counts), CONTEXT)[case.filled]

    def fitted(components: int | None) -> CellVectors:
        counts, seed = case.cells.counts, case.options.seed
        project = fit_features(counts, components=components, seed=seed)
        return projected(lambda cells: project(cells.counts))

    def projected(project: Callable[[Cells], Floats]) -> CellVectors:
        return CellVectors(
            vectors=project(case.cells)[case.filled],
            lengths=lengths,
            downsampled={
                share: project(downsampled.cells) for share, downsampled in case.downsampled.items()
            },
        )

    methods = [
        Method(name=PCA_BASELINE, kind="baseline", predict=lambda: fitted(COMPONENTS)),
        Method(name=BASELINES[1], kind="baseline", predict=lambda: fitted(None)),
    ]
    return methods + corpus_rows(case.models, lambda corpus: projected(corpus.scores))


def score(case: Case, prediction: CellVectors, seed: int) -> Scores:
    """Compute R² of depth from vectors, and how many downsampled cells are found again."""
    draws = case.options.bootstrap
    counts = case.cells.counts[case.filled]
    targets = np.stack(
        [np.log(_totals(counts)), np.log(_detected(counts)), prediction.lengths], axis=1
    )
    predicted = out_of_fold(prediction.vectors, targets, seed=seed)
    estimates: dict[str, Estimate] = {}
    for place, name in enumerate(TARGETS):
        truth, guess = targets[:, place], predicted[:, place]
        if np.ptp(truth) > 0:
            estimates[name] = bootstrap(
                lambda rows, truth=truth, guess=guess: r2(truth[rows], guess[rows]),  # type: ignore[misc]
                len(truth), draws=draws, seed=seed,
            )  # fmt: skip
    whole = prediction.vectors[np.searchsorted(case.filled, case.some)]
    centre = whole.mean(axis=0)
    whole = _around(whole, centre)
    between = distance_between(whole) if whole.any() else 0.0
    moved = {}
    for share, downsampled in case.downsampled.items():
        vectors = _around(prediction.downsampled[share], centre)
        found = nearest_is_own(whole, vectors, downsampled.own)
        estimates[f"stays_{share}"] = bootstrap_mean(found, draws=draws, seed=seed)
        went = _distance_moved(whole, vectors, downsampled.own)
        moved[share] = went / between if between > 0 else float("nan")
    estimates["stays_50_25"] = bootstrap_mean(
        _found_in_pair(case, prediction), draws=draws, seed=seed
    )
    x, label = [float(share) for share in SHARES], "counts kept, %"
    stays = [estimates[f"stays_{share}"].value for share in SHARES]
    return Scores(
        estimates=estimates,
        breakdowns={MOVED: {f"{share} %": value for share, value in moved.items()}},
        curves={
            MOVED: Curve(x=x, y=list(moved.values()), x_label=label, y_label="distance moved"),
            FOUND: Curve(x=x, y=stays, x_label=label, y_label="share of cells"),
        },
    )


def nearest_is_own(whole: Floats, downsampled: Floats, own: npt.NDArray[np.int64]) -> Floats:
    """Find whether each downsampled cell is nearest to its own whole cell by cosine.

    `whole` is ``[n, D]``, `downsampled` ``[b, D]``, and `own` ``[b]`` has the row of each cell in
    `whole`. Returns ``[b]``: 1 or 0, and 1/k where k cells are equally near, so that equal vectors
    score as chance.
    """
    cosines = _unit(downsampled) @ _unit(whole).T
    nearest = cosines >= cosines.max(axis=1, keepdims=True) - TIE
    return nearest[np.arange(len(own)), own] / nearest.sum(axis=1)


def _found_in_pair(case: Case, prediction: CellVectors) -> Floats:
    """Find whether each cell of the smaller share of `PAIR` is nearest to its own larger one."""
    more, fewer = (case.downsampled[share].own for share in PAIR)
    both = np.isin(fewer, more)
    among = prediction.downsampled[PAIR[0]]
    centre = among.mean(axis=0)
    vectors = prediction.downsampled[PAIR[1]][both]
    own = np.searchsorted(more, fewer[both])
    return nearest_is_own(_around(among, centre), _around(vectors, centre), own)


def distance_between(vectors: Floats) -> float:
    """Compute the mean cosine distance of two different cells."""
    unit, n = _unit(vectors), len(vectors)
    # the sum over all pairs is the square of the sum, less the pairs of a cell with itself
    pairs = float((unit.sum(axis=0) ** 2).sum() - (unit**2).sum())
    distance = 1 - pairs / (n * (n - 1))
    return distance if distance > TIE else 0.0


def _distance_moved(whole: Floats, downsampled: Floats, own: npt.NDArray[np.int64]) -> float:
    return float((1 - (_unit(whole[own]) * _unit(downsampled)).sum(axis=1)).mean())


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _around(vectors: Floats, centre: Floats) -> Floats:
    """Subtract the centre from vectors; rounding errors become 0."""
    left = vectors - centre
    left[np.abs(left) < ROUNDING * np.abs(centre).max(initial=0.0)] = 0.0
    return left


def _totals(counts: csr_matrix) -> Floats:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _detected(counts: csr_matrix) -> Floats:
    return np.asarray((counts > 0).sum(axis=1)).ravel().astype(np.float64)
