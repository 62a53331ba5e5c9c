"""Where the labelled types lie, and how far from them cells of known types come to lie.

The distance of a cell is that to the mean of its nearest type, in the directions in which cells of
one type differ little (class-wise Mahalanobis distance: Lee et al. 2018, arXiv:1807.03888). It is
compared with that of held-out cells of known types, and with that of cells of each type when the
type is left out. From these two comes the probability that a cell is of any known type at all.

All is fitted on plain arrays, and kept as plain arrays: next to a head, or in an index.

Letters: ``R`` reference cells, ``B`` cells, ``D`` width, ``A`` axes, ``C`` labels, ``F`` folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.align import fit_alignment
from cellscribe.config.annotate import Align
from cellscribe.errors import InputError

SHRINKAGE = 0.1
"""Weight of equal variances in the covariance within types."""
MOST_AXES = 256
"""Wider vectors are first brought to their first principal components."""
MOST_KEPT = 2_000
"""Reference cells, and held-out distances, that are kept."""
PRIOR = 0.2
"""Share of cells of types never taught that the odds of a known type reckon with."""
INSIDE = 0.95
"""Share of held-out cells within the limit of distance."""
TINY = 1e-6
"""Distance below which none is told apart."""
ALIGNMENTS: tuple[Align, ...] = ("none", "center", "scale", "mnn")
"""Alignments that are tried on held-out cells."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Types:
    """Means of types, and the axes in which cells of one type have variance 1."""

    means_CA: npt.NDArray[np.float64]
    """NaN for a type without cells."""
    axes_DA: npt.NDArray[np.float64]

    def distances(self, standard: Floats) -> npt.NDArray[np.float64]:
        """Distance to each type, ``[B, D]`` to ``[B, C]``; inf to one without cells."""
        placed_BA = standard @ self.axes_DA
        square_BC = (
            (placed_BA**2).sum(1)[:, None]
            + (self.means_CA**2).sum(1)
            - 2 * placed_BA @ self.means_CA.T
        )
        root = np.sqrt(np.maximum(square_BC / self.axes_DA.shape[1], TINY**2))
        return np.where(np.isnan(root), np.inf, root)


def fit_types(standard: Floats, truth: Integers, n_labels: int) -> Types:
    """Means and axes of labelled cells.

    Parameters
    ----------
    standard
        ``[R, D]`` standardised vectors.
    truth
        ``[R]`` classes.
    n_labels
        ``C``.
    """
    counts = np.bincount(truth, minlength=n_labels)
    means = np.zeros((n_labels, standard.shape[1]))
    np.add.at(means, truth, standard)
    means /= np.maximum(counts, 1)[:, None]
    width = standard.shape[1]
    basis = np.eye(width)
    if width > MOST_AXES:
        values, basis = np.linalg.eigh(standard.T @ standard / len(standard))
        basis = basis[:, np.argsort(values)[::-1][:MOST_AXES]]
    rest = (standard - means[truth]) @ basis
    within = rest.T @ rest / len(rest)
    even = max(np.trace(within) / len(within), TINY)
    within = (1 - SHRINKAGE) * within + SHRINKAGE * even * np.eye(len(within))
    axes = basis @ np.linalg.inv(np.linalg.cholesky(within)).T
    means = means @ axes
    means[counts == 0] = np.nan
    return Types(means_CA=means, axes_DA=axes)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What cells are compared with; from `fit_domain`."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    """``[D]`` each: vectors are standardised by them."""
    means_CA: npt.NDArray[np.float64]
    axes_DA: npt.NDArray[np.float64]
    """Of `Types`."""
    held_out: npt.NDArray[np.float64]
    """Distances of held-out cells, at most `MOST_KEPT`."""
    nearest: npt.NDArray[np.int64]
    """Type that each of these lies nearest to."""
    fold: npt.NDArray[np.int64]
    """Fold in which each was held out."""
    known: npt.NDArray[np.float64]
    """``[3]``: intercept and slope of the log odds of a known type by the log of the distance, and
    the mean probability of held-out cells, which counts as certain."""
    sample: npt.NDArray[np.float64]
    """``[S, D]`` standardised vectors of reference cells, at most `MOST_KEPT`."""
    gains: npt.NDArray[np.float64]
    """Share of held-out cells nearest to their own type, after each of `ALIGNMENTS`."""
    grouped: bool
    """Whether whole groups were held out."""

    def gain(self, name: Align) -> float:
        """The share of `gains` of one alignment."""
        return float(self.gains[ALIGNMENTS.index(name)])

    @property
    def limit(self) -> float:
        """Distance within which `INSIDE` of the held-out cells lie."""
        return float(np.quantile(self.held_out, INSIDE))

    def standardise(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """``[B, D]``."""
        return (np.asarray(vectors, np.float64) - self.mean) / self.scale

    def distance(self, standard: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Distance to the nearest type, and which it is, ``[B]`` each."""
        types = Types(means_CA=self.means_CA, axes_DA=self.axes_DA)
        each = types.distances(standard)
        return each.min(axis=1), each.argmin(axis=1)

    def known_type(self, distance: Floats) -> npt.NDArray[np.float64]:
        """Probability of being of any known type, by distance, ``[B]``."""
        return known_probability(self.known, distance)

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """All of it as float32, to be kept next to a head."""
        return {
            f"domain.{each.name}": np.atleast_1d(np.asarray(getattr(self, each.name), np.float32))
            for each in fields(self)
        }


def domain_of(tensors: Mapping[str, npt.NDArray[Any]], n_labels: int, width: int) -> Domain | None:
    """The domain that `Domain.tensors` gave; None where none was kept.

    Raises
    ------
    InputError
        It is damaged, or of another head.
    """
    if not any(name.startswith("domain.") for name in tensors):
        return None
    names = [each.name for each in fields(Domain)]
    values = {name: tensors.get(f"domain.{name}") for name in names}
    shapes = {name: () if value is None else value.shape for name, value in values.items()}
    wanted: dict[str, tuple[int, ...]] = {
        "mean": (width,),
        "scale": (width,),
        "means_CA": (n_labels, *shapes["axes_DA"][1:]),
        "axes_DA": (width, *shapes["axes_DA"][1:]),
        "held_out": shapes["fold"],
        "nearest": shapes["fold"],
        "known": (3,),
        "sample": (*shapes["sample"][:1], width),
        "gains": (len(ALIGNMENTS),),
        "grouped": (1,),
    }
    if any(shapes[name] != shape for name, shape in wanted.items()) or not shapes["fold"]:
        raise InputError(
            "what the head's cells are compared with is damaged, or of another model; fine-tune "
            "or copy the model again"
        )
    plain = {name: np.asarray(value, np.float64) for name, value in values.items()}
    whole = {name: plain.pop(name).astype(np.int64) for name in ("nearest", "fold")}
    grouped = bool(plain.pop("grouped")[0])
    return Domain(**plain, **whole, grouped=grouped)  # type: ignore[arg-type]


def known_probability(known: Floats, distance: Floats) -> npt.NDArray[np.float64]:
    """Probability of a known type, from the coefficients that `fit_known` gives.

    It is 1 for a cell no farther than held-out cells on the average, so that probabilities of
    labels hold as they are in a file where all types are known.
    """
    return np.minimum(1.0, _posterior(known, distance) / known[2])


def _posterior(known: Floats, distance: Floats) -> npt.NDArray[np.float64]:
    odds = known[0] + known[1] * np.log(np.maximum(distance, TINY))
    return 1 / (1 + np.exp(-np.clip(odds, -50, 50)))


def fit_known(near: Floats, withheld: list[Floats]) -> npt.NDArray[np.float64]:
    """Fit how the odds of a known type fall with the log of the distance.

    Parameters
    ----------
    near
        Distances of held-out cells of known types.
    withheld
        For each type the distances of its cells to all other types; all types count alike.

    Returns
    -------
    numpy.ndarray
        Intercept, slope, which is never above 0, and the mean probability of `near`.
    """
    from sklearn.linear_model import LogisticRegression

    flat = np.array([np.log(1 / PRIOR - 1), 0.0, 1 - PRIOR])
    withheld = [each for each in withheld if len(each)]
    if not withheld or not len(near):
        return flat
    x = np.log(np.maximum(np.concatenate([near, *withheld]), TINY))[:, None]
    y = np.repeat([1, 0], [len(near), len(x) - len(near)])
    weight = np.concatenate(
        [
            np.full(len(near), (1 - PRIOR) / len(near)),
            *(np.full(len(each), PRIOR / len(withheld) / len(each)) for each in withheld),
        ]
    )
    fitted = LogisticRegression(C=1e4).fit(x, y, sample_weight=weight * len(x))
    slope = float(fitted.coef_[0, 0])
    if slope >= 0:
        return flat
    found = np.array([float(fitted.intercept_[0]), slope, 1.0])
    found[2] = _posterior(found, near).mean()
    return found


@dataclass(frozen=True, kw_only=True)
class HeldOutDistances:
    """Distances of cells to what was learnt without them, ``[R]`` each."""

    distance: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.int64]
    without: npt.NDArray[np.float64]
    """Distance to the nearest type but their own; inf where there is none."""
    tested: npt.NDArray[np.bool_]
    """Whether a cell was held out, and its own type learnt."""

    @classmethod
    def none(cls, n_cells: int) -> HeldOutDistances:
        """Nothing measured yet, to be filled part by part."""
        return cls(
            distance=np.full(n_cells, np.nan),
            nearest=np.zeros(n_cells, np.int64),
            without=np.full(n_cells, np.inf),
            tested=np.zeros(n_cells, bool),
        )

    def some(self, rows: Any) -> HeldOutDistances:
        """Those of some cells."""
        return HeldOutDistances(
            distance=self.distance[rows],
            nearest=self.nearest[rows],
            without=self.without[rows],
            tested=self.tested[rows],
        )

    def fill(self, rows: Any, types: Types, standard: Floats, truth: Integers) -> None:
        """Measure the cells of `rows`, given their standardised vectors and classes."""
        each = types.distances(standard)
        own = np.arange(len(each)), truth
        self.distance[rows], self.nearest[rows] = each.min(axis=1), each.argmin(axis=1)
        self.tested[rows] = np.isfinite(each[own])
        each[own] = np.inf
        self.without[rows] = each.min(axis=1)


def fit_domain(
    vectors: Floats,
    truth: Integers,
    n_labels: int,
    folds: Integers,
    *,
    grouped: bool,
    seed: int = 0,
    held_out: HeldOutDistances | None = None,
) -> tuple[Domain, npt.NDArray[np.float64]]:
    """Learn where labelled cells lie, and how far from them held-out ones do.

    Parameters
    ----------
    vectors
        ``[R, D]``, none of an empty cell.
    truth
        ``[R]`` classes.
    n_labels
        ``C``.
    folds
        ``[R]`` part in which each cell is held out, from `choose_folds`.
    grouped
        Whether these parts are of whole groups.
    seed
        Of the choice of cells that are kept.
    held_out
        Distances measured by models that did not see the cells, where layers were trained; without,
        they are measured here.

    Returns
    -------
    domain
        Fitted on all cells.
    known
        ``[R]`` probability that each held-out cell is of a known type; NaN if not held out.
    """
    mean, scale = standardisation(vectors)
    standard = (vectors - mean) / scale
    if held_out is None:
        held_out = HeldOutDistances.none(len(truth))
        for fold in np.unique(folds):
            away = folds == fold
            types = fit_types(standard[~away], truth[~away], n_labels)
            held_out.fill(away, types, standard[away], truth[away])
    measured = np.isfinite(held_out.distance)
    used = held_out.tested if held_out.tested.any() else measured
    withheld = [
        held_out.without[(truth == c) & np.isfinite(held_out.without)] for c in range(n_labels)
    ]
    known = fit_known(held_out.distance[used], withheld)
    types = fit_types(standard, truth, n_labels)
    rng = np.random.default_rng(seed)
    kept, among = _draw(np.flatnonzero(used), rng), _draw(np.arange(len(truth)), rng)
    domain = Domain(
        mean=mean,
        scale=scale,
        means_CA=types.means_CA,
        axes_DA=types.axes_DA,
        held_out=held_out.distance[kept],
        nearest=held_out.nearest[kept],
        fold=np.asarray(folds[kept], np.int64),
        known=known,
        sample=standard[among],
        gains=_try_alignments(standard, truth, n_labels, folds, used, rng),
        grouped=grouped,
    )
    return domain, known_probability(known, held_out.distance)


def _try_alignments(
    standard: Floats,
    truth: Integers,
    n_labels: int,
    folds: Integers,
    used: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Align each held-out part to the rest; share of cells nearest to their own type."""
    rows = _draw(np.arange(len(truth)), rng)
    standard, truth, folds, used = standard[rows], truth[rows], folds[rows], used[rows]
    right = np.zeros(len(ALIGNMENTS))
    for fold in np.unique(folds):
        away = folds == fold
        if away.all():
            continue
        types = fit_types(standard[~away], truth[~away], n_labels)
        for place, name in enumerate(ALIGNMENTS):
            moved = fit_alignment(name, standard[away], standard[~away]).apply(standard[away])
            found = types.distances(moved).argmin(axis=1)
            right[place] += (found == truth[away])[used[away]].sum()
    return right / max(int(used.sum()), 1)


def standardisation(vectors: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and deviation of each value, ``[D]`` each; 1 where nothing varies."""
    mean = np.asarray(vectors, np.float64).mean(axis=0)
    scale = np.asarray(vectors, np.float64).std(axis=0)
    return mean, np.where(scale > 0, scale, 1.0)


def _draw(rows: npt.NDArray[np.intp], rng: np.random.Generator) -> npt.NDArray[np.intp]:
    if len(rows) <= MOST_KEPT:
        return rows
    return np.sort(rng.choice(rows, MOST_KEPT, replace=False))
