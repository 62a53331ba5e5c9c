"""Vector of a cell from the vectors of its tokens.

The tokens of a cell are summed in the same order whatever other cells are in the batch. BioNeMo's
mean leaves out the last gene, so nothing would be left of a cell with one gene (BioNeMo returns
NaN): such a cell gets the vector of its gene.

Letters: ``B`` cells, ``L`` tokens of the longest, ``N`` packed tokens, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.model.attention import Lengths


@dataclass(frozen=True)
class Specials:
    """Special tokens around the genes of every cell."""

    front: tuple[int, ...] = ()
    back: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Number of special tokens."""
        return len(self.front) + len(self.back)

    def pack(
        self, cells: Sequence[npt.NDArray[np.integer]], device: torch.device
    ) -> tuple[torch.Tensor, Lengths]:
        """Cells one after the other, each between its special tokens: ``[N]`` int64, and where."""
        front, back = np.array(self.front, np.int64), np.array(self.back, np.int64)
        tokens = np.concatenate([part for cell in cells for part in (front, cell, back)])
        where = Lengths(tuple(len(cell) + self.n for cell in cells), device)
        return torch.from_numpy(tokens.astype(np.int64, copy=False)).to(device), where

    def genes_among(self, tokens: torch.Tensor, cells: Lengths) -> torch.Tensor:
        """True where a token is a gene of its cell, for packed ``[N]`` or padded ``[B, L]``."""
        place, end = cells.positions(tokens), cells.lengths_B[:, None]
        if tokens.ndim == 1:
            end = cells.lengths_B.repeat_interleave(cells.lengths_B, output_size=len(tokens))
        return (place >= len(self.front)) & (place < end - len(self.back))


def pool(
    values: torch.Tensor, cells: Lengths, specials: Specials = Specials(), how: str = "genes"
) -> torch.Tensor:
    """Vectors of cells ``[B, D]``, from packed ``[N, D]`` or padded ``[B, L, D]`` values.

    `how` is one of `config.Pooling.pool`, but not the cell head's.
    """
    return (pool_packed if values.ndim == 2 else pool_padded)(values, cells, specials, how)


def pool_packed(
    hidden_ND: torch.Tensor, cells: Lengths, specials: Specials, how: str = "genes"
) -> torch.Tensor:
    """Vectors of packed cells, ``[B, D]``; `how` is one of `config.Pooling.pool`."""
    starts, ends = cells.offsets[:-1].long(), cells.offsets[1:].long()
    if how == "cls":
        return hidden_ND[starts]
    sums_BD = torch.segment_reduce(
        hidden_ND, "sum", lengths=cells.lengths_B, axis=0, unsafe=True, initial=0.0
    )
    for place in range(len(specials.front)):
        sums_BD = sums_BD - hidden_ND[starts + place]
    for place in range(len(specials.back)):
        sums_BD = sums_BD - hidden_ND[ends - 1 - place]
    genes_B = cells.lengths_B - specials.n
    if how == "genes_but_last":
        several_B = genes_B > 1
        last_BD = hidden_ND[ends - 1 - len(specials.back)]
        sums_BD = torch.where(several_B[:, None], sums_BD - last_BD, sums_BD)
        genes_B = genes_B - several_B.long()
    return sums_BD / genes_B.clamp(min=1)[:, None]


def pool_padded(
    hidden_BLD: torch.Tensor, cells: Lengths, specials: Specials, how: str = "genes"
) -> torch.Tensor:
    """Vectors of padded cells, ``[B, D]``; `how` is one of `config.Pooling.pool`."""
    if how == "cls":
        return hidden_BLD[:, 0]
    genes_B = cells.lengths_B - specials.n
    if how == "genes_but_last":
        genes_B = genes_B - (genes_B > 1).long()
    first = len(specials.front)
    place_L = torch.arange(cells.longest, device=hidden_BLD.device)
    is_gene_BL = (place_L >= first) & (place_L < (first + genes_B)[:, None])
    sums_BD = hidden_BLD.masked_fill(~is_gene_BL[:, :, None], 0.0).sum(1)
    return sums_BD / genes_B.clamp(min=1)[:, None]
