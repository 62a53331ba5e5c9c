"""The shape of the encoder, and where a cell's vector is read.

Fields keep Hugging Face's names, so that `transformers` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from cellscribe.config.checked import Between, Share, check_fields, shown
from cellscribe.errors import InputError

MOST_TOKENS = 1 << 16
"""Tokens are stored as uint16."""
Tokens = Annotated[int, Between(1, MOST_TOKENS)]
Width = Annotated[int, Between(1, 1 << 16)]
Layers = Annotated[int, Between(0, 1 << 10)]
Places = Annotated[int, Between(1, 1 << 20)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the encoder; defaults are geneformer-10M-240530 (NVIDIA sc-FM model card)."""

    vocab_size: Tokens = 25_429
    """Tokens: 25,424 genes and 5 special tokens."""
    hidden_size: Width = 256
    """Width of the residual stream."""
    num_hidden_layers: Layers = 6
    """Transformer blocks."""
    num_attention_heads: Width = 4
    """Attention heads a block."""
    intermediate_size: Annotated[int, Between(1, 1 << 20)] = 512
    """Width of the feed-forward layer."""
    max_position_embeddings: Places = 2_048
    """Rows of the learned position table."""
    context: Places = 1_024
    """Genes a cell is cut to; special tokens come on top."""
    hidden_act: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Activation of feed-forward layer and masked-gene head ("gelu_new": tanh approximation)."""
    norm: Literal["post", "pre"] = "post"
    """LayerNorm after each residual sum (BERT), or before each sub-layer with one at the end."""
    layer_norm_eps: Annotated[float, Between(above=0.0, most=1.0)] = 1e-12
    """Added to the variance in LayerNorm."""
    hidden_dropout_prob: Share = 0.02
    """Dropout on embeddings and on each sub-layer's output."""
    attention_probs_dropout_prob: Share = 0.10
    """Dropout on attention weights."""
    initializer_range: Annotated[float, Between(0.0, 1e3)] = 0.02
    """Standard deviation of the initial weights."""
    type_vocab_size: Annotated[int, Between(0, 1 << 10)] = 2
    """Rows of BERT's token-type table; only row 0 is used."""
    pad_token_id: Annotated[int, Between(0, MOST_TOKENS - 1)] = 2
    """Id of [PAD]."""
    cls_token: bool = True
    """Put [CLS] in front of the genes."""
    sep_token: bool = False
    """Put [SEP] after the genes (Geneformer V2's <eos>)."""
    head_act: Literal["relu", "gelu", "gelu_new"] | None = None
    """Activation of the masked-gene head, if not `hidden_act` (Megatron's head is always gelu)."""

    cell_vector_size: Annotated[int, Between(0, 1 << 16)] = 0
    """Values of the vector that the cell head makes (`model.cell_head`); 0: no cell head."""
    cell_scores: Width = 64
    """Principal components whose scores the cell head's vector must tell."""
    pooler: bool = False
    """Keep BERT's pooler, which classifiers of others read; training a model makes none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.pad_token_id >= self.vocab_size:
            raise InputError(
                f"pad_token_id {self.pad_token_id} is none of vocab_size {self.vocab_size:,} tokens"
            )
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; choose a width that the heads divide"
            )
        if self.context + self.cls_token + self.sep_token > self.max_position_embeddings:
            raise InputError(
                f"context {self.context} and its special tokens do not fit into "
                f"max_position_embeddings {self.max_position_embeddings}; lower the context"
            )


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """Which of the encoder's vectors make the vector of a cell."""

    hidden_layer: Annotated[int, Between(-(1 << 12), -1)] = -1
    """Counted from the end: -1 is the last block's output, -2 the one before."""
    pool: Literal["genes", "cls", "genes_but_last", "head", "pooler"] = "genes"
    """Mean over the genes, the vector at [CLS], the mean without the last gene (BioNeMo's), the
    vector that the model's cell head makes, or that of BERT's pooler at the first token."""

    def __post_init__(self) -> None:
        if type(self.hidden_layer) is int and self.hidden_layer >= 0:
            raise InputError(
                "hidden_layer counts from the end: -1 is the last one, not "
                f"{shown(self.hidden_layer)}"
            )
        check_fields(self)

    @classmethod
    def default(cls, config: ModelConfig) -> Self:
        """Return how a model that we trained makes vectors: by its cell head, if it has one."""
        return cls(pool="head" if config.cell_vector_size else "genes")

    def sentence(self) -> str:
        """Say it in words, for the provenance of vectors."""
        layer = {-1: "the last hidden layer", -2: "the second to last hidden layer"}.get(
            self.hidden_layer, f"hidden layer {self.hidden_layer} from the end"
        )
        how = {
            "genes": f"mean of {layer} over a cell's genes",
            "cls": f"{layer} at [CLS]",
            "genes_but_last": f"mean of {layer} over a cell's genes but the last one",
            "head": f"the cell head, over {layer} and the gene vectors",
            "pooler": f"BERT's pooler, over {layer} at the first token",
        }
        return f"{how[self.pool]}; zeros for a cell without a known gene"
