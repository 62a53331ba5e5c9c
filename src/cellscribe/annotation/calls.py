"""Calls of cells: vectors in, labels out, aligned to the reference and tempered by the distance.

A probability is that of the label among the known ones, times that of the cell being of any known
type, which falls with its distance from the reference (`domain`). So the probabilities of a cell
sum to less than 1, and the rest is for a type that was never taught.

Letters: ``B`` cells, ``D`` width, ``C`` labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.align import Alignment, fit_alignment, no_alignment, spread_of
from cellscribe.annotation.domain import Domain, domain_of
from cellscribe.annotation.reference import Reference
from cellscribe.annotation.shift import Shift, measure_shift
from cellscribe.callbacks import Log
from cellscribe.config.annotate import Align
from cellscribe.errors import InputError
from cellscribe.model.heads import Head

FEWEST_CELLS = 50
"""Cells that ``auto`` needs to align at all."""
PAIRED = 0.5
"""Share of cells with mutual nearest neighbours that ``auto`` needs: another tissue has few."""
MOST_OF_ONE = 0.9
"""Share of cells nearest to one type, above which ``auto`` does not align: a move alone can bring
any one kind of cell onto any type."""
NO_WORSE = 0.01
"""Held-out accuracy that aligning may cost for ``auto`` to take it."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Called:
    """What cells are called, ``[B]`` each."""

    each: npt.NDArray[np.float64]
    """``[B, C]`` probabilities; what they lack to 1 is for a type never taught."""
    best: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    """Of the best."""
    called: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float64]
    """Distance over that within which 95 % of the held-out cells lie; NaN where none is known."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A head, or a reference, that calls cells."""

    labels: list[str]
    threshold: float
    classify: Callable[[Floats], npt.NDArray[np.float64]]
    """Vectors ``[B, D]`` to probabilities ``[B, C]`` of a cell of a known type."""
    domain: Domain | None
    """None with a head that was made without one."""
    alignment: Alignment | None = None

    def call(self, vectors: Floats) -> Called:
        """Call cells by their vectors, ``[B, D]``."""
        vectors = np.asarray(vectors, np.float64)
        distance = np.full(len(vectors), np.nan)
        known = np.ones(len(vectors))
        if self.domain is not None:
            standard, spread = self.domain.standardise(vectors), 1.0
            if self.alignment is not None and self.alignment.name != "none":
                standard, spread = self.alignment.apply(standard), self.alignment.spread
                vectors = standard * self.domain.scale + self.domain.mean
            away = self.domain.distance(standard)[0] / spread
            known, distance = self.domain.known_type(away), away / self.domain.limit
        each = self.classify(vectors) * known[:, None]
        rows, order = np.arange(len(each)), np.argsort(-each, axis=1, kind="stable")
        best = order[:, 0]
        return Called(
            each=each,
            best=best,
            second=order[:, min(1, each.shape[1] - 1)],
            probability=each[rows, best],
            called=each[rows, best] >= self.threshold,
            distance=distance,
        )

    def meet(self, vectors: Floats, align: Align, log: Log) -> tuple[Caller, Shift | None]:
        """Measure how new cells lie next to the reference, and align them.

        Parameters
        ----------
        vectors
            ``[B, D]`` of the cells, or a sample of them; none of an empty cell.
        align
            What was asked for.
        log
            Called with what a user should read before any label.

        Raises
        ------
        InputError
            An alignment is asked for, and the head was made without what it takes.
        """
        if self.domain is None:
            if align not in ("auto", "none"):
                raise InputError(
                    f"--align {align}: this model was fine-tuned without what its cells are "
                    "compared with; fine-tune it again, or leave --align out"
                )
            return self, None
        standard = self.domain.standardise(vectors)
        shift = measure_shift(self.domain, *self.domain.distance(standard))
        log(shift.sentence() if shift.verdict == "inside" else f"Warning: {shift.sentence()}")
        alignment = self._align(self.domain, standard, align, shift, log)
        return replace(self, alignment=alignment), shift

    def _align(
        self, domain: Domain, standard: Floats, align: Align, shift: Shift, log: Log
    ) -> Alignment:
        """Fit what was asked for; ``auto`` decides by shift and held-out groups."""
        name = align
        if align == "auto":
            harmless = domain.gain("mnn") >= domain.gain("none") - NO_WORSE or not domain.grouped
            shifted = shift.verdict != "inside" and len(standard) >= FEWEST_CELLS
            name = "mnn" if shifted and harmless else "none"
        if name == "none":
            return no_alignment(standard.shape[1])
        fitted = fit_alignment(name, standard, domain.sample)
        away, nearest = domain.distance(fitted.apply(standard))
        one = np.bincount(nearest).max() / len(nearest)
        if align == "auto" and (fitted.paired < PAIRED or one > MOST_OF_ONE):
            log(
                f"The cells are not aligned to the reference: {fitted.paired:.0%} of them have "
                f"mutual nearest neighbours in it, and {one:.0%} would lie nearest to one type. "
                "If they are of its types all the same, give --align mnn."
            )
            return no_alignment(standard.shape[1])
        held_out = "groups" if domain.grouped else "cells"
        log(
            f"The cells are aligned to the reference (--align {name}). Of {held_out} held out of "
            f"it, {domain.gain(name):.1%} are nearest to their own type after the same, "
            f"{domain.gain('none'):.1%} without."
        )
        return replace(fitted, spread=spread_of(away, domain.held_out))


def caller_of_head(head: Head) -> Caller:
    """The caller of a fine-tuned model's head.

    Raises
    ------
    InputError
        What is kept with the head is damaged.
    """
    return Caller(
        labels=head.labels,
        threshold=head.threshold,
        classify=head.probabilities,
        domain=domain_of(head.tensors, len(head.labels), head.weight.shape[1]),
    )


def caller_of_reference(reference: Reference) -> Caller:
    """The caller of a labelled reference."""
    return Caller(
        labels=reference.labels,
        threshold=reference.calibration.threshold,
        classify=reference.probabilities,
        domain=reference.domain,
    )
