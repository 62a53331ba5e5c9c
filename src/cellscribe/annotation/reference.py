"""A labelled reference that gives labels: a regularised classifier and the nearest cells together.

Logistic regression on standardised vectors, its penalty and temperature from held-out groups,
mixed with the shares of the nearest cells' votes, in the proportion that serves held-out groups
best. Shares alone are poor probabilities: a label of ten cells cannot have the votes of fifteen
neighbours, and with few cells most neighbours of a cell are of other types than its own.

Letters: ``R`` reference cells, ``B`` cells, ``D`` width, ``C`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import Calibration, calibrate, fit_temperature, log_loss
from cellscribe.annotation.domain import Domain, fit_domain
from cellscribe.annotation.labels import Labelled, choose_folds
from cellscribe.annotation.linear import LinearHead, fit_head
from cellscribe.annotation.neighbors import Contradictions, contradictions, search_cells, vote
from cellscribe.errors import InputError
from cellscribe.model.heads import probabilities

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the nearest cells in the mixture that are tried."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Labelled cells that tell probabilities of labels; from `fit_reference`."""

    labels: list[str]
    head: LinearHead
    """Reads standardised vectors."""
    softening: float
    """Temperature of the head before it is mixed."""
    search: Any
    """From `search_cells`, over the standardised vectors."""
    truth: npt.NDArray[np.int64]
    """``[R]`` classes."""
    neighbours_weight: float
    """Part of the nearest cells in the mixture."""
    domain: Domain
    calibration: Calibration
    contradictions: Contradictions
    folds: npt.NDArray[np.int64]
    """``[R]`` fold in which each cell was held out."""
    tested: npt.NDArray[np.bool_]
    """``[R]`` cells that the calibration rests on."""
    logits: npt.NDArray[np.float64]
    """``[cells of tested, C]`` what held-out cells were told."""
    known: npt.NDArray[np.float64]
    """``[R]`` probability that each held-out cell is of a known type."""

    def probabilities(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """Calibrated probabilities, ``[B, D]`` to ``[B, C]``, of a cell of a known type."""
        standard = self.domain.standardise(vectors)
        shares = None
        if self.neighbours_weight:
            shares = vote(self.search, self.truth, len(self.labels), standard)
        scores = mixed(self.head.logits(standard), shares, self.softening, self.neighbours_weight)
        return probabilities(scores, self.calibration.temperature)


def mixed(
    logits: Floats, shares: Floats | None, temperature: float, weight: float
) -> npt.NDArray[np.float64]:
    """Log of the mixture of a head's probabilities and shares of votes, ``[B, C]``."""
    each = (1 - weight) * probabilities(logits, temperature)
    if shares is not None:
        each = each + weight * shares
    with np.errstate(divide="ignore"):
        return np.log(each)


def fit_reference(
    vectors: Floats, labelled: Labelled, *, n_neighbors: int, folds: int, accuracy: float, seed: int
) -> Reference:
    """Prepare a reference, and learn from held-out groups what its answers are worth.

    Parameters
    ----------
    vectors
        ``[R, D]``, none of an empty cell.
    labelled
        Their labels and groups.
    n_neighbors
        Nearest cells that vote.
    folds, accuracy, seed
        As in `AnnotateOptions`.

    Raises
    ------
    InputError
        No label occurs in two groups, or there are fewer cells than neighbours.
    """
    truth, n_labels = labelled.truth, len(labelled.labels)
    fold = choose_folds(truth, labelled.groups, folds, seed)
    fewest = len(truth) - int(np.bincount(fold).max())
    if fewest < n_neighbors:
        raise InputError(
            f"the reference has {fewest:,} labelled cells beside a held-out fold, fewer than "
            f"{n_neighbors} neighbours; lower --n-neighbors or give more cells"
        )
    domain, known = fit_domain(
        vectors, truth, n_labels, fold, grouped=labelled.groups is not None, seed=seed
    )
    standard = domain.standardise(vectors)
    head, logits, tested = fit_head(standard, labelled, fold)
    shares = np.empty((len(truth), n_labels))
    for number in np.unique(fold):
        away = fold == number
        search = search_cells(standard[~away], n_neighbors)
        shares[away] = vote(search, truth[~away], n_labels, standard[away])
    shares, right = shares[tested], truth[tested]
    softening = fit_temperature(logits, right)
    losses = [log_loss(mixed(logits, shares, softening, weight), right) for weight in WEIGHTS]
    weight = WEIGHTS[int(np.argmin(losses))]
    return Reference(
        labels=labelled.labels,
        head=head,
        softening=softening,
        search=search_cells(standard, n_neighbors),
        truth=truth,
        neighbours_weight=weight,
        domain=domain,
        calibration=calibrate(
            mixed(logits, shares, softening, weight),
            right,
            fold[tested],
            accuracy,
            known=known[tested],
        ),
        contradictions=contradictions(shares, right, labelled.labels),
        folds=fold,
        tested=tested,
        logits=mixed(logits, shares, softening, weight),
        known=known,
    )
