"""Which genes of a cell are hidden from the model, and how.

Exactly ``round(0.15 n)`` of a cell's ``n`` gene tokens are chosen, at least one and never a special
token; of these 80 % become [MASK], 10 % a random gene, 10 % stay (sc-FM model card). The draw
depends on (seed, epoch, cell) alone, so neither batches nor workers nor resumption change a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellscribe.cells.vocabulary import MASK


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Shares of the masked-gene objective."""

    chosen: float = 0.15
    """Share of a cell's genes whose identity is asked for."""
    masked: float = 0.80
    """Share of the chosen that become [MASK]."""
    random: float = 0.10
    """Share of the chosen that become a random gene; the rest stay as they are."""


def cell_generator(seed: int, epoch: int, cell: int) -> np.random.Generator:
    """Random numbers that belong to one cell in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, (epoch << 40) | cell]))


def mask_cell(
    tokens: npt.NDArray[np.int64],
    generator: np.random.Generator,
    genes: tuple[int, int],
    config: MaskingConfig,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Corrupt one cell.

    Parameters
    ----------
    tokens
        ``[n]`` gene tokens, no special ones; n at least 1.
    generator
        From `cell_generator`.
    genes
        First gene token and one past the last: what a random gene is drawn from.
    config
        The shares.

    Returns
    -------
    corrupted
        ``[n]`` tokens as the model sees them.
    places
        Ascending places whose true token is asked for.
    """
    n_chosen = max(1, round(config.chosen * len(tokens)))
    places = np.sort(generator.choice(len(tokens), n_chosen, replace=False))
    fate = generator.random(n_chosen)
    replacement = np.where(
        fate < config.masked,
        MASK,
        np.where(
            fate < config.masked + config.random,
            generator.integers(*genes, n_chosen),
            tokens[places],
        ),
    )
    corrupted = tokens.copy()
    corrupted[places] = replacement
    return corrupted, places
