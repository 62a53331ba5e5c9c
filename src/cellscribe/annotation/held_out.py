"""Trainings for one fine-tuned model: with groups held out, then on all cells.

While a fold of groups is held out to calibrate, another says when to stop: a fold that chose the
weights cannot also say how sure they may be. The model that is kept then learns from all cells, for
as many passes as proved best.

Letters: ``B`` labelled cells, ``C`` outputs of a head, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.annotation.domain import HeldOutDistances, fit_types, standardisation
from cellscribe.annotation.labels import choose_folds
from cellscribe.annotation.linear import LinearHead
from cellscribe.annotation.targets import ClassTarget, Target
from cellscribe.annotation.tuning import CellClassifier, Tuned, read_cells, tune, vectors_of
from cellscribe.callbacks import Log, Progress, in_step
from cellscribe.cells.pipeline import token_blocks
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.config import FinetuneOptions, Precision
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, tokenizer_of
from cellscribe.inference.session import Cells
from cellscribe.model.device import DTYPES

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What trainings with folds held out gave for one target."""

    logits: npt.NDArray[np.float64]
    """``[B, C]`` outputs of the head, of cells that were held out."""
    tested: npt.NDArray[np.bool_]
    """``[B]`` which these are."""
    how: str
    """What was held out for what, in words."""
    distances: HeldOutDistances
    """In the vectors of a model that did not see the cells; empty for a number."""
    epochs: list[int]
    """Passes of each training."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the trainings of one fine-tuning share; `run` does them."""

    model: CellModel
    """In float32; it makes its vectors as `vectors` were made."""
    untrained: bool
    """Whether layers that make the vector begin as torch makes them, and the head with them."""
    sources: Sequence[Cells]
    rows: Sequence[Integers]
    """Of each source, the rows that are learnt from, ascending: ``B`` in all."""
    targets: Sequence[Target]
    """What each head learns of these cells."""
    vectors: Floats
    """``[B, D]``."""
    folds: Integers
    """``[B]``."""
    strata: Integers
    """``[B]`` classes by which folds are drawn."""
    options: FinetuneOptions
    device: torch.device
    precision: Precision

    def run(self, progress: Progress, log: Log) -> tuple[Tuned, list[HeldOut]]:
        """Train with folds held out, then on all cells.

        Returns
        -------
        tuned
            On all cells.
        held_out
            Of each target.
        """
        ranked = self.tokens()
        found = self.hold_out(ranked, progress, log, last=True)
        passes = round(float(np.mean(found[0].epochs)))
        if not passes:
            log(
                "Training layers did not lower the loss on held-out cells: the encoder stays as it "
                "is. Take --mode head, or a lower --learning-rate."
            )
        what = f"Training {self.rotations + 1} of {self.rotations + 1}"
        rows = np.arange(len(self.folds))
        return self._tune(ranked, rows, None, progress, what, passes), found

    @property
    def rotations(self) -> int:
        """Folds that are held out in turn."""
        return min(self.options.calibration_folds, len(np.unique(self.folds)))

    def hold_out(
        self, ranked: CellTokens, progress: Progress, log: Log, *, last: bool = False
    ) -> list[HeldOut]:
        """Train with each of the first folds held out in turn; `last`: one more training follows.

        Returns
        -------
        list of HeldOut
            One for each target.

        Raises
        ------
        InputError
            Of a target, no label of a held-out fold occurs in another.
        """
        n_cells, rotations = len(self.folds), self.rotations
        tested = [np.zeros(n_cells, bool) for _ in self.targets]
        outputs = [np.empty((n_cells, target.n_outputs)) for target in self.targets]
        distances = [HeldOutDistances.none(n_cells) for _ in self.targets]
        epochs, how = [], ""
        for fold in range(rotations):
            away = self.folds == fold
            learn, stop, how = self._sides(fold, log if fold == 0 else _silent)
            here = [target.testable(learn, away) for target in self.targets]
            if not any(some.any() for some in here):
                continue
            what = f"Training {fold + 1} of {rotations + last}"
            done = self._tune(ranked, np.flatnonzero(learn), np.flatnonzero(stop), progress, what)
            read = _Read(done.model, ranked, np.flatnonzero(learn), np.flatnonzero(away))
            for number, target in enumerate(self.targets):
                if here[number].any():
                    outputs[number][here[number]] = read.outputs[number][here[number][away]]
                    tested[number] |= here[number]
                    if isinstance(target, ClassTarget):
                        read.measure(target, here[number], distances[number])
            epochs.append(done.epochs)
        if not all(some.any() for some in tested):
            raise InputError(
                "no label of the held-out group occurs in another; name another column with "
                "--group, or leave it out"
            )
        return [
            HeldOut(logits=logits, tested=some, how=how, distances=away_by, epochs=epochs)
            for logits, some, away_by in zip(outputs, tested, distances, strict=True)
        ]

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
            own = choose_folds(self.strata[rest], None, 10, self.options.seed)
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
        return tune(
            self.model,
            [self._first_head(target, learn) for target in self.targets],
            ranked,
            self.targets,
            learn,
            stop,
            self.options,
            epochs=self.options.epochs if epochs is None else epochs,
            device=self.device,
            dtype=DTYPES["float32" if self.precision == "fp16" else self.precision],
            progress=in_step(progress, what),
        )

    def _first_head(self, target: Target, learn: Integers) -> LinearHead:
        if self.untrained:
            return target.start_head(self.vectors.shape[1], self.options.seed)
        return target.first_head(self.vectors, learn[target.known[learn]])

    def tokens(self) -> CellTokens:
        """Tokens of the labelled cells."""
        parts = []
        for source, rows in zip(self.sources, self.rows, strict=True):
            first, counts = 0, source.counts
            tokenize = tokenizer_of(self.model, counts, source.genes)
            for block in token_blocks(counts, source.genes, tokenize):
                last = first + len(block.lengths)
                parts.append(pick(block, rows[(rows >= first) & (rows < last)] - first))
                first = last
        return CellTokens.concatenate(parts)


class _Read:
    """What a training makes of the cells that it learnt from, and of those that were held out."""

    def __init__(
        self, model: CellClassifier, ranked: CellTokens, learn: Integers, away: Integers
    ) -> None:
        self.model, self.ranked, self.learn, self.away = model, ranked, learn, away
        self.vectors, self.outputs = read_cells(model, ranked, away)

    @cached_property
    def learnt(self) -> npt.NDArray[np.float64]:
        """Vectors of the cells that it learnt from."""
        return vectors_of(self.model, self.ranked, self.learn)

    def measure(
        self, target: ClassTarget, here: npt.NDArray[np.bool_], held_out: HeldOutDistances
    ) -> None:
        """Measure how far held-out cells lie from the types that the training has learnt."""
        known = target.known[self.learn]
        learnt, truth = self.learnt[known], target.truth
        mean, scale = standardisation(learnt)
        types = fit_types((learnt - mean) / scale, truth[self.learn][known], target.n_labels)
        away = (self.vectors[here[self.away]] - mean) / scale
        held_out.fill(here, types, away, truth[here])


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
