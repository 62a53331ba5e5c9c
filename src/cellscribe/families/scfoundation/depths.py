"""scFoundation's input: values normalised as published, and the two read depths after the genes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from cellscribe.cells.tokens import CellTokens
from cellscribe.families.scfoundation.config import Depth, ScfoundationConfig

COUNTS_PER_CELL = 1e4


def with_depths(counts: CellTokens, config: ScfoundationConfig, depth: Depth) -> CellTokens:
    """Normalise counts as published, and append T and S to the genes of each cell.

    Parameters
    ----------
    counts
        From `known_counts`.
    config
        Shape of the model, which defines the tokens of T and S.
    depth
        Target depth, which T becomes.
    """
    assert counts.values is not None
    totals = totals_of(counts)
    values = np.log1p(counts.values / np.repeat(totals, counts.lengths) * COUNTS_PER_CELL)
    shown = totals[counts.lengths > 0]
    return _with_last_two(counts, config, values, depth.target(shown), np.log10(shown))


def with_bulk_depths(counts: CellTokens, config: ScfoundationConfig, target: float) -> CellTokens:
    """Normalise bulk samples as published, and append T and S to the genes of each.

    Values are log1p of the sample's, brought to the total `target`; T and S are both log10 of their
    sum (``get_embedding.py --input_type bulk --pre_normalized F``).

    Parameters
    ----------
    counts, config
        As for `with_depths`.
    target
        Median total of the samples, over the listed genes.
    """
    assert counts.values is not None
    totals, lengths = totals_of(counts), counts.lengths
    values = np.log1p(counts.values / np.repeat(totals, lengths) * target)
    sums = np.log10(totals_of(dataclasses.replace(counts, values=values))[lengths > 0])
    return _with_last_two(counts, config, values, sums, sums)


def totals_of(counts: CellTokens) -> npt.NDArray[np.float64]:
    """Sum of each cell's values, ``[B]``; it does not depend on the cells around."""
    assert counts.values is not None
    totals, filled = np.zeros(len(counts.lengths)), counts.lengths > 0
    if filled.any():
        values = counts.values.astype(np.float64)
        totals[filled] = np.add.reduceat(values, counts.offsets[:-1][filled])
    return totals


def _with_last_two(
    counts: CellTokens,
    config: ScfoundationConfig,
    of_genes: npt.NDArray[np.floating],
    target: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
) -> CellTokens:
    """Append T and S, of the cells with a gene, to each cell's values."""
    lengths = counts.lengths
    n_depths = np.where(lengths > 0, 2, 0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + n_depths)])
    shift = np.repeat(np.cumsum(n_depths) - n_depths, lengths)
    places = np.arange(len(counts.tokens)) + shift
    tokens = np.empty(offsets[-1], np.uint16)
    values = np.empty(offsets[-1], np.float32)
    tokens[places] = counts.tokens
    values[places] = of_genes
    ends = offsets[1:][lengths > 0]
    tokens[ends - 2], values[ends - 2] = config.genes, target
    tokens[ends - 1], values[ends - 1] = config.genes + 1, own
    return dataclasses.replace(counts, tokens=tokens, offsets=offsets, values=values)
