"""What a head learns of the cells: the classes of a column of labels, or a number.

A target tells the head that training begins from, the loss of a batch, and the loss on held-out
cells. Cells that it does not know are masked: they take no part in either. The loss of a batch is
the sum over its known cells, divided by how many a batch has on the average, so that each known
cell counts alike however the batches fall.

Letters: ``B`` cells, ``C`` outputs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import log_loss
from cellscribe.annotation.labels import learnable
from cellscribe.annotation.linear import LinearHead, fit_linear, fit_ridge, start_linear

if TYPE_CHECKING:
    import torch

FIRST = 0.1
"""Penalty of the regression that layers begin from: surer scores would leave them no gradient. Of a
number it is a share of the cells."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


class Target(Protocol):
    """What one head learns."""

    @property
    def weight(self) -> float:
        """Of its loss among those of all heads."""

    @property
    def n_outputs(self) -> int:
        """``C``."""

    @property
    def known(self) -> Booleans:
        """``[B]`` cells that it knows."""

    def first_head(self, vectors: Floats, learn: Integers) -> LinearHead:
        """Fit the head that training begins from, on vectors ``[B, D]`` of the cells `learn`."""

    def start_head(self, width: int, seed: int) -> LinearHead:
        """The head on vectors that mean nothing yet."""

    def testable(self, learn: Booleans, away: Booleans) -> Booleans:
        """Which cells of `away` can be judged by a head that learnt from `learn`, ``[B]``."""

    def loss(self, outputs_BC: torch.Tensor, rows: Integers) -> torch.Tensor:
        """Mean loss of some cells, each of which is known."""

    def held_out_loss(self, outputs: Floats, rows: Integers) -> float:
        """The same of held-out cells."""


@dataclass(frozen=True, kw_only=True)
class ClassTarget:
    """Classes of a column, by cross entropy."""

    truth: Integers
    """``[B]`` classes, -1 for a cell without a label."""
    n_labels: int
    weight: float = 1.0

    @property
    def n_outputs(self) -> int:
        """``C``."""
        return self.n_labels

    @property
    def known(self) -> Booleans:
        """``[B]`` cells with a label."""
        return self.truth >= 0

    def first_head(self, vectors: Floats, learn: Integers) -> LinearHead:
        """Logistic regression."""
        return fit_linear(vectors[learn], self.truth[learn], self.n_labels, FIRST)

    def start_head(self, width: int, seed: int) -> LinearHead:
        """Torch's first weights of a linear layer."""
        return start_linear(width, self.n_labels, seed)

    def testable(self, learn: Booleans, away: Booleans) -> Booleans:
        """Those of a class that is among the learnt ones."""
        return learnable(self.truth, learn & self.known, away & self.known)

    def loss(self, outputs_BC: torch.Tensor, rows: Integers) -> torch.Tensor:
        """Cross entropy."""
        import torch
        import torch.nn.functional as F

        truth = torch.from_numpy(self.truth[rows]).to(outputs_BC.device)
        return F.cross_entropy(outputs_BC, truth)

    def held_out_loss(self, outputs: Floats, rows: Integers) -> float:
        """Mean negative log probability of the true class."""
        return log_loss(outputs, self.truth[rows])


@dataclass(frozen=True, kw_only=True)
class NumberTarget:
    """A number, by the squared error in units of its deviation among all cells."""

    truth: Floats
    """``[B]`` standardised values."""
    weight: float = 1.0
    n_outputs: int = 1

    @property
    def known(self) -> Booleans:
        """``[B]``; a cell without a value is not among the cells."""
        return np.isfinite(self.truth)

    def first_head(self, vectors: Floats, learn: Integers) -> LinearHead:
        """Ridge regression."""
        return fit_ridge(vectors[learn], self.truth[learn], FIRST)

    def start_head(self, width: int, seed: int) -> LinearHead:
        """Torch's first weights of a linear layer."""
        return start_linear(width, 1, seed)

    def testable(self, learn: Booleans, away: Booleans) -> Booleans:
        """All that are held out."""
        return away & self.known

    def loss(self, outputs_BC: torch.Tensor, rows: Integers) -> torch.Tensor:
        """Mean squared error."""
        import torch
        import torch.nn.functional as F

        truth = torch.from_numpy(self.truth[rows]).to(outputs_BC)
        return F.mse_loss(outputs_BC[:, 0], truth)

    def held_out_loss(self, outputs: Floats, rows: Integers) -> float:
        """Mean squared error."""
        return float(((outputs[:, 0] - self.truth[rows]) ** 2).mean())
