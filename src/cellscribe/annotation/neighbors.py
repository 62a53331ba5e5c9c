"""Labels from the nearest cells of a labelled reference, as shares of their votes.

Standardised vectors are compared by cosine. A label's share is its neighbours' votes, each weighted
by the inverse of its distance, next to one vote that is spread over all labels: a share of 15 cells
is no certainty, and a label without a vote is not impossible.

Letters: ``R`` reference cells, ``B`` cells, ``D`` width, ``K`` neighbours, ``C`` labels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

INSIDE = 0.99
"""Share of the held-out reference cells that lie within the limit of distance."""
CLOSEST = 1e-6
"""Distance below which two vectors count as one."""
PAIRS = 3
"""Pairs of labels that are named where neighbours contradict each other."""
CONTRADICTORY = 0.1
"""Share of contradicted labels from which on a user is warned."""
MOST_ASKED = 5_000
"""Labelled cells, drawn at random, that are asked for their neighbours before a fine-tuning."""
N_NEIGHBORS = 15
"""Of each of these."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


def search_cells(standard: Floats, n_neighbors: int) -> Any:
    """scikit-learn's search for the nearest by cosine, over ``[R, D]`` standardised vectors."""
    from sklearn.neighbors import NearestNeighbors

    nearest = min(n_neighbors, len(standard))
    return NearestNeighbors(n_neighbors=nearest, metric="cosine").fit(standard)


def vote(search: Any, truth: Integers, n_labels: int, standard: Floats) -> npt.NDArray[np.float64]:
    """Shares of the votes of the nearest cells, ``[B, D]`` to ``[B, C]``.

    Parameters
    ----------
    search
        From `search_cells`.
    truth
        ``[R]`` classes of the cells that it searches.
    n_labels
        ``C``.
    standard
        ``[B, D]`` standardised vectors.
    """
    distance_BK, neighbours_BK = search.kneighbors(standard)
    weight_BK = 1.0 / np.maximum(distance_BK, CLOSEST)
    # in votes of the cell's own mean weight, so that one spread vote is one of K + 1
    weight_BK /= weight_BK.mean(axis=1, keepdims=True)
    cells = np.arange(len(standard))[:, None]
    shares = np.tile(np.bincount(truth, minlength=n_labels) / len(truth), (len(standard), 1))
    np.add.at(shares, (cells, truth[neighbours_BK]), weight_BK)
    return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Contradictions:
    """How often the cells nearest to a labelled cell have another label than it."""

    share: float
    """Of the labelled cells, those for which another label has most of the votes."""
    pairs: list[tuple[str, str, int]]
    """Own label, the neighbours' label, cells; the most frequent ones."""

    def sentence(self) -> str:
        """One line for a reader."""
        found = ", ".join(f"{own!r} among {other!r} ({n:,})" for own, other, n in self.pairs)
        return (
            f"For {self.share:.1%} of the labelled cells the nearest ones mostly have another "
            f"label{': ' + found if found else ''}."
        )


def contradictions(shares: Floats, truth: Integers, labels: list[str]) -> Contradictions:
    """Count the cells whose nearest ones contradict their label.

    Parameters
    ----------
    shares
        ``[B, C]`` votes on cells that do not vote on themselves.
    truth
        ``[B]`` their classes.
    labels
        ``C`` names.
    """
    voted = shares.argmax(axis=1)
    wrong = voted != truth
    pairs = Counter(zip(truth[wrong].tolist(), voted[wrong].tolist(), strict=True))
    return Contradictions(
        share=float(wrong.mean()),
        pairs=[(labels[a], labels[b], n) for (a, b), n in pairs.most_common(PAIRS)],
    )


def held_out_contradictions(
    vectors: Floats, truth: Integers, labels: list[str], folds: Integers, seed: int
) -> Contradictions:
    """Count the cells whose nearest ones in other folds contradict their label.

    Parameters
    ----------
    vectors
        ``[R, D]``.
    truth, folds
        ``[R]`` classes, and parts of which one does not vote on itself.
    labels
        ``C`` names.
    seed
        Of the draw of at most `MOST_ASKED` cells.
    """
    rows = np.random.default_rng(seed).permutation(len(truth))[:MOST_ASKED]
    vectors, truth, folds = vectors[rows], truth[rows], folds[rows]
    scale = vectors.std(axis=0)
    standard = (vectors - vectors.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    shares, asked = np.zeros((len(truth), len(labels))), np.zeros(len(truth), bool)
    for fold in np.unique(folds):
        away = folds == fold
        # a label that no other cell has cannot be voted for, which contradicts nothing
        asked |= away & np.isin(truth, truth[~away])
        if away.all():
            continue
        search = search_cells(standard[~away], N_NEIGHBORS)
        shares[away] = vote(search, truth[~away], len(labels), standard[away])
    if not asked.any():
        return Contradictions(share=0.0, pairs=[])
    return contradictions(shares[asked], truth[asked], labels)
