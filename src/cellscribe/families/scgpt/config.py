"""Shape of scGPT's network, and how it reads a cell; no torch in here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cellscribe.cells.vocabulary import MAX_TOKENS
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.families.base import MOST, check_count

LAYER_NORM_EPS = 1e-5
AGAIN = "give args.json as its makers published it"


@dataclass(frozen=True, kw_only=True)
class ScgptConfig:
    """Shape of the network, and how a cell is read; defaults are scGPT's own for embedding."""

    vocab_size: int
    """Tokens, special ones included."""
    hidden_size: int
    """Width of the residual stream (embsize)."""
    num_hidden_layers: int
    """Transformer blocks (nlayers)."""
    num_attention_heads: int
    """Attention heads a block (nheads)."""
    intermediate_size: int
    """Width of the feed-forward layer (d_hid)."""
    cls_token: int
    """Id of <cls>, which comes before the genes."""
    cls_value: float = -2.0
    """Value that goes with <cls> (pad_value)."""
    n_bins: int = 51
    """Bins of values, that of zero included."""
    context: int = 1_199
    """Most genes of a cell that are read; <cls> is not counted."""

    def __post_init__(self) -> None:
        least = {"cls_token": 0, "n_bins": 3}
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if name != "cls_value":
                check_count("scGPT", name, value, least=least.get(name, 1), mend=AGAIN)
            elif type(value) not in (int, float) or not abs(value) <= MOST:
                raise InputError(f"scGPT: cls_value must be a number, not {value!r:.40}; {AGAIN}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"scGPT: width {self.hidden_size} is not a multiple of its "
                f"{self.num_attention_heads} heads; args.json belongs to another model"
            )
        if self.vocab_size > MAX_TOKENS:
            raise InputError(f"scGPT: {self.vocab_size:,} tokens, at most {MAX_TOKENS:,} fit")
        if not 0 <= self.cls_token < self.vocab_size:
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
