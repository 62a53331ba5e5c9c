"""The masked-gene loss: cross-entropy at the chosen places, mean over a cell's, then over cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cellscribe.model.attention import Cells
from cellscribe.model.encoder import MaskedGeneModel


def masked_gene_loss(
    model: MaskedGeneModel,
    tokens_BL: torch.Tensor,
    cells: Cells,
    positions_BL: torch.Tensor,
    chosen: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Loss of each cell.

    Parameters
    ----------
    model
        Encoder and head.
    tokens_BL, positions_BL
        ``[B, L]`` corrupted tokens and their ranks.
    cells
        Lengths of the ``B`` cells.
    chosen
        ``[M]`` places asked for, as ``cell * L + place``; every cell has at least one.
    targets
        ``[M]`` true tokens there.

    Returns
    -------
    torch.Tensor
        ``[B]`` mean cross-entropy over a cell's chosen places, natural logarithm.
    """
    hidden_BLD = model.encoder(tokens_BL, cells, positions_BL)
    hidden_MD = hidden_BLD.flatten(0, 1)[chosen]
    loss_M = F.cross_entropy(model.logits(hidden_MD), targets, reduction="none")
    cell_M = chosen.div(tokens_BL.shape[1], rounding_mode="floor")
    total_B = torch.zeros(len(tokens_BL), device=loss_M.device).index_add(0, cell_M, loss_M)
    return total_B / torch.bincount(cell_M, minlength=len(tokens_BL))
