"""The gradient of one step, micro batch by micro batch, for masked genes or for two views."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from cellscribe.config import TrainOptions
from cellscribe.training.contrast import contrast_gradients
from cellscribe.training.distributed import Team
from cellscribe.training.masking import MaskedBatch
from cellscribe.training.objective import ViewLosses


class StepLosses(NamedTuple):
    """Losses of this rank's cells, summed; to be added up over ranks."""

    loss: float
    """Masked-gene loss, of cells or of both their views."""
    regression: float = 0.0
    """Regression, of both views."""
    contrast: float = 0.0
    """This rank's share of the contrast."""


def gene_gradients(
    module: nn.Module,
    micro: Sequence[MaskedBatch],
    factor: float,
    seed: int,
    options: TrainOptions,
    device: torch.device,
    team: Team,
) -> StepLosses:
    """Add up the gradients of the masked-gene loss.

    Parameters
    ----------
    module
        The objective as `Team.wrap` returned it; its parameters' gradients are added to.
    micro
        This rank's micro batches, on the CPU.
    factor
        Of the loss, before the backward pass.
    seed
        Of dropout.
    options
        Not read; the signature is that of `view_gradients`.
    device, team
        Where to compute, and with whom.
    """
    torch.manual_seed(seed)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for place, batch in enumerate(micro):
        with _synced(module, team, last=place == len(micro) - 1):
            total, _ = module(batch.to(device))
            (total * factor).backward()
        loss += total.detach()
    return StepLosses(loss=float(loss))


def view_gradients(
    module: nn.Module,
    micro: Sequence[MaskedBatch],
    factor: float,
    seed: int,
    options: TrainOptions,
    device: torch.device,
    team: Team,
) -> StepLosses:
    """Add up the gradients of masked genes, regression and contrast; as `gene_gradients`.

    The contrast needs the vectors of all micro batches before the first backward pass. So several
    micro batches go through the network twice: first without a gradient, then with the same dropout
    and the contrast's gradient at their vectors. A single one goes through it once.
    """
    batches = [batch.to(device) for batch in micro]
    random = torch.Generator().manual_seed(seed)
    seeds = torch.randint(1 << 62, (len(batches),), generator=random).tolist()
    vectors: list[torch.Tensor] = []
    if len(batches) > 1:
        with torch.no_grad():
            vectors = [_views(module, *each).vectors for each in zip(batches, seeds, strict=True)]
        team.reshard(module)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    contrast, at_vectors = torch.zeros(()), [torch.zeros(())]
    for place, batch in enumerate(batches):
        with _synced(module, team, last=place == len(batches) - 1):
            found = _views(module, batch, seeds[place])
            if place == 0:
                contrast, at_vectors = contrast_gradients(
                    vectors or [found.vectors], options.temperature, team
                )
            pulled = (found.vectors * at_vectors[place]).sum()
            ((found.total + options.contrast_weight * pulled) * factor).backward()
        sums += torch.stack([found.masked, found.regression])
    masked, regression = sums.tolist()
    return StepLosses(loss=masked, regression=regression, contrast=float(contrast) / team.size)


def _views(module: nn.Module, batch: MaskedBatch, seed: int) -> ViewLosses:
    """Compute the losses of a micro batch, with the dropout of a seed."""
    torch.manual_seed(seed)
    found: ViewLosses = module(batch)
    return found


def _synced(module: nn.Module, team: Team, *, last: bool) -> AbstractContextManager[object]:
    """Exchange gradients in the last micro batch of a step alone."""
    return nullcontext() if last else team.no_sync(module)
