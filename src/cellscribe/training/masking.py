"""Choose the genes of a cell that a step uses, and those that are hidden from the model.

Exactly ``round(0.15 n)`` of a cell's ``n`` gene tokens are chosen, at least one and never a special
token; of these 80 % become [MASK], 10 % a random gene, 10 % stay (sc-FM model card). Random numbers
come from one generator per cell (SplitMix64, Steele et al. 2014) that starts from (seed, epoch,
cell): masks do not depend on batches, ranks, threads, resumption or the release of NumPy.

Letters: ``B`` cells, ``N`` their tokens, one cell after the other, ``M`` chosen places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.cells.bits import below, compiled, draw, mix
from cellscribe.cells.gene_names.vocabulary import MASK, PAD
from cellscribe.config import TrainOptions
from cellscribe.model.attention import Lengths

VALIDATION_EPOCH = 0
"""Epoch of the masks of validation; training counts from the next one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedBatch:
    """Cells as the model sees them, and the genes that it must predict."""

    tokens_N: torch.Tensor
    """Corrupted tokens, int64."""
    positions_N: torch.Tensor
    """Place of each in its whole cell: 0 for [CLS], r + 1 for the gene of rank r."""
    cells: Lengths
    chosen_M: torch.Tensor
    """Places in ``N`` whose true gene is to be predicted."""
    targets_M: torch.Tensor
    """True tokens there."""
    weights_M: torch.Tensor
    """One over the number of chosen genes of the cell, float32."""
    n_masked: int
    """Number of cells with a chosen gene: those with at least one gene."""
    scores_BK: torch.Tensor | None = None
    """Scores of the whole cells, float32, where the batch holds two views of each (`views`)."""

    def to(self, device: torch.device) -> MaskedBatch:
        """Copy to a device, asynchronously."""
        if device.type == "cpu":
            return self
        names = ("tokens_N", "positions_N", "chosen_M", "targets_M", "weights_M")
        moved = {
            name: getattr(self, name).pin_memory().to(device, non_blocking=True) for name in names
        }
        if self.scores_BK is not None:
            moved["scores_BK"] = self.scores_BK.pin_memory().to(device, non_blocking=True)
        lengths = Lengths(self.cells.lengths, device)
        return MaskedBatch(cells=lengths, n_masked=self.n_masked, **moved)


def mask_cells(
    tokens_N: npt.NDArray[np.int32],
    lengths_B: npt.NDArray[np.int32],
    cells_B: npt.NDArray[np.int64],
    epoch: int,
    genes: tuple[int, int],
    options: TrainOptions,
    *,
    front: int,
    genes_per_cell: int | None = None,
    positions_N: npt.NDArray[np.int64] | None = None,
) -> MaskedBatch:
    """Choose and corrupt genes of packed cells.

    Parameters
    ----------
    tokens_N, lengths_B
        Packed cells, each with its special tokens first.
    cells_B
        Their numbers in the corpus.
    epoch
        `VALIDATION_EPOCH`, or 1 and more.
    genes
        First gene token and one past the last; random genes are drawn from these.
    options
        Seed and shares.
    front
        Number of special tokens before the genes of a cell: 1 with [CLS], else 0.
    genes_per_cell
        Size of the random subset of genes that a cell keeps; all genes if not given.
    positions_N
        Place of each token in its whole cell, where the tokens are not all of it.

    Returns
    -------
    MaskedBatch
        On the CPU. A cell without genes keeps its special tokens, or [PAD], and no place in it
        is chosen.
    """
    limit = genes_per_cell or np.iinfo(np.int32).max
    n_genes = np.clip(lengths_B - front, 0, limit)
    lengths = np.maximum(n_genes + front, 1)
    n_chosen = np.where(
        n_genes > 0, np.maximum(1, np.rint(options.mlm_probability * n_genes)), 0
    ).astype(np.int64)
    tokens = np.full(int(lengths.sum()), PAD, np.int64)
    positions = np.zeros(len(tokens), np.int64)
    chosen = np.empty(int(n_chosen.sum()), np.int64)
    targets = np.empty_like(chosen)
    froms, tos = (np.concatenate([[0], np.cumsum(x, dtype=np.int64)]) for x in (lengths_B, lengths))
    if positions_N is None:
        positions_N = np.arange(len(tokens_N)) - np.repeat(froms[:-1], lengths_B)
    _mask(
        tokens_N,
        positions_N,
        froms,
        tos,
        np.concatenate([[0], np.cumsum(n_chosen)]),
        _starts(options.seed, epoch, cells_B),
        front,
        genes,
        (options.masked_share, options.masked_share + options.random_share),
        tokens,
        positions,
        chosen,
        targets,
    )
    weights = np.repeat(1 / np.maximum(n_chosen, 1), n_chosen).astype(np.float32)
    return MaskedBatch(
        tokens_N=torch.from_numpy(tokens),
        positions_N=torch.from_numpy(positions),
        cells=Lengths(tuple(lengths.tolist()), torch.device("cpu")),
        chosen_M=torch.from_numpy(chosen),
        targets_M=torch.from_numpy(targets),
        weights_M=torch.from_numpy(weights),
        n_masked=int((n_chosen > 0).sum()),
    )


def _starts(seed: int, epoch: int, cells_B: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the ``[B]`` initial states of the cells' generators."""
    state = mix(np.full(len(cells_B), seed, np.uint64))
    state = mix(state ^ np.uint64(epoch))
    starts: npt.NDArray[np.uint64] = mix(state ^ cells_B.astype(np.uint64))
    return starts


@compiled
def _mask(  # type: ignore[no-untyped-def]
    source,
    ranks,
    froms,
    tos,
    places,
    starts,
    front,
    genes,
    shares,
    tokens,
    positions,
    chosen,
    targets,
):
    """Fill `tokens`, `positions`, `chosen` and `targets`, cell by cell.

    Both draws, of the genes kept and of the genes chosen, go through the cell once. A gene is taken
    with probability (still wanted) / (still left) (Knuth, TAOCP 2, algorithm 3.4.2 S): the number
    is exact, the order stays, and every subset is equally likely.
    """
    for cell in range(len(starts)):
        state = starts[cell]
        begin, left = froms[cell], froms[cell + 1] - froms[cell] - front
        to = tos[cell]
        for place in range(min(front, froms[cell + 1] - begin)):
            tokens[to] = source[begin + place]
            positions[to] = ranks[begin + place]
            to += 1
        first, wanted = to, tos[cell + 1] - to
        subset = wanted < left
        for rank in range(left):
            take = True
            if subset:
                state, bits = draw(state)
                take = below(bits, left - rank) < wanted
            if take:
                tokens[to] = source[begin + front + rank]
                positions[to] = ranks[begin + front + rank]
                to, wanted = to + 1, wanted - 1
        at, n = places[cell], to - first
        open_places = places[cell + 1] - at
        for place in range(n):
            state, bits = draw(state)
            if below(bits, n - place) >= open_places:
                continue
            open_places -= 1
            chosen[at], targets[at] = first + place, tokens[first + place]
            at += 1
            state, bits = draw(state)
            fate = bits / 4294967296.0
            if fate < shares[0]:
                tokens[first + place] = MASK
            elif fate < shares[1]:
                state, bits = draw(state)
                tokens[first + place] = genes[0] + below(bits, genes[1] - genes[0])
