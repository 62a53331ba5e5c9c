"""scGPT's network and tokeniser: genes and binned counts in, vectors out.

A place is the sum of its gene's vector and its value's, each after a LayerNorm of its own; there
are no positions, so the order of genes has no effect. The trunk is BERT's post-norm block with
ReLU. A value is a bin, or the constant of <cls>, so the value encoder computes one row for each
of these and places look them up.

Letters: ``B`` cells, ``N`` packed places, ``D`` width, ``K`` bins, that of <cls> first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from cellscribe.cells.tokens import CellTokens, known_counts
from cellscribe.families.base import TrainedParts
from cellscribe.families.scgpt.binning import bin_cells
from cellscribe.families.scgpt.config import LAYER_NORM_EPS, ScgptConfig
from cellscribe.families.weights import check_names
from cellscribe.model.attention import Lengths, packed
from cellscribe.model.encoder import Block, embedding
from cellscribe.model.pooling import Specials, pool_packed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

OUTER_NAMES = {
    "genes": "encoder.embedding",
    "gene_norm": "encoder.enc_norm",
    "value_in": "value_encoder.linear1",
    "value_out": "value_encoder.linear2",
    "value_norm": "value_encoder.norm",
}
BLOCK_NAMES = {
    "qkv": "self_attn.in_proj_",
    "attention_out": "self_attn.out_proj.",
    "attention_norm": "norm1.",
    "up": "linear1.",
    "down": "linear2.",
    "ffn_norm": "norm2.",
}


class ScgptNetwork(nn.Module):
    """Tokens and bins to contextual vectors."""

    values_K: torch.Tensor

    def __init__(self, config: ScgptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.genes = embedding(config.vocab_size, width)
        self.gene_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        # torch's own: its few rows stay in float32 whatever the blocks multiply in.
        self.value_in = nn.Linear(1, width)
        self.value_out = nn.Linear(width, width)
        self.value_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(Block(config.block()) for _ in range(config.num_hidden_layers))

    def value_rows(self, values_K: torch.Tensor) -> torch.Tensor:
        """Vector of each value, ``[K]`` to ``[K, D]``."""
        x = F.relu(self.value_in(values_K[:, None]))
        return self.value_norm(self.value_out(x))

    def forward(
        self, tokens_N: torch.Tensor, bins_N: torch.Tensor, values_K: torch.Tensor, cells: Lengths
    ) -> torch.Tensor:
        """Last hidden layer of packed cells, ``[N, D]`` float32; bins are rows of `values_K`."""
        x_ND = self.gene_norm(self.genes(tokens_N)) + self.value_rows(values_K)[bins_N]
        for block in self.blocks:
            x_ND = block(x_ND, cells, packed)
        return x_ND


def published_name(name: str) -> str:
    """A tensor's name in scGPT's own files, as torch's transformer layers call it."""
    stem, _, leaf = name.rpartition(".")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{leaf}"
    _, layer, part = stem.split(".")
    return f"transformer_encoder.layers.{layer}.{BLOCK_NAMES[part]}{leaf}"


def build_network(
    config: ScgptConfig, tensors: Mapping[str, torch.Tensor], where: str
) -> ScgptNetwork:
    """Make the network of published tensors, in evaluation mode.

    Raises
    ------
    InputError
        A tensor of the trunk is missing or has another shape, or one is left over.
    """
    with torch.device("meta"):
        network = ScgptNetwork(config)
    template = network.state_dict()
    check_names(tensors, {published_name(name): x for name, x in template.items()}, where)
    state = {name: tensors[published_name(name)].float() for name in template}
    network.load_state_dict(state, assign=True)
    return network.eval()


class Scgpt:
    """A loaded scGPT, see `base.CellModel`."""

    reads_subsets = True

    def __init__(
        self, config: ScgptConfig, network: ScgptNetwork, pool: str, sentence: str
    ) -> None:
        self.config, self.pool = config, pool
        self.width = self.gene_width = config.hidden_size
        self.context = config.context
        self.pooling = sentence
        self.network: ScgptNetwork = network

    def tokenize(self, block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        """Genes of each cell with the bins of their counts, without <cls>."""
        cells = known_counts(block, token_of_column)
        return bin_cells(cells, self.config.n_bins, self.context)

    def places(self, cells: CellTokens) -> npt.NDArray[np.int64]:
        """``[B]`` genes and <cls> of each cell, 0 for a cell without a gene."""
        return np.where(cells.lengths > 0, cells.lengths + 1, 0)

    def embed(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Vectors of unit length of some cells, none of them empty, ``[len(rows), D]`` float32."""
        return self.forward(cells, rows)

    def forward(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> torch.Tensor:
        """Vectors of some cells, or of some of their genes, see `base.CellModel`."""
        _, hidden_ND, where = self._hidden(cells, rows, places)
        how = "cls" if self.pool == "cls" else "genes"
        specials = Specials((self.config.cls_token,))
        return F.normalize(pool_packed(hidden_ND, where, specials, how))

    def trained_parts(self) -> TrainedParts:
        """Tell apart the parts of the network that fine-tuning trains, see `base.CellModel`."""
        return TrainedParts(
            blocks=list(self.network.blocks), adapted=("qkv", "attention_out", "up", "down")
        )

    def stored(self) -> dict[str, torch.Tensor]:
        """Tensors of the network under scGPT's names."""
        return {published_name(name): x for name, x in self.network.state_dict().items()}

    def gene_vectors(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Genes of some cells and their contextual vectors, see `base.GeneModel`."""
        tokens_N, hidden_ND, _ = self._hidden(cells, rows)
        is_gene_N = tokens_N != self.config.cls_token
        return tokens_N[is_gene_N], hidden_ND[is_gene_N]

    def _hidden(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, Lengths]:
        """Packed tokens of some cells, <cls> first, and their last hidden layer."""
        assert cells.values is not None
        cls, no_bin = np.array([self.config.cls_token], np.uint16), np.zeros(1, np.float32)
        tokens, bins = [], []
        for number, row in enumerate(rows):
            own: Any = slice(cells.offsets[row], cells.offsets[row + 1])
            if places is not None:
                own = cells.offsets[row] + places[number]
            tokens += [cls, cells.tokens[own]]
            bins += [no_bin, cells.values[own]]
        device = self.network.genes.weight.device
        values_K = torch.arange(self.config.n_bins, dtype=torch.float32)
        values_K[0] = self.config.cls_value
        where = Lengths(tuple(1 + len(part) for part in bins[1::2]), device)
        tokens_N = torch.from_numpy(np.concatenate(tokens).astype(np.int64)).to(device)
        bins_N = torch.from_numpy(np.concatenate(bins).astype(np.int64)).to(device)
        return tokens_N, self.network(tokens_N, bins_N, values_K.to(device), where), where
