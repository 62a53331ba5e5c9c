"""Labels from the nearest cells of a labelled reference; nothing is trained.

Vectors are standardised with the reference's mean and deviation, since the raw ones all point much
the same way, and compared by cosine. A label's probability is its share of the neighbours' votes,
each weighted by the inverse of its distance. The threshold comes from reference cells whose group
was held out; and a cell that lies farther from its neighbours than nearly all of those did is
unknown whatever they say.

Letters: ``R`` reference cells, ``B`` cells, ``D`` width, ``K`` neighbours, ``C`` labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import Calibration, calibrate
from cellscribe.annotation.labels import Labelled, choose_folds, learnable
from cellscribe.errors import InputError
from cellscribe.model.heads import best_of

INSIDE = 0.99
"""Share of the held-out reference cells that lie within the limit of distance."""
CLOSEST = 1e-6
"""Distance below which two vectors count as one."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Labelled vectors that vote; from `fit_reference`."""

    labels: list[str]
    search: Any
    """scikit-learn's NearestNeighbors over the standardised vectors."""
    truth: npt.NDArray[np.int64]
    """``[R]`` classes."""
    mean: Floats
    scale: Floats
    """``[D]`` each."""
    limit: float
    """Mean distance to the neighbours beyond which a cell is unknown."""
    calibration: Calibration

    def call(self, vectors: Floats) -> tuple[Any, Any, Any]:
        """Best class, its probability, and whether it is called; ``[B, D]`` to ``[B]`` each."""
        shares, distance = _vote(
            self.search, self.truth, len(self.labels), (vectors - self.mean) / self.scale
        )
        best, probability = best_of(shares)
        called = (probability >= self.calibration.threshold) & (distance <= self.limit)
        return best, probability, called


def fit_reference(
    vectors: Floats, labelled: Labelled, *, n_neighbors: int, folds: int, accuracy: float, seed: int
) -> Reference:
    """Prepare a reference, and learn from held-out groups what its votes are worth.

    Parameters
    ----------
    vectors
        ``[R, D]``, none of an empty cell.
    labelled
        Their labels and groups.
    n_neighbors
        ``K``.
    folds, accuracy, seed
        As in `AnnotateOptions`.

    Raises
    ------
    InputError
        No label occurs in two groups, or there are fewer cells than neighbours.
    """
    truth, n_labels = labelled.truth, len(labelled.labels)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (vectors - mean) / scale
    fold = choose_folds(truth, labelled.groups, folds, seed)
    fewest = len(truth) - int(np.bincount(fold).max())
    if fewest < n_neighbors:
        raise InputError(
            f"the reference has {fewest:,} labelled cells beside a held-out fold, fewer than "
            f"{n_neighbors} neighbours; lower --n-neighbors or give more cells"
        )
    tested, distance = np.zeros(len(truth), bool), np.empty(len(truth))
    shares = np.empty((len(truth), n_labels))
    for number in np.unique(fold):
        away = fold == number
        tested |= learnable(truth, ~away, away)
        search = _search(standard[~away], n_neighbors)
        shares[away], distance[away] = _vote(search, truth[~away], n_labels, standard[away])
    if not tested.any():
        raise InputError(
            "no label occurs in two groups, so nothing can be held out; name another column with "
            "--group, or leave it out"
        )
    with np.errstate(divide="ignore"):
        scores = np.log(shares[tested])
    return Reference(
        labels=labelled.labels,
        search=_search(standard, n_neighbors),
        truth=truth,
        mean=mean,
        scale=scale,
        limit=float(np.quantile(distance[tested], INSIDE)),
        # The votes' shares are the probabilities: there are too few of them for a temperature.
        calibration=calibrate(scores, truth[tested], fold[tested], accuracy, scale=False),
    )


def _search(standard: Floats, n_neighbors: int) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=n_neighbors, metric="cosine").fit(standard)


def _vote(
    search: Any, truth: npt.NDArray[np.int64], n_labels: int, standard: Floats
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shares of the votes ``[B, C]`` and mean distance to the neighbours ``[B]``."""
    distance_BK, neighbours_BK = search.kneighbors(standard)
    weight_BK = 1.0 / np.maximum(distance_BK, CLOSEST)
    cells = np.arange(len(standard))[:, None]
    shares = np.zeros((len(standard), n_labels))
    np.add.at(shares, (cells, truth[neighbours_BK]), weight_BK)
    return shares / shares.sum(axis=1, keepdims=True), distance_BK.mean(axis=1)
