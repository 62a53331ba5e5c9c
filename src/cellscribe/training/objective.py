"""The masked-gene loss: cross-entropy at the chosen places, mean over a cell's, then over cells.

Logits are made at the chosen places and nowhere else.
"""

from __future__ import annotations

import torch
from torch import nn

from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.training.cross_entropy import cross_entropy
from cellscribe.training.masking import MaskedBatch


class Objective(nn.Module):
    """A network and its loss: one module, so that what wraps a module wraps a whole step."""

    def __init__(self, model: MaskedGeneModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch of packed cells.

        Returns
        -------
        total
            Sum over cells of the mean cross-entropy (natural logarithm) over a cell's chosen
            places; differentiable.
        losses
            ``[M]`` cross-entropy at each chosen place, detached.
        """
        model = self.model
        hidden_ND = model.encoder(batch.tokens_N, batch.cells, batch.positions_N)
        return cross_entropy(
            model.before_logits(hidden_ND[batch.chosen_M]),
            model.encoder.genes.weight,
            model.bias,
            batch.targets_M,
            batch.weights_M,
            model.transform.compute_dtype,
        )
