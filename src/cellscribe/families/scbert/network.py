"""scBERT's network and tokeniser: bins of all genes in, vectors and importance of genes out.

A place is the sum of its bin's vector and its gene's (gene2vec, fixed); after the genes comes one
empty place with bin 0 and a vector of zeros. Tokens of a cell are its genes with a count, and their
bins; `Scbert.embed` lays them out over all places.

Letters: ``B`` cells, ``G`` genes, ``L = G + 1`` places, ``D`` width, ``N`` tokens of all cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from cellscribe.cells.tokens import CellTokens, known_counts
from cellscribe.errors import InputError
from cellscribe.families.base import TrainedParts
from cellscribe.families.performer import Performer, PerformerLayer, published_names
from cellscribe.families.scbert.config import MASK_TOKENS, POSITIONS, ScbertConfig
from cellscribe.model.attention import Lengths
from cellscribe.model.encoder import embedding

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

OUTER_NAMES = {
    "tokens.weight": ("token_emb.weight",),
    "places.weight": (POSITIONS,),
    "norm.weight": ("norm.weight",),
    "norm.bias": ("norm.bias",),
}
TOTAL = 10_000
"""Sum of the counts of a cell after scaling."""


class Convolution(nn.Module):
    """The published classifier without its last layer: one number a gene, then two layers."""

    def __init__(self, config: ScbertConfig) -> None:
        super().__init__()
        # a convolution whose kernel is as wide as the vectors is a linear layer on each of them
        self.conv = nn.Linear(config.width, 1)
        self.fc1 = nn.Linear(config.genes + 1, config.conv_hidden)
        self.fc2 = nn.Linear(config.conv_hidden, config.conv_width)

    def forward(self, hidden_LD: torch.Tensor) -> torch.Tensor:
        """Vector of a cell from those of all its places, ``[L, D]`` to ``[conv_width]``."""
        x_L = F.relu(self.conv(hidden_LD))[:, 0]
        return F.relu(self.fc2(F.relu(self.fc1(x_L))))


class ScbertNetwork(nn.Module):
    """Bins of all places to contextual vectors."""

    def __init__(self, config: ScbertConfig) -> None:
        super().__init__()
        self.tokens = embedding(config.bins + MASK_TOKENS, config.width)
        self.places = embedding(config.genes + 1, config.width)
        self.performer = Performer(
            width=config.width,
            heads=config.heads,
            head_width=config.head_width,
            ffn_width=config.ffn_width,
            depth=config.depth,
            features=config.features,
            qkv_bias=False,
        )
        self.norm = nn.LayerNorm(config.width)
        self.convolution = Convolution(config) if config.conv_width else None

    def inputs(self, bins_L: torch.Tensor) -> torch.Tensor:
        """Residual stream before the first layer, ``[L]`` to ``[L, D]``."""
        return self.tokens(bins_L) + self.places.weight

    def forward(self, bins_L: torch.Tensor) -> torch.Tensor:
        """Last hidden layer of one cell, after the norm, ``[L]`` int64 to ``[L, D]`` float32."""
        cells = Lengths((len(bins_L),), bins_L.device)
        hidden_LD: torch.Tensor = self.norm(self.performer(self.inputs(bins_L), cells))
        return hidden_LD

    def attention_received(self, bins_L: torch.Tensor, *, as_released: bool) -> torch.Tensor:
        """Attention that each place of a cell gets, mean over layers, heads and places, ``[L]``."""
        x_LD, total_L = self.inputs(bins_L), torch.zeros(len(bins_L), device=bins_L.device)
        for layer in self.performer.layers:
            assert isinstance(layer, PerformerLayer)
            if as_released:
                total_L += layer.received(layer.attend(x_LD))
            else:
                total_L += layer.received(x_LD)
                layer.attend(x_LD)
            layer.feed(x_LD)
        return total_L / len(self.performer.layers)


def untrained_convolution(config: ScbertConfig, seed: int) -> dict[str, torch.Tensor]:
    """Tensors of a convolution over genes with torch's first weights, as the published code has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = Convolution(config).state_dict()
    return {f"convolution.{name}": tensor for name, tensor in state.items()}


def tensor_names(depth: int) -> dict[str, tuple[str, ...]]:
    """Names of the network's state, each with the published tensors that it is made of."""
    trunk = published_names(depth, qkv_bias=False)
    return OUTER_NAMES | {f"performer.{ours}": theirs for ours, theirs in trunk.items()}


def build_network(
    config: ScbertConfig, tensors: Mapping[str, torch.Tensor], where: str
) -> ScbertNetwork:
    """Make the network of imported tensors, in evaluation mode.

    Raises
    ------
    InputError
        A tensor is missing, left over, or has another shape.
    """
    with torch.device("meta"):
        network = ScbertNetwork(config)
    wanted = {name: list(x.shape) for name, x in network.state_dict().items()}
    for names, what in (
        (sorted(set(wanted) - set(tensors)), "lacks"),
        (sorted(set(tensors) - set(wanted)), "also holds"),
    ):
        if names:
            raise InputError(
                f"{where}: {what} {', '.join(names[:5])} ({len(names):,} tensors in all); import "
                "the model again"
            )
    for name, shape in wanted.items():
        if list(tensors[name].shape) != shape:
            raise InputError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, the rest of the model "
                f"asks for {shape}; give the checkpoint as its makers published it"
            )
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval()


class Scbert:
    """A loaded scBERT, see `base.CellModel`."""

    reads_subsets = False

    def __init__(
        self, config: ScbertConfig, network: ScbertNetwork, pool: str, sentence: str
    ) -> None:
        self.config, self.pool = config, pool
        self.width = self.gene_width = config.width
        if pool == "conv":
            self.width = config.conv_width
        self.context = config.genes
        self.pooling = sentence
        self.network: ScbertNetwork = network

    def tokenize(self, block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        """Genes of each cell that have a count, with the bins of their counts."""
        return bin_counts(known_counts(block, token_of_column), self.config.bins)

    def places(self, cells: CellTokens) -> npt.NDArray[np.int64]:
        """``[B]``: every place of the network, 0 for a cell without a known gene."""
        return np.where(cells.lengths > 0, self.config.genes + 1, 0)

    def bins(self, cells: CellTokens, row: int) -> torch.Tensor:
        """Bin of every place of a cell, ``[L]`` int64, on the network's device."""
        assert cells.values is not None
        own = slice(cells.offsets[row], cells.offsets[row + 1])
        bins_L = np.zeros(self.config.genes + 1, np.int64)
        bins_L[cells.tokens[own]] = cells.values[own]
        return torch.from_numpy(bins_L).to(self.network.places.weight.device)

    @torch.no_grad()
    def embed(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Vectors of some cells, none of them empty, ``[len(rows), D]`` float32.

        Mean (or largest value) over the vectors of all genes, without the empty place.
        """
        return self.forward(cells, rows)

    def forward(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> torch.Tensor:
        """Vectors of some cells, differentiably, see `base.CellModel`."""
        assert places is None
        vectors = []
        for row in rows:
            vectors.append(self.pooled(self.network(self.bins(cells, int(row)))))
        return torch.stack(vectors)

    def pooled(self, hidden_LD: torch.Tensor) -> torch.Tensor:
        """Vector of a cell from those of its places; only the convolution reads the empty one."""
        if self.pool == "conv":
            assert self.network.convolution is not None
            vector: torch.Tensor = self.network.convolution(hidden_LD)
            return vector
        return hidden_LD[:-1].amax(0) if self.pool == "max" else hidden_LD[:-1].mean(0)

    def trained_parts(self) -> TrainedParts:
        """Tell apart the parts of the network that fine-tuning trains, see `base.CellModel`."""
        network = self.network
        made_by = network.convolution if self.pool == "conv" else None
        return TrainedParts(
            blocks=list(network.performer.layers),
            closing=[network.norm],
            vector=[] if made_by is None else [made_by],
            adapted=("qkv", "attention_out", "up", "down"),
            fixed=[network.places.weight],
        )

    def stored(self) -> dict[str, torch.Tensor]:
        """Tensors of the network, whose names are those of a model directory."""
        return dict(self.network.state_dict())

    @torch.no_grad()
    def gene_vectors(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every gene in each of some cells, also those without a count, see `base.GeneModel`."""
        hidden_MD = torch.cat([self.network(self.bins(cells, int(row)))[:-1] for row in rows])
        tokens_G = torch.arange(self.config.genes, device=hidden_MD.device)
        return tokens_G.repeat(len(rows)), hidden_MD

    @torch.no_grad()
    def importance(
        self, cells: CellTokens, rows: npt.NDArray[np.int64], *, as_released: bool = True
    ) -> torch.Tensor:
        """Share of a cell's attention that each gene gets, ``[len(rows), G]`` float32.

        Attention from every place to every place, mean over layers and heads, then over queries,
        divided by the sum of all; the empty place is left out. The released code runs the attention
        of a layer a second time, after its first output was added to the residual stream, and uses
        the weights of that run. So does this; with `as_released` False it uses the weights of the
        first run, which really mix the vectors. No table of places by places is made, see
        `PerformerLayer.received`.
        """
        shares = []
        for row in rows:
            received_L = self.network.attention_received(
                self.bins(cells, int(row)), as_released=as_released
            )
            shares.append((received_L / received_L.sum())[:-1])
        return torch.stack(shares)


def bin_counts(cells: CellTokens, bins: int) -> CellTokens:
    """Turn counts to bins: ``floor(log2(1 + 10,000 count / total))``, at most `bins`.

    `total` is that of the cell's known genes. In whole numbers: bin b or higher is
    ``10,000 count >= (2 ** b - 1) total``, so no rounding decides which side of a border a count
    falls on.
    """
    assert cells.values is not None
    counts = cells.values.astype(np.float64)
    totals = np.repeat(np.add.reduceat(np.append(counts, 0.0), cells.offsets[:-1]), cells.lengths)
    values = np.zeros(len(counts), np.float32)
    for border in range(1, bins + 1):
        values += TOTAL * counts >= (2**border - 1) * totals
    return dataclasses.replace(cells, values=values)
