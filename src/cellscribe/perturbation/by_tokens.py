"""Edits of ranked cells at the tokens, and how far they move what a model makes of the cell.

A gene is taken out of the ranking and all after it move up, so that the next gene comes in where a
cell had been cut to the context; or it is put in front, and the last one may fall out.

A batch of cells is embedded once, then with each edit, and what remains of a pair of edit and cell
are three numbers: no vector outlives its batch. Batches depend on the cells and the edits alone, so
the figures do not depend on the number of workers.

Letters: ``B`` cells, ``G`` columns of the file, ``P`` pairs of edit and cell, ``M`` genes of all
cells of a batch, ``N`` the same with special tokens, ``D`` width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.cells.batches import length_buckets
from cellscribe.cells.counts import open_rows
from cellscribe.perturbation.statistics import NULL, Shifts

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from scipy.sparse import csr_matrix

    from cellscribe.cells.gene_names.genes import GeneMap
    from cellscribe.cells.gene_names.vocabulary import GeneTable
    from cellscribe.cells.tokens import CellTokens
    from cellscribe.families.base import CellModel
    from cellscribe.families.bert.model import Bert
    from cellscribe.inference.embedder import Embedder

Tokens = npt.NDArray[np.int64]

NULL_DRAWS = 5
"""Random genes a cell, where one edit has no other to be held against."""
NEAR = 0.1
"""Share of a cell's genes before and after a gene that are of like rank."""
FEWEST_NEAR = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """What is done to cells."""

    tokens: list[Tokens]
    """Genes of each edit, perturbed together."""
    promote: bool
    shown: Tokens
    """Genes that some cell shows."""
    seed: int

    @property
    def with_null(self) -> bool:
        """Whether random genes are perturbed as well: one edit has no others."""
        return len(self.tokens) == 1

    def names(self, table: GeneTable) -> pd.DataFrame:
        """A row an edit: ``gene`` and ``symbol``."""
        import pandas as pd

        def joined(values: Sequence[str]) -> list[str]:
            return ["+".join(values[token] for token in edit) for edit in self.tokens]

        return pd.DataFrame({"gene": joined(table.ids), "symbol": joined(table.symbols)})


def edited(cell: Tokens, genes: Tokens, context: int, *, promote: bool) -> Tokens:
    """Take genes out of a ranked cell that is not cut yet, or put them in front, and cut it."""
    rest = cell[~np.isin(cell, genes)]
    return (np.concatenate([genes, rest]) if promote else rest)[:context]


def null_genes(
    cell: Tokens, genes: Tokens, others: Tokens, rng: np.random.Generator
) -> Tokens | None:
    """Draw a random gene for each of `genes`: near it in the cell, or outside as it is outside.

    Parameters
    ----------
    cell
        What the model reads, ranked.
    genes
        What is perturbed; none of it is drawn.
    others
        Genes to draw from for one that the cell does not show.

    Returns
    -------
    numpy.ndarray or None
        As many genes as `genes`, all different; None where the cell has too few.
    """
    reach = max(FEWEST_NEAR, int(NEAR * len(cell)))
    drawn: list[int] = []
    for gene in genes:
        place = np.flatnonzero(cell == gene)
        if len(place):
            pool = cell[max(0, place[0] - reach) : place[0] + reach + 1]
        else:
            pool = others[~np.isin(others, cell)]
        pool = pool[~np.isin(pool, [*genes, *drawn])]
        if not len(pool):
            return None
        drawn.append(int(rng.choice(pool)))
    return np.array(drawn)


def by_tokens(
    embedder: Embedder,
    block: csr_matrix,
    genes: GeneMap,
    edits: Edits,
    direction: npt.NDArray[np.float64] | None,
    progress: Progress | None,
) -> Iterator[Shifts]:
    """Edit ranked cells, batch by batch with all edits.

    Parameters
    ----------
    embedder
        Of a BERT.
    block
        ``[B, G]`` raw counts.
    genes
        Tokens of its columns.
    edits
        What is done.
    direction
        From `direction_to`, if there is a goal.
    progress
        Called with (cells done, cells in all).

    Yields
    ------
    Shifts
        Of a batch; cells are rows of `block`.
    """
    from cellscribe.families.bert.model import Bert

    model = embedder.cells
    assert isinstance(model, Bert)
    # What ranks reads further than the network does: a gene that goes makes room for the next.
    ranker = copy.copy(model)
    ranker.context += max(map(len, edits.tokens))
    reader = copy.copy(embedder)
    reader.cells = ranker
    budget = embedder.batch_tokens
    stop = Event()

    def run(_: CellModel, cells: CellTokens, rows: npt.NDArray[np.int64]) -> Shifts:
        ranked = [cells.tokens[cells.offsets[r] : cells.offsets[r + 1]] for r in rows]
        return _shifts_of_batch(
            model, [each.astype(np.int64) for each in ranked], rows, edits, direction, budget, stop
        )

    try:
        with open_rows(block) as counts:
            for rows, shifts in reader.each_batch(counts, genes, run, progress=progress):
                yield Shifts(**{**vars(shifts), "cell": rows[shifts.cell]})
    finally:
        # A batch with many edits takes its time; nobody waits for it any more.
        stop.set()


class _Pair(NamedTuple):
    edit: int
    cell: int
    genes: Tokens
    after: Tokens
    """The edited cell."""


def _pairs(
    ranked: list[Tokens], rows: npt.NDArray[np.int64], edits: Edits, context: int, n_tokens: int
) -> Iterator[_Pair]:
    """Edit each cell of a batch in each way that does something to it, and at random."""
    edit_of = np.full(n_tokens, -1)
    for number, genes in enumerate(edits.tokens):
        edit_of[genes] = number
    for cell, whole in enumerate(ranked):
        read = whole[:context]
        numbers = np.arange(len(edits.tokens))
        if not edits.promote:
            numbers = np.unique(edit_of[read])
            numbers = numbers[numbers >= 0]
        done = [(int(number), edits.tokens[number]) for number in numbers]
        if edits.with_null and done:
            rng = np.random.default_rng((edits.seed, int(rows[cell])))
            genes = edits.tokens[0]
            genes = genes if edits.promote else genes[np.isin(genes, read)]
            for _ in range(NULL_DRAWS):
                drawn = null_genes(read, genes, edits.shown, rng)
                done += [] if drawn is None else [(NULL, drawn)]
        for number, genes in done:
            after = edited(whole, genes, context, promote=edits.promote)
            if len(after):
                yield _Pair(number, cell, genes, after)


def _shifts_of_batch(
    model: Bert,
    ranked: list[Tokens],
    rows: npt.NDArray[np.int64],
    edits: Edits,
    direction: npt.NDArray[np.float64] | None,
    budget: int,
    stop: Event,
) -> Shifts:
    """Shifts of a batch of ranked cells; `Shifts.cell` are places in the batch."""
    import torch

    n_tokens, context = len(model.vocabulary), model.context
    before = [cell[:context] for cell in ranked]
    old_BD, old_genes_MD = _embed(model, before)
    starts = np.concatenate([[0], np.cumsum([len(cell) for cell in before])])
    towards_D = None if direction is None else torch.from_numpy(direction).to(old_BD)
    pairs = list(_pairs(ranked, rows, edits, context, n_tokens))
    lengths = np.array([len(pair.after) for pair in pairs], dtype=np.int64)
    place_of, placed = np.full(n_tokens, -1), -1
    parts = []
    for chosen in length_buckets(lengths, budget):
        if stop.is_set():
            break
        here = [pairs[number] for number in np.sort(chosen)]
        new_PD, new_genes_MD = _embed(model, [pair.after for pair in here])
        old_places = []
        for pair in here:
            if pair.cell != placed:
                place_of[:] = -1
                place_of[before[pair.cell]] = starts[pair.cell] + np.arange(len(before[pair.cell]))
                placed = pair.cell
            places = place_of[pair.after]
            old_places.append(np.where(np.isin(pair.after, pair.genes), -1, places))
        cells = np.array([pair.cell for pair in here])
        moved_PD = new_PD - old_BD[torch.from_numpy(cells).to(new_PD.device)]
        parts.append(
            Shifts(
                edit=np.array([pair.edit for pair in here]),
                cell=cells,
                shift=(moved_PD.square().sum(1) / 2).float().cpu().numpy(),
                gene_shift=_gene_shift(old_genes_MD, new_genes_MD, old_places),
                towards_goal=np.full(len(here), np.nan, np.float32)
                if towards_D is None
                else (moved_PD @ towards_D).float().cpu().numpy(),
            )
        )
    return Shifts.concatenate(parts)


def _embed(model: Bert, cells: list[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of ranked cells ``[P, D]`` float64, and of their genes ``[M, D]`` float32.

    `Bert.embed` and `Bert.gene_vectors` in one pass through the network. Half the squared distance
    of unit vectors is 1 - cosine, without the digits that the difference from 1 would lose.
    """
    from torch.nn.functional import normalize

    tokens_N, hidden_ND, where = model.hidden(cells)
    vectors_PD = model.vectors(tokens_N, hidden_ND, where)
    genes_MD = hidden_ND[model.specials.genes_among(tokens_N, where)]
    return normalize(vectors_PD.double(), dim=1), normalize(genes_MD.float(), dim=1)


def _gene_shift(
    old_MD: torch.Tensor, new_MD: torch.Tensor, old_places: list[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    """``[P]`` mean over the genes of each pair that have a place in the old cell, not -1."""
    import torch

    device = old_MD.device
    place = np.concatenate(old_places)
    pair = np.repeat(np.arange(len(old_places)), [len(each) for each in old_places])
    both = np.flatnonzero(place >= 0)
    old = old_MD[torch.from_numpy(place[both]).to(device)]
    new = new_MD[torch.from_numpy(both).to(device)]
    moved = ((new - old).square().sum(1) / 2).cpu().numpy()
    numbers = np.bincount(pair[both], minlength=len(old_places))
    sums = np.bincount(pair[both], moved, len(old_places))
    return (sums / np.where(numbers > 0, numbers, np.nan)).astype(np.float32)
