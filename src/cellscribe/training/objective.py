"""The masked-gene loss: mean cross-entropy over a cell's chosen places, then over cells.

Logits are computed at the chosen places only.
"""

from __future__ import annotations

import torch
from torch import nn

from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.training.cross_entropy import cross_entropy
from cellscribe.training.masking import MaskedBatch


class Objective(nn.Module):
    """A network and its loss in one module, so that DDP or FSDP can wrap both."""

    def __init__(self, model: MaskedGeneModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss of a batch of packed cells.

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
