"""Trainings for one fine-tuned model: with groups held out, then on all cells.

While a fold of groups is held out to calibrate, another says when to stop: a fold that chose the
weights cannot also say how sure they may be. The model that is kept then learns from all cells, for
as many passes as proved best.

Letters: ``B`` labelled cells, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.annotation.domain import HeldOutDistances, fit_types, standardisation
from cellscribe.annotation.labels import Labelled, Log, choose_folds, learnable
from cellscribe.annotation.linear import fit_linear, start_linear
from cellscribe.annotation.tuning import Tuned, predict, tune, vectors_of
from cellscribe.callbacks import Progress, in_step
from cellscribe.cells.pipeline import token_blocks
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.config import FinetuneOptions, Precision
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, tokenizer_of
from cellscribe.inference.session import Cells
from cellscribe.model.device import DTYPES

FIRST = 0.1
"""Penalty of the regression that layers begin from: surer scores would leave them no gradient."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What trainings with folds held out gave."""

    logits: npt.NDArray[np.float64]
    """``[B, C]``, of cells that were held out."""
    tested: npt.NDArray[np.bool_]
    """``[B]`` which these are."""
    how: str
    """What was held out for what, in words."""
    distances: HeldOutDistances
    epochs: list[int]
    """Passes of each training."""


@dataclass(frozen=True)
class Training:
    """What the trainings of one fine-tuning share; `run` does them."""

    model: CellModel
    """In float32; it makes its vectors as `vectors` were made."""
    untrained: bool
    """Whether layers that make the vector begin as torch makes them, and the head with them."""
    sources: Sequence[Cells]
    labelled: Labelled
    vectors: Floats
    folds: Integers
    options: FinetuneOptions
    device: torch.device
    precision: Precision

    def run(
        self, progress: Progress, log: Log
    ) -> tuple[Tuned, npt.NDArray[np.float64], npt.NDArray[np.bool_], str, HeldOutDistances]:
        """Train with folds held out, then on all cells.

        Returns
        -------
        tuned
            On all cells.
        logits, tested
            As for `fit_head`.
        how
            What was held out for what, in words.
        held_out
            Distances of the held-out cells in the vectors of a model that did not see them.
        """
        ranked = self.tokens()
        found = self.hold_out(ranked, progress, log, last=True)
        passes = round(float(np.mean(found.epochs)))
        if not passes:
            log(
                "Training layers did not lower the loss on held-out cells: the encoder stays as it "
                "is. Take --mode head, or a lower --learning-rate."
            )
        what = f"Training {self.rotations + 1} of {self.rotations + 1}"
        rows = np.arange(len(self.labelled.truth))
        final = self._tune(ranked, rows, None, progress, what, passes)
        return final, found.logits[found.tested], found.tested, found.how, found.distances

    @property
    def rotations(self) -> int:
        """Folds that are held out in turn."""
        return min(self.options.calibration_folds, len(np.unique(self.folds)))

    def hold_out(
        self, ranked: CellTokens, progress: Progress, log: Log, *, last: bool = False
    ) -> HeldOut:
        """Train with each of the first folds held out in turn; `last`: one more training follows.

        Raises
        ------
        InputError
            No label of a held-out fold occurs in another.
        """
        truth, rotations = self.labelled.truth, self.rotations
        tested = np.zeros(len(truth), bool)
        logits = np.empty((len(truth), len(self.labelled.labels)))
        epochs, distances, how = [], HeldOutDistances.none(len(truth)), ""
        for fold in range(rotations):
            away = self.folds == fold
            learn, stop, how = self._sides(fold, log if fold == 0 else _silent)
            here = learnable(truth, learn, away)
            if not here.any():
                continue
            what = f"Training {fold + 1} of {rotations + last}"
            done = self._tune(ranked, np.flatnonzero(learn), np.flatnonzero(stop), progress, what)
            logits[here] = predict(done.model, ranked, np.flatnonzero(here))
            tested |= here
            self._measure(done, ranked, np.flatnonzero(learn), np.flatnonzero(here), distances)
            epochs.append(done.epochs)
        if not epochs:
            raise InputError(
                "no label of the held-out group occurs in another; name another column with "
                "--group, or leave it out"
            )
        return HeldOut(logits=logits, tested=tested, how=how, distances=distances, epochs=epochs)

    def _measure(
        self,
        done: Tuned,
        ranked: CellTokens,
        learn: Integers,
        here: Integers,
        held_out: HeldOutDistances,
    ) -> None:
        """Measure how far held-out cells lie from the types that a training has learnt."""
        truth = self.labelled.truth
        vectors = vectors_of(done.model, ranked, learn)
        mean, scale = standardisation(vectors)
        types = fit_types((vectors - mean) / scale, truth[learn], len(self.labelled.labels))
        away = (vectors_of(done.model, ranked, here) - mean) / scale
        held_out.fill(here, types, away, truth[here])

    def try_once(self, progress: Progress, what: str) -> Tuned:
        """Train with the first fold held out and not looked at; see `trials.search`."""
        learn, stop, _ = self._sides(0, _silent)
        rows, ends = np.flatnonzero(learn), np.flatnonzero(stop)
        return self._tune(self.tokens(), rows, ends, progress, what)

    def _sides(
        self, fold: int, log: Log
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], str]:
        """Which cells are learnt, and which say when to stop, while `fold` is held out."""
        parts = len(np.unique(self.folds))
        away = self.folds == fold
        if parts > 2:
            stop = self.folds == (fold + 1) % parts
            how = "one fold of groups, training stopped by another"
        else:
            # With two groups nothing but their own cells is left to say when to stop.
            rest = np.flatnonzero(~away)
            own = choose_folds(self.labelled.truth[rest], None, 10, self.options.seed)
            stop = np.zeros(len(away), bool)
            stop[rest[own == 0]] = True
            how = "one fold of groups, training stopped by cells of the groups that it learnt from"
            log(
                "Only two groups: one is held out for calibration, and training is stopped by a "
                "tenth of the other's cells."
            )
        return ~away & ~stop, stop, how

    def _tune(
        self,
        ranked: CellTokens,
        learn: Integers,
        stop: Integers | None,
        progress: Progress,
        what: str,
        epochs: int | None = None,
    ) -> Tuned:
        truth, n_labels = self.labelled.truth, len(self.labelled.labels)
        if self.untrained:
            first = start_linear(self.vectors.shape[1], n_labels, self.options.seed)
        else:
            first = fit_linear(self.vectors[learn], truth[learn], n_labels, FIRST)
        return tune(
            self.model,
            first,
            ranked,
            truth,
            learn,
            stop,
            self.options,
            epochs=self.options.epochs if epochs is None else epochs,
            device=self.device,
            dtype=DTYPES["float32" if self.precision == "fp16" else self.precision],
            progress=in_step(progress, what),
        )

    def tokens(self) -> CellTokens:
        """Tokens of the labelled cells."""
        parts = []
        for source, rows in zip(self.sources, self.labelled.rows, strict=True):
            first, counts = 0, source.counts
            tokenize = tokenizer_of(self.model, counts, source.genes)
            for block in token_blocks(counts, source.genes, tokenize):
                last = first + len(block.lengths)
                parts.append(pick(block, rows[(rows >= first) & (rows < last)] - first))
                first = last
        return CellTokens.concatenate(parts)


def _silent(_: str) -> None:
    pass


def pick(ranked: CellTokens, rows: Integers) -> CellTokens:
    """Some cells, in the order of `rows`."""
    lengths = ranked.lengths[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places = np.repeat(ranked.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return CellTokens(
        tokens=ranked.tokens[places],
        offsets=offsets,
        values=None if ranked.values is None else ranked.values[places],
        **{name: getattr(ranked, name)[rows] for name in PER_CELL},
    )
