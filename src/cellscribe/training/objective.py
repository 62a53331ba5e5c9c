"""What a network is trained for: masked genes, and for two views of a cell a second objective.

The masked-gene loss is the mean cross-entropy over a cell's chosen places, then over cells; logits
are computed at the chosen places only. The second objective has two parts: a regression, from the
vector of each view to the scores of the whole cell, and the contrast (`contrast`), which needs all
cells of a step and is added by the loop.

Letters: ``B`` cells, ``2B`` their views, ``C`` values of a vector, ``K`` scores,
``M`` chosen places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.model.pooling import Specials
from cellscribe.training.cross_entropy import cross_entropy
from cellscribe.training.masking import MaskedBatch

VIEWS = 2


class ViewLosses(NamedTuple):
    """Losses of two views of each cell, and the views' vectors."""

    total: torch.Tensor
    """Weighted sum of masked-gene loss and regression, mean over views and sum over cells;
    differentiable."""
    masked: torch.Tensor
    """Masked-gene loss, sum over views; detached."""
    regression: torch.Tensor
    """Mean squared difference from the whole cell's scores, sum over views; detached."""
    vectors: torch.Tensor
    """``[2B, C]``, first views first; differentiable."""


class Objective(nn.Module):
    """A network and its loss in one module, so that DDP or FSDP can wrap both.

    Parameters
    ----------
    model
        The network.
    mlm_weight, regression_weight
        Weights of two parts of the loss, where a batch holds two views of each cell.
    """

    def __init__(
        self, model: MaskedGeneModel, mlm_weight: float = 1.0, regression_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.mlm_weight, self.regression_weight = mlm_weight, regression_weight
        self.specials = Specials((CLS,) if model.config.cls_token else ())

    def forward(self, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor] | ViewLosses:
        """Compute the loss of a batch of packed cells.

        Returns
        -------
        total
            Sum over cells of the mean cross-entropy (natural logarithm) over a cell's chosen
            places; differentiable.
        losses
            ``[M]`` cross-entropy at each chosen place, detached.

        For a batch with scores of whole cells, `ViewLosses` instead.
        """
        model = self.model
        hidden_ND = model.encoder(batch.tokens_N, batch.cells, batch.positions_N)
        total, losses_M = cross_entropy(
            model.before_logits(hidden_ND[batch.chosen_M]),
            model.encoder.genes.weight,
            model.bias,
            batch.targets_M,
            batch.weights_M,
            model.transform.compute_dtype,
        )
        if batch.scores_BK is None:
            return total, losses_M
        vectors = model.encoder.cell_vectors(
            batch.tokens_N, hidden_ND, batch.cells, self.specials, "head", batch.positions_N
        )
        head = model.encoder.cell_head
        assert head is not None
        wrong_BK = head.scores(vectors) - batch.scores_BK.repeat(VIEWS, 1)
        regression = wrong_BK.square().mean(dim=1).sum()
        return ViewLosses(
            total=(self.mlm_weight * total + self.regression_weight * regression) / VIEWS,
            masked=total.detach(),
            regression=regression.detach(),
            vectors=vectors,
        )
