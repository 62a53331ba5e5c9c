"""Simple predictions of the response to a perturbation: the baselines of the models.

No change, the mean of the training responses, the sum of single responses, and the linear model of
Ahlmann-Eltze, Huber and Anders 2025 (Nature Methods), which explains the training responses by a
vector for every gene and a vector for every perturbation. The linear model also takes a model's
vectors of genes: the row of a model differs from the baseline in nothing else.

Letters: ``N`` training perturbations, ``T`` tested ones, ``G`` genes, ``K`` components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Targets = Sequence[tuple[str, ...]]
Vectors = Mapping[str, Floats]
"""Gene as the screen writes it -> its vector; a gene without one is absent."""

COMPONENTS = 10
RIDGE = 0.1
"""Penalty on genes and on perturbations, as in the paper."""
MIN_KNOWN = 2
"""Fewest training perturbations with a vector for a fit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """Input of a prediction."""

    targets: tuple[tuple[str, ...], ...]
    """``N`` genes of each perturbation."""
    deltas: Floats
    """``[N, G]`` responses, relative to control."""
    control: Floats
    """``[G]`` mean log expression of control cells."""

    @property
    def mean(self) -> Floats:
        """``[G]`` mean response."""
        return self.deltas.mean(axis=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Predicted responses."""

    deltas: Floats
    """``[T, G]``, relative to control."""
    n_fallback: int = 0
    """Number of responses that are the training mean, since their genes have no vector."""


def no_change(training: Training, targets: Targets) -> Predicted:
    """Predict that cells stay as control cells are."""
    return Predicted(deltas=np.zeros((len(targets), training.deltas.shape[1])))


def training_mean(training: Training, targets: Targets) -> Predicted:
    """Predict the mean response of the training perturbations, whatever is perturbed."""
    return Predicted(deltas=np.tile(training.mean, (len(targets), 1)))


def additive(training: Training, targets: Targets) -> Predicted:
    """Predict the sum of the responses to the genes alone.

    A gene whose own response was not in training counts with the training mean; a single gene that
    was not seen is thus predicted as by `training_mean`.
    """
    alone = {
        genes[0]: delta
        for genes, delta in zip(training.targets, training.deltas, strict=True)
        if len(genes) == 1
    }
    mean = training.mean
    sums = [np.sum([alone.get(gene, mean) for gene in genes], axis=0) for genes in targets]
    return Predicted(
        deltas=np.array(sums),
        n_fallback=sum(not any(gene in alone for gene in genes) for genes in targets),
    )


def gene_components(training: Training, components: int = COMPONENTS) -> Floats:
    """``[G, K]`` of the linear model: principal components of the training profiles.

    Genes are the observations, profiles (of control cells, too) the variables.
    """
    profiles = np.vstack([training.control, training.control + training.deltas])
    return principal(profiles.T, components)


def principal(rows: Floats, components: int = COMPONENTS) -> Floats:
    """``[n, K]`` principal components of `rows` ``[n, width]``; K is no more than n or width.

    Signs are as they come; they make no difference to a linear model.
    """
    centred = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :components] * values[:components]


def linear(training: Training, targets: Targets, genes: Floats, vectors: Vectors) -> Predicted:
    """Predict by the linear model ``Y - b = G W P'``, with both sides ridged.

    ``W = (G'G + r I)^-1 G' (Y - b) P (P'P + r I)^-1`` with r of `RIDGE`; b is the mean of all
    training responses. It is fitted on the training perturbations whose genes all have a vector;
    tested ones that lack one are predicted as by `training_mean`. A combination's vector is the sum
    of its genes'.

    Parameters
    ----------
    training, targets
        Training responses, and the perturbations to predict.
    genes
        ``G``: ``[G, K]`` of `gene_components`.
    vectors
        Rows of ``P``, by gene.
    """
    mean = training.mean
    known = np.array([_vector(each, vectors) is not None for each in training.targets])
    predicted = np.tile(mean, (len(targets), 1))
    vectors_of_targets = [_vector(each, vectors) for each in targets]
    if known.sum() < MIN_KNOWN:
        return Predicted(deltas=predicted, n_fallback=len(targets))
    rows = np.array([_vector(each, vectors) for each, ok in zip(
        training.targets, known, strict=True) if ok])  # fmt: skip
    responses = (training.deltas[known] - mean).T
    left = np.linalg.solve(_ridged(genes), genes.T @ responses)
    weights = np.linalg.solve(_ridged(rows), (left @ rows).T).T
    for place, vector in enumerate(vectors_of_targets):
        if vector is not None:
            predicted[place] += genes @ (weights @ vector)
    return Predicted(
        deltas=predicted, n_fallback=sum(vector is None for vector in vectors_of_targets)
    )


def _vector(genes: tuple[str, ...], vectors: Vectors) -> Floats | None:
    if not all(gene in vectors for gene in genes):
        return None
    return np.sum([vectors[gene] for gene in genes], axis=0)


def _ridged(rows: Floats) -> Floats:
    return rows.T @ rows + RIDGE * np.eye(rows.shape[1])
