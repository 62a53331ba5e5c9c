"""Whether a gene deleted in silico moves cells as its real knock-down does.

This tells a user of `cellscribe perturb` how far to trust it. Two moves of each gene X are
compared: ``d[X]``, from control cells to the same cells without X, and ``r[X]``, from the
controls' centre to that of the cells in which X was really knocked down. One that means something
points along its own ``r`` more than along other genes'.

The mean over perturbations is subtracted from both first: a direction that all deletions or all
knock-downs share (a shorter cell, a guide's stress) does not distinguish genes. A knocked-down gene
has fewer counts in its cells, and a deleted one none. So any projection of the counts scores above
chance, also the baseline with counts set to zero and random weights. Hence a second figure, with X
deleted from knock-down and control cells before their centres are compared: only the effect of X on
other genes is left there.

Letters: ``B`` cells, ``X`` perturbations, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.data import CellProvenance, Cells, Data
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap, bootstrap_mean
from cellscribe.evaluation.stats.features import fit_features
from cellscribe.evaluation.tasks.perturbation.conditions import read_conditions, target_columns

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

NAME = "deletion"
TITLE = "In-silico deletion against real knock-downs"
ABOUT = (
    "A perturbed gene is deleted from control cells that show it, and the mean move of their "
    "vectors is compared, by cosine, with the move from the controls' centre to that of the cells "
    "in which each gene was really knocked down. The mean over perturbations is taken off both. "
    "Single-gene perturbations whose target every model knows and enough control cells show. "
    "In-silico deletion: Theodoris et al. 2023. The interval resamples perturbations. A "
    "knocked-down gene is itself seen less, so that projections that know nothing score above 0.5; "
    "therefore the AUROC is given without the gene in either kind of cells as well."
)
METRICS = {
    "auroc": Metric(
        title="AUROC",
        about="Chance that the cosine of a deletion and its own knock-down is higher than that of "
        "a deletion and another gene's knock-down; 0.5 without knowledge.",
        better="higher",
    ),
    "auroc_others": Metric(
        title="AUROC, other genes",
        about="The same with the gene deleted from knock-down and control cells before their "
        "centres are compared: whether the deletion tells what the knock-down does to other genes.",
        better="higher",
    ),
    "own_rank": Metric(
        title="rank of own",
        about="Share of the other knock-downs that a deletion resembles less than its own, mean "
        "over genes; 0.5 without knowledge.",
        better="higher",
    ),
    "size_correlation": Metric(
        title="size",
        about="Spearman correlation over genes between how far deletion and knock-down move cells.",
        better="higher",
    ),
}
HEADLINES = ("auroc_others",)
BY_PCA = "expression set to zero, log-norm PCA-50"
BASELINES = (BY_PCA,)
PCA_BASELINE = BY_PCA
EXTRA_BASELINES: dict[str, str] = {}

MOST_CELLS = 200
"""Most control cells, and most knocked-down cells, that a gene is deleted from."""
MOST_DELETIONS = 8_000
"""Most deletions of all genes together: about half a minute of mini on a core."""
FEWEST_CELLS = 20
"""Fewest control cells that show a gene; with fewer the mean move is mostly noise."""
FEWEST_PERTURBATIONS = 3
PCA_COMPONENTS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Knock-downs of a file whose gene can be deleted from control cells."""

    models: Sequence[Model]
    cells: Cells
    column: str
    """Column of obs with perturbations."""
    targets: dict[str, int]
    """``X`` perturbations -> column of the file with the gene's counts."""
    controls: Rows
    knocked: dict[str, Rows]
    """Cells of each perturbation."""
    deleted: dict[str, Rows]
    """Control cells that each gene is deleted from."""
    also_deleted: dict[str, Rows]
    """Knocked-down cells that still show the gene, and that it is deleted from."""
    shares: dict[str, tuple[float, float]]
    """Share of the control cells, and of the knocked-down ones, that show the gene."""
    left_out: int
    """Perturbations of one gene that is not in the file, not known to a model, or hardly shown."""
    draws: int

    @property
    def name(self) -> str:
        """Of the data."""
        return self.cells.name

    @property
    def about(self) -> dict[str, Any]:
        """Sizes."""
        return {
            "cells": self.cells.n_cells,
            "controls": len(self.controls),
            "perturbations": len(self.targets),
            "perturbations left out": self.left_out,
            "deletions": sum(
                len(rows) for each in (self.deleted, self.also_deleted) for rows in each.values()
            ),
        }

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from."""
        return self.cells.provenance

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the figures; the sums of the rows depend on the draw of cells."""
        drawn = {
            word: {name: [len(rows), int(rows.sum())] for name, rows in each.items()}
            for word, each in (
                ("knocked", self.knocked),
                ("deleted", self.deleted),
                ("also deleted", self.also_deleted),
                ("controls", {"controls": self.controls}),
            )
        }
        return {"cells": self.cells.hash, "column": self.column, **drawn}


@dataclass(frozen=True, kw_only=True, eq=False)
class Moves:
    """Moves of cells in the space of a method."""

    deleted: Floats
    """``[X, D]`` mean move of control cells when the gene is deleted."""
    real: Floats
    """``[X, D]`` from the controls' centre to that of the knock-down."""
    real_others: Floats
    """``[X, D]`` the same, with the gene deleted from both kinds of cells."""


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Find knock-downs whose gene the file measures, every model knows and controls show."""
    if data.cells is None:
        raise UnfitError(f"{data.name}: a corpus tells no perturbations; give a file of cells")
    cells = data.cells
    if cells.kind == "tpm":
        raise UnfitError(f"{data.name}: knock-downs are told by cells, not by bulk samples")
    conditions = read_conditions(cells, options)
    single = [name for name, genes in conditions.targets.items() if len(genes) == 1]
    places = target_columns(cells, [conditions.targets[name][0] for name in single])
    known = np.ones(cells.counts.shape[1], dtype=bool)
    for model in models:
        genes = model.header.map_genes(
            cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
        )
        known &= genes.token >= 0
    controls = np.flatnonzero(conditions.is_control)
    targets: dict[str, int] = {}
    for name in single:
        place = places[conditions.targets[name][0]]
        if place is None or not known[place] or place in targets.values():
            continue
        if len(_showing(cells, controls, place)) >= FEWEST_CELLS:
            targets[name] = int(place)
    if len(targets) < FEWEST_PERTURBATIONS:
        raise UnfitError(
            f"{cells.name}: {len(targets)} of {len(single)} perturbations of one gene have a "
            f"target that is measured, known to every model and shown by {FEWEST_CELLS} control "
            f"cells, and {FEWEST_PERTURBATIONS} are needed; look at more cells with --max-cells"
        )
    most = min(MOST_CELLS, max(FEWEST_CELLS, MOST_DELETIONS // (2 * len(targets))))
    rng = np.random.default_rng(options.seed)
    knocked = {name: conditions.rows(name) for name in targets}
    shown = {name: _showing(cells, controls, place) for name, place in targets.items()}
    still = {name: _showing(cells, knocked[name], place) for name, place in targets.items()}
    return [
        Case(
            models=models,
            cells=cells,
            column=conditions.column,
            targets=targets,
            controls=controls,
            knocked=knocked,
            deleted={name: np.sort(rng.permutation(rows)[:most]) for name, rows in shown.items()},
            also_deleted={
                name: np.sort(rng.permutation(rows)[:most]) for name, rows in still.items()
            },
            shares={
                name: (len(shown[name]) / len(controls), len(still[name]) / len(knocked[name]))
                for name in targets
            },
            left_out=len(single) - len(targets),
            draws=options.bootstrap,
        )
    ]


def _showing(cells: Cells, rows: Rows, column: int) -> Rows:
    """Select the cells that have a count in a column."""
    return rows[np.sort(cells.counts[rows][:, [column]].nonzero()[0])]


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: genes are deleted from the counts, see `perturbation.by_counts`."""

    def predict() -> Moves:
        from cellscribe.perturbation.by_counts import deleted_vectors

        cells = case.cells
        vectors = model.vectors(cells)
        genes = model.header.map_genes(
            cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
        )

        def move(rows: Rows, column: int) -> Floats:
            tokens = np.array([genes.token[column]])
            kept, after = deleted_vectors(model.embedder, cells.counts[rows], genes, tokens)
            return (after - vectors[rows[kept]]).sum(axis=0) / len(rows)

        return _moves(case, vectors, move)

    return [model.row(predict)]


def baselines(case: Case) -> list[Method]:
    """Return the row of principal components, with the gene's counts set to zero."""

    def predict() -> Moves:
        counts = case.cells.counts
        # Fitted on knocked-down cells too, and so on which genes fall together: a strong baseline.
        # The genes that will change are kept, whatever their variance.
        targets = np.array(list(case.targets.values()))
        project = fit_features(counts, components=PCA_COMPONENTS, always=targets)
        vectors = project(counts)

        def move(rows: Rows, column: int) -> Floats:
            without = counts[rows]
            without.data[without.indices == column] = 0
            return (project(without) - vectors[rows]).mean(axis=0)

        return _moves(case, vectors, move)

    return [Method(name=BY_PCA, kind="baseline", predict=predict)]


def _moves(case: Case, vectors: Floats, move: Callable[[Rows, int], Floats]) -> Moves:
    """Compute all moves; `move` returns the mean move of cells that lose a gene."""
    control = vectors[case.controls].mean(axis=0, dtype=np.float64)
    deleted, real, others = [], [], []
    for name, column in case.targets.items():
        away = move(case.deleted[name], column)
        far = vectors[case.knocked[name]].mean(axis=0, dtype=np.float64) - control
        of_controls, of_knocked = case.shares[name]
        still = case.also_deleted[name]
        also = move(still, column) if len(still) else np.zeros_like(away)
        deleted.append(away)
        real.append(far)
        others.append(far + of_knocked * also - of_controls * away)
    return Moves(deleted=np.array(deleted), real=np.array(real), real_others=np.array(others))


def score(case: Case, prediction: Moves, seed: int) -> Scores:
    """Score moves; the seed draws the perturbations of the bootstrap."""
    draws, n = case.draws, len(prediction.real)
    cosines = centred_cosines(prediction.deleted, prediction.real)
    others = centred_cosines(prediction.deleted, prediction.real_others)
    ranks = own_ranks(cosines)

    def area(scores: Floats) -> Estimate:
        return bootstrap(
            lambda rows: auroc(scores, np.bincount(rows, minlength=n)), n, draws=draws, seed=seed
        )

    estimates: dict[str, Estimate] = {
        "auroc": area(cosines),
        "auroc_others": area(others),
        "own_rank": bootstrap_mean(ranks, draws=draws, seed=seed),
    }
    sizes = [np.linalg.norm(moves, axis=1) for moves in (prediction.deleted, prediction.real)]
    if all(len(np.unique(each)) > 1 for each in sizes):
        estimates["size_correlation"] = bootstrap(
            lambda rows: _spearman(sizes[0][rows], sizes[1][rows]), n, draws=draws, seed=seed
        )
    by_name = {name: float(rank) for name, rank in zip(case.targets, ranks, strict=True)}
    return Scores(estimates=estimates, breakdowns={"rank of the own knock-down": by_name})


def centred_cosines(deleted: Floats, real: Floats) -> npt.NDArray[np.float64]:
    """Compute the cosine of each deletion (row) and knock-down, means over X subtracted."""
    units = []
    for each in (deleted, real):
        centred = each.astype(np.float64) - each.mean(axis=0, dtype=np.float64)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        units.append(np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0))
    return units[0] @ units[1].T


def auroc(scores: Floats, weights: npt.NDArray[np.integer] | None = None) -> float:
    """Compute the chance that a score on the diagonal is above one off it; ties count half.

    Parameters
    ----------
    scores
        ``[X, X]``.
    weights
        ``[X]`` how often each perturbation was drawn: a pair of two counts their product, a
        perturbation and itself count once a draw. NaN comes back if fewer than two were drawn.
    """
    n = len(scores)
    weight = np.ones(n) if weights is None else weights.astype(np.float64)
    off_diagonal = ~np.eye(n, dtype=bool)
    order = np.argsort(scores[off_diagonal], kind="stable")
    others = scores[off_diagonal][order]
    sums = np.concatenate([[0.0], np.cumsum(np.outer(weight, weight)[off_diagonal][order])])
    if sums[-1] == 0:
        return float("nan")
    own = np.diag(scores)
    below = sums[np.searchsorted(others, own, side="left")]
    not_above = sums[np.searchsorted(others, own, side="right")]
    return float(weight @ (below + not_above) / 2 / sums[-1] / weight.sum())


def own_ranks(scores: Floats) -> npt.NDArray[np.float64]:
    """Compute the share of other columns below each row's diagonal, ``[X]``; ties count half."""
    own = np.diag(scores)[:, None]
    off_diagonal = ~np.eye(len(scores), dtype=bool)
    wins = ((scores < own) & off_diagonal).sum(axis=1) + ((scores == own) & off_diagonal).sum(
        axis=1
    ) / 2
    return wins / (len(scores) - 1)


def _spearman(first: Floats, second: Floats) -> float:
    """Compute the correlation of ranks; NaN where all values of one side are equal."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)
