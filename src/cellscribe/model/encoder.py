"""The encoder: BERT as published for Geneformer, with the precision of sc-FM.

- gene + learned position (+ token type row 0), LayerNorm, dropout; blocks; masked-gene head tied to
  the gene vectors. ``norm = "pre"`` is Megatron's variant: norms inside the branches, one at the
  end, none on the embeddings.
- parameters, residual stream and LayerNorm in float32; matrix products in `compute_dtype`. There is
  no autocast: `Linear` casts what it multiplies, and nothing else is cast.
- everything but attention works place by place, so the same modules serve padded ``[B, L]`` and
  packed ``[N]`` tokens; the caller picks the layout by passing `attention.padded` or
  `attention.packed`.

Letters: ``B`` cells, ``L`` tokens, ``N`` packed tokens, ``D`` width, ``H`` heads, ``K`` head width,
``F`` feed-forward width, ``V`` vocabulary; ``...`` stands for ``B, L`` or ``N``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from cellscribe.config import ModelConfig
from cellscribe.model.attention import Attend, Lengths, packed, padded
from cellscribe.model.cell_head import CellHead
from cellscribe.model.pooling import Specials, pool


def activation(name: str, x: torch.Tensor) -> torch.Tensor:
    """Apply one of `ModelConfig.hidden_act`."""
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_new" else "none")


def embedding(rows: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """Table of vectors, all zeros, to be filled by `initialise` or from a file.

    Torch's own initial values on device "meta" would import its compiler, which takes two seconds.
    """
    return nn.Embedding(rows, width, padding_idx, _weight=torch.zeros(rows, width))


class Linear(nn.Linear):
    """A linear layer that multiplies in `compute_dtype`, whatever its parameters are kept in."""

    compute_dtype: torch.dtype = torch.float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``, the result in `compute_dtype`."""
        dtype = self.compute_dtype
        return F.linear(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class Block(nn.Module):
    """Self-attention and feed-forward, each with its residual sum and LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.hidden_act = config.hidden_act
        self.pre_norm = config.norm == "pre"
        self.attention_dropout = config.attention_probs_dropout_prob
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.up = Linear(width, config.intermediate_size)
        self.down = Linear(config.intermediate_size, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def attention(self, x: torch.Tensor, cells: Lengths, attend: Attend) -> torch.Tensor:
        """Self-attention within each cell, ``[..., D]`` in and out, before dropout."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        mixed = attend(q, k, v, cells, self.attention_dropout if self.training else 0.0)
        return self.attention_out(mixed.flatten(-2))

    def ffn(self, x: torch.Tensor) -> torch.Tensor:
        """Feed-forward layer, ``[..., D]`` in and out, before dropout."""
        return self.down(activation(self.hidden_act, self.up(x)))

    def forward(self, x: torch.Tensor, cells: Lengths, attend: Attend) -> torch.Tensor:
        """``[..., D]`` float32 residual stream in and out."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), cells, attend))
            return x + self.dropout(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, cells, attend)))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


class Encoder(nn.Module):
    """Gene tokens to contextual vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.genes = embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.positions = embedding(config.max_position_embeddings, width)
        self.token_types = embedding(config.type_vocab_size, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        # Post-norm has it on the embeddings, pre-norm after the last block.
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.cell_head = CellHead(config) if config.cell_vector_size else None
        self.pooler = Linear(width, width) if config.pooler else None

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Sum of gene, position and token-type vectors, ``[...]`` to ``[..., D]``."""
        x = self.genes(tokens) + self.positions(positions)
        if self.config.type_vocab_size:
            x = x + self.token_types.weight[0]
        if self.config.norm == "post":
            x = self.norm(x)
        return self.dropout(x)

    def forward(
        self,
        tokens: torch.Tensor,
        cells: Lengths,
        positions: torch.Tensor | None = None,
        *,
        hidden_layer: int = -1,
    ) -> torch.Tensor:
        """Contextual vector of every token.

        Parameters
        ----------
        tokens
            ``[B, L]`` padded or ``[N]`` packed token ids, int64 or int32.
        cells
            The lengths of the ``B`` cells.
        positions
            Rank of each token in its cell, shaped as `tokens`; by default tokens are taken to be
            a cell's first ones, in order.
        hidden_layer
            Layer to return, counted from the end; blocks after it are not run.

        Returns
        -------
        torch.Tensor
            ``[B, L, D]`` or ``[N, D]``, float32. Padded places hold numbers without meaning.
        """
        states = self._states(tokens, cells, positions)
        for hidden in islice(states, len(self.blocks) + 2 + hidden_layer):  # noqa: B007
            pass  # the last one counts
        return hidden

    def hidden_states(
        self, tokens: torch.Tensor, cells: Lengths, positions: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Embedding output and every block's output, as Hugging Face's ``hidden_states``."""
        return list(self._states(tokens, cells, positions))

    def cell_vectors(
        self,
        tokens: torch.Tensor,
        hidden: torch.Tensor,
        cells: Lengths,
        specials: Specials,
        how: str = "genes",
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Vectors of cells from their hidden states.

        Parameters
        ----------
        tokens, cells, positions
            As for `forward`.
        hidden
            What `forward` returned.
        specials
            Special tokens around the genes of each cell.
        how
            One of `config.Pooling.pool`; "head" and "pooler" only where the model has one.

        Returns
        -------
        torch.Tensor
            ``[B, D]``, or ``[B, cell_vector_size]`` from the cell head, float32.
        """
        if how == "pooler":
            assert self.pooler is not None
            return torch.tanh(self.pooler(pool(hidden, cells, specials, "cls")).float())
        if how != "head":
            return pool(hidden, cells, specials, how)
        assert self.cell_head is not None
        where = cells.positions(tokens) if positions is None else positions
        vectors: torch.Tensor = self.cell_head(
            hidden, self.genes(tokens), tokens, where, cells, specials
        )
        return vectors

    def _states(
        self, tokens: torch.Tensor, cells: Lengths, positions: torch.Tensor | None
    ) -> Iterator[torch.Tensor]:
        attend: Attend = padded if tokens.ndim == 2 else packed
        x = self.embed(tokens, cells.positions(tokens) if positions is None else positions)
        yield x
        for place, block in enumerate(self.blocks, start=1):
            x = block(x, cells, attend)
            last = place == len(self.blocks)
            yield self.norm(x) if last and self.config.norm == "pre" else x


class MaskedGeneModel(nn.Module):
    """Encoder and masked-gene head: the network that is trained."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.transform = Linear(config.hidden_size, config.hidden_size)
        self.transform_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def before_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the factor of the gene vectors, ``[..., D]`` in and out, float32."""
        act = self.config.head_act or self.config.hidden_act
        return self.transform_norm(activation(act, self.transform(hidden)).float())

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, ``[..., D]`` to ``[..., V]``, tied to the gene vectors."""
        x = self.before_logits(hidden)
        dtype = self.transform.compute_dtype
        scores = F.linear(x.to(dtype), self.encoder.genes.weight.to(dtype))
        return scores.float() + self.bias

    def forward(self, tokens: torch.Tensor, cells: Lengths) -> torch.Tensor:
        """Logits at every place, ``[..., V]``; training computes them at masked places only."""
        return self.logits(self.encoder(tokens, cells))


def initialise(model: MaskedGeneModel, seed: int) -> None:
    """BERT's initial weights: normal with `initializer_range`, biases 0, norms 1, [PAD]'s row 0."""
    generator = torch.Generator().manual_seed(seed)
    std = model.config.initializer_range
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, std, generator=generator)
        model.encoder.genes.weight[model.config.pad_token_id].zero_()
    if model.encoder.cell_head is not None:
        model.encoder.cell_head.start()


def set_compute_dtype(model: nn.Module, dtype: torch.dtype, *, cast_weights: bool = False) -> None:
    """Set the dtype of matrix products; `cast_weights` for inference, so no cast is repeated."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute_dtype = dtype
            if cast_weights:
                module.to(dtype)


def count_parameters(model: nn.Module) -> int:
    """Number of trained values; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_cell(config: ModelConfig, length: int) -> int:
    """Floating-point operations of one forward pass without the head, a product-sum being two.

    Counts the matrix products (``8 D^2 + 4 D F`` a token and layer) and attention
    (``4 L D`` a token and layer).
    """
    width = config.hidden_size
    products = length * (8 * width**2 + 4 * width * config.intermediate_size)
    return config.num_hidden_layers * (products + 4 * length**2 * width)


def training_flop(config: ModelConfig, lengths: Sequence[int], n_masked: int) -> float:
    """Floating-point operations of a training step over packed cells, a product-sum being two.

    Three times a forward pass (its backward has two products for each of its own), with logits at
    the `n_masked` masked places. What a kernel computes again in the backward pass does not count.
    """
    width = config.hidden_size
    forward = sum(flops_per_cell(config, length) for length in lengths)
    return 3.0 * (forward + n_masked * 2 * width * (width + config.vocab_size))
