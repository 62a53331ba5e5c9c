"""Value binning as scGPT publishes it: a cell's counts become bins of about as many genes each.

The edges are the quantiles of the cell's non-zero counts, by NumPy's linear interpolation to the
last bit, for a count that lies on an edge must fall on the same side of it. Counts are full of
ties: a value on which several edges coincide is given one of the bins between them at random, gene
by gene, and of a cell with more genes than the context a random subset is read. The published code
draws both from a global generator, so its vectors change from run to run; here both are drawn from
the cell's own content (SplitMix64 as a counter-based generator, seeded by a hash of tokens and
counts, see `cells.bits`): the same cell gives the same tokens in any row, block, file and run.

Letters: ``B`` cells, ``N`` tokens of all cells together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellscribe.cells.bits import INCREMENT, U64, below, compiled, mix
from cellscribe.cells.tokens import CellTokens


def bin_cells(cells: CellTokens, n_bins: int, context: int) -> CellTokens:
    """Replace counts by bins, and cut cells to the context.

    Parameters
    ----------
    cells
        Genes with their counts above zero as `values`, in an order that does not depend on the
        file.
    n_bins
        Bins, that of zero included: values become 1 to ``n_bins - 1``.
    context
        Most genes kept a cell; of more a random subset, in the order given. Bins are those of the
        whole cell.

    Returns
    -------
    CellTokens
        With the bins as `values`; the statistics of each cell stay as they are.
    """
    assert cells.values is not None
    lengths = np.minimum(cells.lengths, context)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = np.empty(offsets[-1], np.uint16)
    bins = np.empty(offsets[-1], np.float32)
    counts = np.ascontiguousarray(cells.values, np.float32)
    _bin(
        cells.tokens,
        counts,
        counts.view(np.uint32),
        cells.offsets,
        np.linspace(0, 1, n_bins - 1),
        offsets,
        tokens,
        bins,
    )
    return replace(cells, tokens=tokens, offsets=offsets, values=bins)


@compiled
def _below(state, counter, n):  # type: ignore[no-untyped-def]
    """Draw a number below `n`, the one that belongs to `counter`."""
    return below(mix(state + U64(counter) * INCREMENT) >> U64(32), n)


@compiled
def _edges(ascending, shares, edges):  # type: ignore[no-untyped-def]
    """Quantiles at `shares`, as ``numpy.quantile`` rounds them for float32 values."""
    last = len(ascending) - 1
    for k in range(len(shares)):
        where = np.float64(last) * shares[k]
        before = int(np.floor(where))
        if where >= last:
            edges[k] = ascending[last]
            continue
        low, high = ascending[before], ascending[before + 1]
        # Both are float32 and so is their difference; all that follows is float64.
        step, share = np.float64(high - low), where - before
        if share < 0.5:
            edges[k] = np.float64(low) + step * share
        else:
            edges[k] = np.float64(high) - step * (1 - share)


@compiled
def _bin(  # type: ignore[no-untyped-def]
    source, counts, count_bits, froms, shares, tos, tokens, bins
):
    """Fill `tokens` and `bins`, cell by cell.

    The subset takes a gene with the share still wanted of those still left (Knuth, TAOCP 2,
    algorithm 3.4.2 S): so many, in their order, every subset as likely.
    """
    edges = np.empty(len(shares), np.float64)
    for cell in range(len(froms) - 1):
        begin, n = froms[cell], froms[cell + 1] - froms[cell]
        if n == 0:
            continue
        state = U64(0)
        for place in range(begin, begin + n):
            state = mix(state ^ ((U64(source[place]) << U64(32)) | U64(count_bits[place])))
        _edges(np.sort(counts[begin : begin + n]), shares, edges)
        to, wanted = tos[cell], tos[cell + 1] - tos[cell]
        for place in range(n):
            left = n - place
            if wanted < left and _below(state, n + place, left) >= wanted:
                continue
            wanted -= 1
            count = np.float64(counts[begin + place])
            highest = np.searchsorted(edges, count, side="right")
            lowest = np.searchsorted(edges, count, side="left") + 1
            tied = highest - lowest + 1
            tokens[to] = source[begin + place]
            bins[to] = highest - (_below(state, place, tied) if tied > 1 else 0)
            to += 1
