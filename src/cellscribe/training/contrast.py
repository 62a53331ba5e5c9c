"""The contrast of the second objective, over all cells of a step.

InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) in both directions, as SimCLR and CLIP have it:
the vector of a view is to be nearer, by cosine, to that of the other view of its cell than to those
of the other cells. All cells of a step are each other's negatives, over micro batches and ranks.
So the loss does not split into micro batches, but its gradient at the vectors does: it is computed
once for all of a step's vectors, and carried back through the network micro batch by micro batch
(Gao et al. 2021, arXiv:2101.06983).

Letters: ``B`` cells, ``2B`` their views, first views first, ``C`` values of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cellscribe.training.distributed import Team


def info_nce(first_BC: torch.Tensor, second_BC: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute the mean over cells and both directions; natural logarithm.

    Parameters
    ----------
    first_BC, second_BC
        Vectors of the two views of each cell, in one order.
    temperature
        Cosines are divided by it.

    Returns
    -------
    torch.Tensor
        Scalar: ``log B`` where the vectors tell nothing.
    """
    cosines_BB = F.normalize(first_BC, dim=1) @ F.normalize(second_BC, dim=1).T / temperature
    own_B = torch.arange(len(cosines_BB), device=cosines_BB.device)
    return (F.cross_entropy(cosines_BB, own_B) + F.cross_entropy(cosines_BB.T, own_B)) / 2


def contrast_gradients(
    vectors: Sequence[torch.Tensor], temperature: float, team: Team
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the loss over all cells of a step, and its gradient at this rank's vectors.

    Parameters
    ----------
    vectors
        ``[2B, C]`` of each micro batch of this rank.
    temperature
        See `info_nce`.
    team
        All ranks call it, with equally many cells.

    Returns
    -------
    loss
        `info_nce` times the number of cells of all ranks, the same on every rank; detached.
    gradients
        ``[2B, C]`` of each micro batch: of `loss`.
    """
    halves = [part.detach().float().chunk(2) for part in vectors]
    own = torch.stack([torch.cat(list(view)) for view in zip(*halves, strict=True)])
    everyone = team.all_gather(own)
    own.requires_grad_()
    everyone[team.rank] = own
    first, second = torch.cat(everyone, dim=1)
    with torch.enable_grad():
        loss = len(first) * info_nce(first, second, temperature)
    (gradient,) = torch.autograd.grad(loss, own)
    sizes = [len(half) for half, _ in halves]
    parts = zip(*(view.split(sizes) for view in gradient), strict=True)
    return loss.detach(), [torch.cat(views) for views in parts]
