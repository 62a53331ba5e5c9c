"""Task ``genes``: how well labels of a list of genes are predicted from a model's gene vectors.

A gene's vector is its mean contextual vector over cells of the file, frozen. A linear probe is
trained on some of the list's genes and predicts the others. Examples of lists: dosage-sensitive and
insensitive transcription factors, or states of promoters. All methods are scored on the same genes:
those that enough cells show and that every model has a vector of.

Letters: ``B`` cells, ``M`` genes of the case, ``C`` classes, ``F`` features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.gene_list import read_gene_list
from cellscribe.errors import InputError
from cellscribe.evaluation.data import CellProvenance, Cells, Data, draw
from cellscribe.evaluation.models import Method, Model
from cellscribe.evaluation.scores import Curve, Estimate, Metric, Scores, UnfitError
from cellscribe.evaluation.stats.estimates import bootstrap
from cellscribe.evaluation.tasks.gene_probe import (
    COMPONENTS,
    FOLDS,
    STRENGTH,
    Floats,
    Integers,
    area,
    average_precision,
    coexpression,
    expression_features,
    probe_genes,
    roc,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from cellscribe.config import EvaluateOptions
    from cellscribe.inference.gene_vectors import GeneVectors

NAME = "genes"
TITLE = "Gene-level probes"
MOST_CELLS = 500
"""Most cells that a gene's vector is a mean over."""
FEWEST_CELLS = 3
"""Fewest cells that show a gene."""
FEWEST_GENES = 10
"""Fewest genes of each class."""
ABOUT = (
    "Genes of a labelled list, told apart by a logistic regression (standardised features, "
    f"balanced classes, C {STRENGTH}) on frozen vectors: a model's are a gene's mean contextual "
    f"vectors over at most {MOST_CELLS} cells. {FOLDS} stratified folds over genes; a gene is "
    "scored by a probe that never saw it. As Geneformer's gene tasks (Theodoris et al. 2023), but "
    f"frozen. Judged are the genes that {FEWEST_CELLS} of the cells or more show and that every "
    "model has a vector of. Intervals are of a bootstrap over genes. Mind that paralogues, which "
    "are alike in expression and in label, may stand on both sides of a fold: all methods profit, "
    "and a high figure need not mean that the label's cause is understood. How much a gene is "
    "expressed often says as much: see the baselines."
)
METRICS = {
    "auc": Metric(
        title="AUC",
        about="Area under the ROC curve of the genes' out-of-fold scores, as ranks within their "
        "fold; for several classes the mean over one against the rest. 0.5 is chance.",
        better="higher",
    ),
    "average_precision": Metric(
        title="Average precision",
        about="Of the same scores, mean over all classes as the one looked for; chance is one by "
        "the number of classes.",
        better="higher",
    ),
}
HEADLINES = ("auc",)
EXPRESSION, COEXPRESSION = "mean expression and detection rate", f"co-expression PCA-{COMPONENTS}"
BASELINES = (EXPRESSION, COEXPRESSION)
PCA_BASELINE = None
EXTRA_BASELINES: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Genes of a list that the cells of a file show."""

    name: str
    models: Sequence[Model]
    cells: Cells
    ids: list[str]
    """``M`` Ensembl ids."""
    classes: list[str]
    truth: Integers
    """``[M]`` place of each gene's label in `classes`."""
    expressed: csr_matrix
    """``[B, all detected genes]`` counts per 10,000 counts of the cell."""
    rows: Integers
    """``[M]`` column of each gene in `expressed`."""
    tokens: dict[str, Integers]
    """``[M]`` each gene's token, by the model's name; models without vectors of genes lack here."""
    left_out: int
    """Genes of the list that are left out."""
    bootstrap: int

    @property
    def about(self) -> dict[str, Any]:
        """Cells, genes of each class and folds."""
        counts = np.bincount(self.truth, minlength=len(self.classes)).tolist()
        return {
            "cells": self.cells.n_cells,
            "genes": dict(zip(self.classes, counts, strict=True)),
            "genes of the list left out": self.left_out,
            "folds": FOLDS,
        }

    @property
    def provenance(self) -> CellProvenance:
        """Where the cells come from; lists of genes are not searched in training data."""
        return self.cells.provenance

    @property
    def identity(self) -> dict[str, Any]:
        """Cells, genes with their labels, and the probe's settings."""
        labels = [self.classes[k] for k in self.truth]
        labelled = [f"{gene}\t{label}" for gene, label in zip(self.ids, labels, strict=True)]
        return {
            "cells": self.cells.hash,
            "genes": hashlib.sha256("\n".join(labelled).encode()).hexdigest()[:16],
            "folds": FOLDS,
            "strength": STRENGTH,
            "components": COMPONENTS,
        }


def load(data: Data, models: Sequence[Model], options: EvaluateOptions) -> list[Case]:
    """Find the list's genes among those of the cells and the models; see `evaluation.task.Task`."""
    if options.gene_list is None:
        raise UnfitError(
            "the task genes needs a list of genes with labels; give one with --gene-list"
        )
    if data.cells is None:
        raise UnfitError(f"{data.name} is a corpus; give a file of cells")
    from cellscribe.cells.gene_names.genes import map_genes
    from cellscribe.corpus.build.gene_space import all_genes

    table = all_genes()
    label_of = read_gene_list(options.gene_list)
    cells = data.cells.take(draw(data.cells.n_cells, MOST_CELLS, options.seed))
    place = map_genes(
        cells.var, table, gene_key=cells.gene_key, species=cells.species, name=cells.name
    ).token
    expressed = _per_ten_thousand(cells.counts, place, len(table))
    detected = np.flatnonzero(expressed.getnnz(axis=0) >= FEWEST_CELLS)
    chosen = np.zeros(len(table), dtype=np.bool_)
    chosen[detected] = True
    chosen &= np.isin(np.arange(len(table)), list(label_of))
    tokens = {}
    for model in models:
        if model.has_gene_vectors:
            tokens[model.name] = _tokens(model, cells, place, len(table))
            chosen &= np.isin(tokens[model.name], model.gene_vectors(cells).tokens)
    genes = np.flatnonzero(chosen)
    labels = [label_of[gene] for gene in genes.tolist()]
    classes = sorted(set(label_of.values()))
    _check_classes(labels, classes, options.gene_list, cells.name)
    return [
        Case(
            name=f"{cells.name}, {options.gene_list.stem}",
            models=models,
            cells=cells,
            ids=[table.ids[gene] for gene in genes.tolist()],
            classes=classes,
            truth=np.array([classes.index(label) for label in labels]),
            expressed=expressed[:, detected],
            rows=np.searchsorted(detected, genes),
            tokens={name: of_gene[genes] for name, of_gene in tokens.items()},
            left_out=len(label_of) - len(genes),
            bootstrap=options.bootstrap,
        )
    ]


def _check_classes(labels: list[str], classes: list[str], path: Path, name: str) -> None:
    for label in classes:
        n = labels.count(label)
        if n < FEWEST_GENES:
            raise InputError(
                f"{path}: {n} genes of class {label} can be judged on {name}, at least "
                f"{FEWEST_GENES} are needed; give a longer list, or cells that show more genes"
            )


def _tokens(model: Model, cells: Cells, place: npt.NDArray[np.int32], n: int) -> Integers:
    """Find the token of each gene of the table by the file's columns, ``[n]``; -1 for none."""
    found = model.header.map_genes(
        cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
    ).token
    tokens = np.full(n, -1, dtype=np.int64)
    np.maximum.at(tokens, place[place >= 0], found[place >= 0])
    return tokens


def _per_ten_thousand(counts: csr_matrix, place: npt.NDArray[np.int32], n: int) -> csr_matrix:
    """Scale counts of genes to 10,000 a cell, ``[B, n]``, columns of one gene summed."""
    from scipy.sparse import csr_matrix, diags

    known = np.flatnonzero(place >= 0)
    ones = np.ones(len(known), dtype=np.float64)
    gather = csr_matrix((ones, (known, place[known])), shape=(len(place), n))
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scaled = csr_matrix(diags(1e4 / np.maximum(totals, 1)) @ (counts.astype(np.float64) @ gather))
    scaled.eliminate_zeros()
    return scaled


def methods(case: Case, model: Model) -> list[Method]:
    """Return a model's row: its vectors of the genes; see `evaluation.task.Task`."""
    if model.name not in case.tokens:
        raise UnfitError(f"{model.name} has no vectors of genes")
    return [model.row(lambda: of_genes(model.gene_vectors(case.cells), case.tokens[model.name]))]


def of_genes(vectors: GeneVectors, tokens: Integers) -> npt.NDArray[np.float32]:
    """Select the vectors of some tokens, ``[M, D]``; each token has one."""
    places = np.searchsorted(vectors.tokens, tokens)
    assert (vectors.tokens[places] == tokens).all()
    return vectors.vectors[places]


def baselines(case: Case) -> list[Method]:
    """Return the rows of features of expression; see `evaluation.task.Task`."""
    ways: dict[str, Callable[[csr_matrix], Floats]] = {
        EXPRESSION: expression_features,
        COEXPRESSION: coexpression,
    }

    def features(way: Callable[[csr_matrix], Floats]) -> Floats:
        return way(case.expressed)[case.rows]

    return [
        Method(name=name, kind="baseline", predict=partial(features, way))
        for name, way in ways.items()
    ]


def score(case: Case, prediction: npt.NDArray[np.floating], seed: int) -> Scores:
    """Probe vectors of genes, ``[M, F]``; see `evaluation.task.Task`."""
    ranks, fold = probe_genes(prediction, case.truth, len(case.classes), seed)
    truth = case.truth

    def over_classes(one: Callable[..., float], rows: Integers) -> float:
        there, scores = truth[rows], ranks[rows]
        return float(np.mean([one(there == k, scores[:, k]) for k in range(len(case.classes))]))

    def estimate(one: Callable[..., float]) -> Estimate:
        return bootstrap(partial(over_classes, one), len(truth), draws=case.bootstrap, seed=seed)

    by_fold = [over_classes(area, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    curves = {}
    if len(case.classes) == 2:
        x, y = roc(truth == 1, ranks[:, 1])
        curves["ROC curve"] = Curve(
            x=x,
            y=y,
            x_label=f"share of {case.classes[0]} taken for {case.classes[1]}",
            y_label=f"share of {case.classes[1]} found",
        )
    return Scores(
        estimates={"auc": estimate(area), "average_precision": estimate(average_precision)},
        breakdowns={
            "AUC over folds": {
                "mean": float(np.mean(by_fold)),
                "standard deviation": float(np.std(by_fold, ddof=1)),
            }
        },
        curves=curves,
    )
