"""The shape of the encoder. Fields keep Hugging Face's names, so that `transformers` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cellscribe.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the encoder; defaults are geneformer-10M-240530 (NVIDIA sc-FM model card)."""

    vocab_size: int = 25_429
    """Tokens: 25,424 genes and 5 special tokens."""
    hidden_size: int = 256
    """Width of the residual stream."""
    num_hidden_layers: int = 6
    """Transformer blocks."""
    num_attention_heads: int = 4
    """Attention heads a block."""
    intermediate_size: int = 512
    """Width of the feed-forward layer."""
    max_position_embeddings: int = 2_048
    """Rows of the learned position table."""
    context: int = 1_024
    """Genes a cell is cut to; special tokens come on top."""
    hidden_act: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Activation of feed-forward layer and masked-gene head ("gelu_new": tanh approximation)."""
    norm: Literal["post", "pre"] = "post"
    """LayerNorm after each residual sum (BERT), or before each sub-layer with one at the end."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    hidden_dropout_prob: float = 0.02
    """Dropout on embeddings and on each sub-layer's output."""
    attention_probs_dropout_prob: float = 0.10
    """Dropout on attention weights."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    type_vocab_size: int = 2
    """Rows of BERT's token-type table; only row 0 is used."""
    pad_token_id: int = 2
    """Id of [PAD]."""
    cls_token: bool = True
    """Put [CLS] in front of the genes."""

    def __post_init__(self) -> None:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; choose a width that the heads divide"
            )
        if self.context + self.cls_token > self.max_position_embeddings:
            raise InputError(
                f"context {self.context} and its special tokens do not fit into "
                f"max_position_embeddings {self.max_position_embeddings}; lower the context"
            )
