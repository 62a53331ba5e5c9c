"""Shape of scBERT's network, as a model directory keeps it; no torch in here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cellscribe.cells.vocabulary import MAX_TOKENS
from cellscribe.errors import InputError
from cellscribe.families.base import check_count

POSITIONS = "pos_emb.emb.weight"
"""Published name of the genes' vectors."""
MASK_TOKENS = 2
"""Tokens that are no positive bin: that of zero, and the mask."""


@dataclass(frozen=True, kw_only=True)
class ScbertConfig:
    """Shape of the network; defaults are panglao_pretrain's."""

    genes: int = 16_906
    """Genes, all of which the network reads; one empty place comes on top."""
    bins: int = 5
    """Highest bin of expression; one more token is the mask of pretraining."""
    width: int = 200
    """Width of the residual stream."""
    depth: int = 6
    """Performer layers."""
    heads: int = 10
    """Attention heads a layer."""
    head_width: int = 64
    """Width of a head."""
    ffn_width: int = 800
    """Width of the feed-forward layer."""
    features: int = 266
    """Random features of attention."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_count("scBERT", field.name, value, mend="import the checkpoint again")
        if self.genes > MAX_TOKENS:
            raise InputError(f"scBERT: {self.genes:,} genes, at most {MAX_TOKENS:,} fit")
