"""Shape of scBERT's network, as a model directory keeps it; no torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from cellscribe.cells.gene_names.vocabulary import MAX_TOKENS
from cellscribe.config.checked import Between, check_fields
from cellscribe.config.encoder import Layers, Width

POSITIONS = "pos_emb.emb.weight"
"""Published name of the genes' vectors."""
MASK_TOKENS = 2
"""Tokens that are no positive bin: that of zero, and the mask."""
LATER = {"later": True}
"""Metadata of fields that the first imports lack."""
CONV_WIDTH = 128
"""Values of the vector of the published classifier (its h_dim)."""


@dataclass(frozen=True, kw_only=True)
class ScbertConfig:
    """Shape of the network; defaults are panglao_pretrain's."""

    genes: Annotated[int, Between(1, MAX_TOKENS)] = 16_906
    """Genes, all of which the network reads; one empty place comes on top."""
    bins: Width = 5
    """Highest bin of expression; one more token is the mask of pretraining."""
    width: Width = 200
    """Width of the residual stream."""
    depth: Layers = 6
    """Performer layers."""
    heads: Width = 10
    """Attention heads a layer."""
    head_width: Width = 64
    """Width of a head."""
    ffn_width: Annotated[int, Between(1, 1 << 20)] = 800
    """Width of the feed-forward layer."""
    features: Width = 266
    """Random features of attention."""
    conv_hidden: Width = field(default=512, metadata=LATER)
    """Width of the first layer behind the convolution over genes."""
    conv_width: Annotated[int, Between(0, 1 << 16)] = field(default=0, metadata=LATER)
    """Values of the vector that the convolution over genes makes; 0: it has none."""

    def __post_init__(self) -> None:
        check_fields(self)

    def settings(self) -> dict[str, Any]:
        """The fields as a model directory keeps them: those of the convolution if it has one."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if self.conv_width or not each.metadata.get("later")
        }
