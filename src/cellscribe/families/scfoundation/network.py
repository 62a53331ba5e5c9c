"""scFoundation's networks and tokeniser: an encoder of what is expressed, a decoder of all genes.

A value becomes a vector by way of 100 soft bins, and a gene's place is its number in the gene list.
The encoder (post-norm blocks, ReLU) reads expressed genes and two more places: T, the log10 of the
read depth that is aimed at, and S, that of the cell's own. The decoder (a Performer) reads all
genes: what the encoder made of the expressed ones, and the vector of the value 0 for the others.

The encoder reads places whose value is above zero, as published: S of a cell with a single count is
0, so it is left out. Vectors are pooled by their place from the end, as published.

Letters: ``B`` cells, ``N`` packed places of the encoder, ``L`` places of the decoder, ``D`` width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from cellscribe.cells.tokens import CellTokens, Tokenize, known_counts
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.families import performer
from cellscribe.families.base import TrainedParts
from cellscribe.families.scfoundation.branches import merge
from cellscribe.families.scfoundation.config import (
    BRANCHES,
    SPECIALS,
    Depth,
    ScfoundationConfig,
)
from cellscribe.families.scfoundation.depths import totals_of, with_bulk_depths, with_depths
from cellscribe.families.scfoundation.names import tensor_names
from cellscribe.families.weights import renamed, unstacked
from cellscribe.model.attention import Lengths, packed
from cellscribe.model.encoder import Block, Linear, embedding, set_compute_dtype

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LAYER_NORM_EPS = 1e-5
FFN_FACTOR = 4
"""Width of feed-forward layers over that of the residual stream, in encoder and decoder."""
MIN_PLACES = 3
"""Places that the published pooling needs: two at the end, and one to take a maximum of."""


class ValueEmbedding(nn.Module):
    """Values to vectors: a mixture of learned rows, one a bin; always in float32."""

    def __init__(self, config: ScfoundationConfig) -> None:
        super().__init__()
        bins = config.bins
        self.bin_alpha = config.bin_alpha
        # torch's own, which keep float32 whatever the blocks multiply in.
        self.into = nn.Linear(1, bins)
        self.across = nn.Linear(bins, bins)
        self.rows = embedding(bins, config.width)

    def forward(self, values_N: torch.Tensor) -> torch.Tensor:
        """``[N]`` to ``[N, D]``."""
        scores = F.leaky_relu(self.into(values_N[:, None]), 0.1)
        scores = self.bin_alpha * scores + self.across(scores)
        return scores.softmax(-1) @ self.rows.weight


class ScfoundationNetwork(nn.Module):
    """One branch of a checkpoint: the encoder; for genes the decoder, too; for expression its head.

    Parameters
    ----------
    config
        Shape.
    branch
        One of `BRANCHES`, which defines the parts of the network.
    """

    def __init__(self, config: ScfoundationConfig, branch: str) -> None:
        super().__init__()
        self.config, self.branch = config, branch
        self.values = ValueEmbedding(config)
        self.positions = embedding(config.genes + len(SPECIALS), config.width)
        block = ModelConfig(
            hidden_size=config.width,
            num_attention_heads=config.heads,
            intermediate_size=FFN_FACTOR * config.width,
            hidden_act="relu",
            norm="post",
            layer_norm_eps=LAYER_NORM_EPS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.blocks = nn.ModuleList(Block(block) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        if BRANCHES[branch].decoder:
            width = config.decoder_width
            self.link = Linear(config.width, width)
            self.trunk = performer.Performer(
                width=width,
                heads=config.decoder_heads,
                head_width=config.decoder_head_width,
                ffn_width=FFN_FACTOR * width,
                depth=config.decoder_depth,
                qkv_bias=True,
                features=config.features,
            )
            self.trunk_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
            self.last_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        if BRANCHES[branch].final:
            self.final = nn.Linear(config.decoder_width, 1)

    def forward(
        self, tokens_N: torch.Tensor, values_N: torch.Tensor, cells: Lengths
    ) -> torch.Tensor:
        """Encode packed cells: last hidden layer, ``[N, D]`` float32."""
        x_ND = self.values(values_N) + self.positions(tokens_N)
        for block in self.blocks:
            x_ND = block(x_ND, cells, packed)
        return self.norm(x_ND)

    def decode(
        self, tokens_N: torch.Tensor, values_N: torch.Tensor, hidden_ND: torch.Tensor
    ) -> torch.Tensor:
        """Decode one cell.

        Parameters
        ----------
        tokens_N, values_N
            Of genes with a count, T and S, also where they are not above zero.
        hidden_ND
            Output of `forward` for the places whose value is above zero.

        Returns
        -------
        torch.Tensor
            ``[L, decoder width]`` float32: vectors of all genes, then of T and S.
        """
        zero_1D, n_places = self.values(values_N.new_zeros(1)), self.config.genes + 2
        x_LD = zero_1D.expand(n_places, -1).clone()
        x_LD[tokens_N] = self.values(values_N)
        x_LD[tokens_N[values_N > 0]] = hidden_ND
        x_LD += self.positions.weight[:n_places]
        y_LD = self.trunk(self.link(x_LD).float(), Lengths((n_places,), x_LD.device))
        return self.last_norm(self.trunk_norm(y_LD))


def build_network(
    config: ScfoundationConfig, branch: str, published: Mapping[str, torch.Tensor], where: str
) -> ScfoundationNetwork:
    """Make a branch of its published tensors, in evaluation mode.

    Raises
    ------
    InputError
        A tensor is missing, is left over, or has another shape.
    """
    with torch.device("meta"):
        network = ScfoundationNetwork(config, branch)
    names = tensor_names(config, branch)
    state = renamed(published, names, f"{where}, branch {branch}")
    for name, wanted in network.state_dict().items():
        if state[name].shape != wanted.shape:
            raise InputError(
                f"{where}, branch {branch}: {' + '.join(names[name])} has shape "
                f"{list(state[name].shape)} where the configuration asks for "
                f"{list(wanted.shape)}; the two belong to different models"
            )
    network.load_state_dict(state, assign=True)
    return network.eval()


class Scfoundation:
    """A loaded scFoundation, see `base.CellModel`; its decoders are made at their first use.

    Parameters
    ----------
    config
        Shape.
    branches
        Published tensors of each branch of the checkpoint.
    branch
        Branch that embeds cells.
    pool
        ``"all"`` or ``"max"``.
    depth
        Target depth, the value of T.
    sentence
        How a vector is made, in words.
    """

    reads_subsets = False

    def __init__(
        self,
        config: ScfoundationConfig,
        branches: Mapping[str, Mapping[str, torch.Tensor]],
        branch: str,
        pool: str,
        depth: Depth,
        sentence: str,
    ) -> None:
        self.config, self.pool, self.depth = config, pool, depth
        self.width = config.width * (4 if pool == "all" else 1)
        self.gene_width, self.context = config.decoder_width, config.genes
        self.pooling = sentence
        self._tensors, self._branch = branches, branch
        self._decoders: dict[str, ScfoundationNetwork] = {}
        self._lock = threading.Lock()
        self.network: ScfoundationNetwork = self._build(branch, "cell")

    bulk_rule = (
        "bulk samples are read by scFoundation's own rule: brought to their median total, log1p, "
        "both depths log10 of the sum of these values; no target depth is used"
    )

    def tokenize(self, block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        """Genes of each cell in the order of the gene list, T, S, and their values."""
        return with_depths(known_counts(block, token_of_column), self.config, self.depth)

    def bulk_tokenizer(
        self, blocks: Iterable[csr_matrix], token_of_column: npt.NDArray[np.int32]
    ) -> Tokenize:
        """See `base.BulkModel`: samples are brought to the median total of all of them."""
        totals = [totals_of(known_counts(block, token_of_column)) for block in blocks]
        shown = np.concatenate(totals)
        target = float(np.median(shown[shown > 0])) if shown.any() else 1.0

        def tokenize(block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
            counts = known_counts(block, token_of_column)
            return with_bulk_depths(counts, self.config, target)

        return tokenize

    def places(self, cells: CellTokens) -> npt.NDArray[np.int64]:
        """``[B]`` places of the encoder; 0 for a cell that the published pooling cannot read."""
        assert cells.values is not None
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(cells.values > 0)])
        shown = np.diff(before[cells.offsets])
        return np.where(shown >= MIN_PLACES, shown, 0)

    def embed(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Vectors of some cells, none of fewer than three places, ``[len(rows), D]`` float32."""
        with torch.inference_mode():
            return self.forward(cells, rows)

    def forward(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> torch.Tensor:
        """Vectors of some cells, differentiably, see `base.CellModel`."""
        assert places is None
        _, hidden = _encode(self.network, cells, rows)
        return torch.stack([pool_places(hidden_ND, self.pool) for hidden_ND in hidden])

    def trained_parts(self) -> TrainedParts:
        """Tell apart the parts of the encoder that fine-tuning trains, see `base.CellModel`."""
        network = self.network
        return TrainedParts(
            blocks=list(network.blocks),
            closing=[network.norm],
            adapted=("qkv", "attention_out", "up", "down"),
        )

    def stored(self) -> dict[str, torch.Tensor]:
        """Tensors of all branches under scFoundation's names, of one that trained its new ones."""
        trained = unstacked(self.network.state_dict(), tensor_names(self.config, "cell"))
        branches = {branch: dict(tensors) for branch, tensors in self._tensors.items()}
        branches[self._branch] |= trained
        return merge(branches)

    def gene_vectors(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All genes in each of some cells, also those without a count, by the branch ``gene``.

        See `base.GeneModel`; genes are in the order of the gene list.

        Raises
        ------
        InputError
            The checkpoint has no such branch.
        """
        network, genes = self._decoder("gene"), self.config.genes
        with torch.inference_mode():
            vectors = torch.cat([y_LD[:genes] for y_LD in _decode(network, cells, rows)])
        return torch.arange(genes, device=vectors.device).repeat(len(rows)), vectors

    def expression(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Predict the expression of all genes at the target depth, by the branch ``rde``.

        See `base.ExpressionModel`: log1p of counts per 10,000; 0 for special tokens.

        Raises
        ------
        InputError
            The checkpoint has no such branch.
        """
        network, genes = self._decoder("rde"), self.config.genes
        with torch.inference_mode():
            decoded = _decode(network, cells, rows)
            values = torch.stack([network.final(y_LD[:genes])[:, 0] for y_LD in decoded])
        return F.pad(values, (0, len(SPECIALS)))

    def _build(self, branch: str, part: str) -> ScfoundationNetwork:
        if branch not in self._tensors:
            raise InputError(
                f"this scFoundation has no branch {branch!r}, only {', '.join(self._tensors)}; "
                "import a file that holds it"
            )
        published = self._tensors[branch]
        wanted = {name for parts in tensor_names(self.config, part).values() for name in parts}
        used = {name: tensor for name, tensor in published.items() if name in wanted}
        return build_network(self.config, part, used, "model.safetensors")

    def _decoder(self, branch: str) -> ScfoundationNetwork:
        """Network of a branch, on the device and in the precision of the one that embeds."""
        with self._lock:
            if branch not in self._decoders:
                network = self._build(branch, branch)
                like = next(x for x in self.network.modules() if isinstance(x, Linear))
                set_compute_dtype(network, like.compute_dtype, cast_weights=True)
                self._decoders[branch] = network.to(like.weight.device)
            return self._decoders[branch]


def pool_places(hidden_ND: torch.Tensor, pool: str) -> torch.Tensor:
    """A cell's vector: its last place (S), the one before (T), maximum and mean of the others.

    With ``"max"``, the maximum of all places.
    """
    if pool == "max":
        return hidden_ND.amax(0)
    genes_ND = hidden_ND[:-2]
    return torch.cat([hidden_ND[-1], hidden_ND[-2], genes_ND.amax(0), genes_ND.mean(0)])


def _encode(
    network: ScfoundationNetwork, cells: CellTokens, rows: npt.NDArray[np.int64]
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], tuple[torch.Tensor, ...]]:
    """Tokens and values of each cell, and the encoder's output for those above zero."""
    assert cells.values is not None
    device, read = network.positions.weight.device, []
    for row in rows:
        span = slice(cells.offsets[row], cells.offsets[row + 1])
        tokens = torch.from_numpy(cells.tokens[span].astype(np.int64)).to(device)
        read.append((tokens, torch.from_numpy(cells.values[span].copy()).to(device)))
    shown = [(tokens[values > 0], values[values > 0]) for tokens, values in read]
    where = Lengths(tuple(len(tokens) for tokens, _ in shown), device)
    tokens_N, values_N = (torch.cat(parts) for parts in zip(*shown, strict=True))
    return read, network(tokens_N, values_N, where).split(list(where.lengths))


def _decode(
    network: ScfoundationNetwork, cells: CellTokens, rows: npt.NDArray[np.int64]
) -> Iterator[torch.Tensor]:
    """Decode some cells, none of them empty, ``[L, decoder width]`` each, one at a time."""
    for (tokens, values), hidden_ND in zip(*_encode(network, cells, rows), strict=True):
        yield network.decode(tokens, values, hidden_ND)
