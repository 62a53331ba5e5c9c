"""The cell head: one vector a cell, linear in two means over the cell's genes.

The first is the mean of the last hidden layer, as `pooling` makes it. The second is a weighted mean
of the gene vectors themselves, where the weight is a learned function of the rank. A bag of genes
keeps what a projection of normalised counts keeps, and hardly moves when a cell loses counts; the
hidden layer adds what genes mean together.

The second objective trains it (`training.objective`): from the vector, a second linear map, used
in training only, estimates the cell's scores on the principal components of the training corpus
(`corpus.components`).

Letters: ``B`` cells, ``L`` tokens of the longest, ``N`` packed tokens, ``D`` width, ``C`` values of
the vector, ``K`` components; ``...`` stands for ``N`` or ``B, L``.
"""

from __future__ import annotations

import torch
from torch import nn

from cellscribe.cells.gene_names.vocabulary import MASK
from cellscribe.config import ModelConfig
from cellscribe.model.attention import Lengths
from cellscribe.model.pooling import Specials, pool

GENE_SCALE = 25.0
"""Brings gene vectors, of root mean square 0.02 to 0.04, to the size of hidden states."""
HIDDEN_SCALE = 0.3
"""Of the mean hidden state: what it adds is learned more slowly than the mean of gene vectors."""
HALF_RANK = 100.0
"""Rank at which an untrained head's weight has fallen to one half."""


class CellHead(nn.Module):
    """Maps hidden states and gene vectors of cells to their vectors, in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ranks = nn.Parameter(torch.zeros(config.max_position_embeddings))
        """Logarithm of the weight of each place in a cell."""
        self.out = nn.Linear(2 * config.hidden_size, config.cell_vector_size)
        self.scores = nn.Linear(config.cell_vector_size, config.cell_scores)
        """``[B, C]`` vectors to ``[B, K]`` estimated scores."""

    def start(self) -> None:
        """Set initial weights.

        Those of the ranks fall slowly, as expression does. The hidden states begin without a say:
        the mean of gene vectors leads, and what they add is learned.
        """
        with torch.no_grad():
            self.out.weight[:, : self.out.in_features // 2] = 0.0
            place = torch.arange(len(self.ranks), dtype=torch.float32)
            self.ranks.copy_(-torch.log1p(place / HALF_RANK))

    def forward(
        self,
        hidden: torch.Tensor,
        genes: torch.Tensor,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cells: Lengths,
        specials: Specials,
    ) -> torch.Tensor:
        """Make the vectors of cells.

        Parameters
        ----------
        hidden
            ``[..., D]`` last hidden states.
        genes
            ``[..., D]`` vector of each token, without its position.
        tokens, positions
            ``[...]``; a token [MASK] takes no part in the mean of gene vectors.
        cells, specials
            Lengths of the cells, and the special tokens around their genes.

        Returns
        -------
        torch.Tensor
            ``[B, C]`` float32; a cell without a gene has that of zero means.
        """
        shown = specials.genes_among(tokens, cells) & (tokens != MASK)
        weights = self.ranks[positions].exp() * shown
        sums_BE = pool(torch.cat([genes * weights[..., None], weights[..., None]], -1), cells)
        bag_BD = GENE_SCALE * sums_BE[:, :-1] / sums_BE[:, -1:].clamp(min=1e-9)
        mean_BD = HIDDEN_SCALE * pool(hidden, cells, specials)
        vectors_BC: torch.Tensor = self.out(torch.cat([mean_BD, bag_BD], dim=1))
        return vectors_BC
