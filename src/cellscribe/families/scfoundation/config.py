"""Shape of scFoundation's networks, its branches and read depths; no torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import MAX_TOKENS
from cellscribe.config.checked import Between, check_fields
from cellscribe.config.encoder import Layers, Width
from cellscribe.errors import InputError

SPECIALS = ("<T>", "<S>", "<pad>")
"""Places after the genes: target depth, own depth, padding."""
AGAIN = "give models.ckpt as its makers published it"


class Part(NamedTuple):
    """Parts of the network that a branch needs, and its use."""

    decoder: bool
    final: bool
    use: str


BRANCHES = {
    "cell": Part(False, False, "cell embeddings"),
    "gene": Part(True, False, "gene embeddings"),
    "rde": Part(True, True, "read-depth enhancement"),
}


@dataclass(frozen=True, kw_only=True)
class ScfoundationConfig:
    """Shape of the network; defaults are the published one."""

    genes: Annotated[int, Between(1, MAX_TOKENS - len(SPECIALS))] = 19_264
    """Genes; the places of T, S and padding come on top."""
    bins: Width = 100
    """Soft bins of values."""
    bin_alpha: Annotated[float, Between(-1e6, 1e6)] = 1.0
    """Weight of the first score of a bin, relative to its second."""
    width: Width = 768
    """Width of the encoder's residual stream."""
    depth: Layers = 12
    """Blocks of the encoder."""
    heads: Width = 12
    """Attention heads a block."""
    decoder_width: Width = 512
    """Width of the decoder's residual stream."""
    decoder_depth: Layers = 6
    """Performer layers of the decoder."""
    decoder_heads: Width = 8
    """Attention heads a layer."""
    decoder_head_width: Width = 64
    """Width of a decoder's head."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % self.heads:
            raise InputError(
                f"scFoundation: width {self.width} is not a multiple of its {self.heads} heads; "
                f"{AGAIN}"
            )

    @property
    def features(self) -> int:
        """Random features of the decoder's attention."""
        return int(self.decoder_head_width * math.log(self.decoder_head_width))


@dataclass(frozen=True)
class Depth:
    """Target read depth: fixed (``t4``), or relative to that of the cell (``f2``, ``a1``)."""

    kind: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Depth:
        """Read ``tX`` (10^X counts), ``fX`` (X times the cell's) or ``aX`` (log10 raised by X).

        Raises
        ------
        InputError
            None of these, or a depth that no cell can have.
        """
        kind, number = text[:1], text[1:]
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        # Far beyond real counts; and 102 and 103 mean mask and padding.
        lowest, highest = {"t": (0, 20), "f": (0, 1e20), "a": (-20, 20)}.get(kind, (0, 0))
        if not lowest < value <= highest:
            raise InputError(
                f"--target-depth {text!r}: give t and log10 of the counts to aim at (t4), f and "
                "how many times the cell's own (f2), or a and what to add to its log10 (a1)"
            )
        return cls(kind, value)

    def target(self, totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """T of cells with these total counts."""
        if self.kind == "t":
            return np.full(len(totals), self.number)
        return (
            np.log10(totals * self.number) if self.kind == "f" else np.log10(totals) + self.number
        )
