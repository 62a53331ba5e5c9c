"""Shape of scGPT's network, and how it reads a cell; no torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cellscribe.cells.gene_names.vocabulary import MAX_TOKENS
from cellscribe.config import ModelConfig
from cellscribe.config.checked import Between, check_fields
from cellscribe.config.encoder import Layers, Places, Tokens, Width
from cellscribe.errors import InputError

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class ScgptConfig:
    """Shape of the network, and how a cell is read; defaults are scGPT's own for embedding."""

    vocab_size: Tokens
    """Tokens, special ones included."""
    hidden_size: Width
    """Width of the residual stream (embsize)."""
    num_hidden_layers: Layers
    """Transformer blocks (nlayers)."""
    num_attention_heads: Width
    """Attention heads a block (nheads)."""
    intermediate_size: Annotated[int, Between(1, 1 << 20)]
    """Width of the feed-forward layer (d_hid)."""
    cls_token: Annotated[int, Between(0, MAX_TOKENS - 1)]
    """Id of <cls>, which comes before the genes."""
    cls_value: Annotated[float, Between(-1e6, 1e6)] = -2.0
    """Value that goes with <cls> (pad_value)."""
    n_bins: Annotated[int, Between(3, 1 << 16)] = 51
    """Bins of values, that of zero included."""
    context: Places = 1_199
    """Most genes of a cell that are read; <cls> is not counted."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"scGPT: width {self.hidden_size} is not a multiple of its "
                f"{self.num_attention_heads} heads; args.json belongs to another model"
            )
        if self.cls_token >= self.vocab_size:
            raise InputError(f"scGPT: <cls> is token {self.cls_token} of {self.vocab_size:,}")

    def block(self) -> ModelConfig:
        """Shape of one block."""
        return ModelConfig(
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            hidden_act="relu",
            norm="post",
            layer_norm_eps=LAYER_NORM_EPS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
