"""Genes deleted from cells by their counts, for models of any family; moves towards a goal.

The gene's counts are set to zero before the cell is tokenised, so a family needs no way of its own
to go without a gene. For ranked genes that is the edit at the tokens, see ``by_tokens.py``: the
order of the others does not depend on it.

Letters: ``B`` cells, ``G`` columns of the file, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.cells.counts import open_rows
from cellscribe.errors import InputError
from cellscribe.perturbation.by_tokens import NULL_DRAWS, Edits, null_genes
from cellscribe.perturbation.statistics import NULL, Shifts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from cellscribe.cells.gene_names.genes import GeneMap
    from cellscribe.inference.embedder import Embedder

Tokens = npt.NDArray[np.int64]


def direction_to(
    embedder: Embedder, start: csr_matrix, goal: csr_matrix, genes: GeneMap
) -> npt.NDArray[np.float64]:
    """``[D]``: its product with the change of a cell's unit vector is the move towards the goal."""
    centres = []
    for block in (goal, start):
        vectors = embed_rows(embedder, block, genes)
        vectors = vectors[vectors.any(axis=1)]
        if not len(vectors):
            raise InputError(
                "no cell of --start or of --goal has a count on a gene that the model knows"
            )
        centre = vectors.mean(axis=0, dtype=np.float64)
        centres.append(centre / np.linalg.norm(centre))
    return centres[0] - centres[1]


def embed_rows(embedder: Embedder, block: csr_matrix, genes: GeneMap) -> npt.NDArray[np.float32]:
    """Vectors of cells in memory, ``[B, D]``; zeros for a cell without a known gene."""
    if not block.shape[0]:
        return np.empty((0, embedder.width), np.float32)
    with open_rows(block) as counts:
        vectors, _ = embedder.embed_counts(counts, genes)
        return vectors.astype(np.float32, copy=False)


def deleted_vectors(
    embedder: Embedder, block: csr_matrix, genes: GeneMap, tokens: Tokens
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Vectors of cells without some of their genes, for a model of any family.

    Counts of the genes are set to zero before the cells are tokenised. For ranked genes that is the
    edit at the tokens: a cell's order does not depend on its other counts.

    Parameters
    ----------
    embedder
        The model.
    block
        ``[B, G]`` raw counts.
    genes
        Tokens of its columns.
    tokens
        Genes to delete, together.

    Returns
    -------
    rows
        Cells with a count on one of the genes, and with one on another known gene.
    vectors
        ``[len(rows), D]`` of these cells without the genes.
    """
    each = [tokens] * block.shape[0]
    return _embed_without(embedder, block, genes, each)


def _embed_without(
    embedder: Embedder, block: csr_matrix, genes: GeneMap, tokens: Sequence[Tokens | None]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Like `deleted_vectors`, with genes of each cell's own; None leaves a cell out."""
    block = block.copy()
    changed = np.zeros(block.shape[0], dtype=bool)
    for row, gone in enumerate(tokens):
        places = slice(block.indptr[row], block.indptr[row + 1])
        token = genes.token[block.indices[places]]
        drop = np.zeros(len(token), bool) if gone is None else np.isin(token, gone)
        drop &= block.data[places] > 0
        kept = (token >= 0) & ~drop & (block.data[places] > 0)
        changed[row] = drop.any() and kept.any()
        block.data[places][drop] = 0
    rows = np.flatnonzero(changed)
    block = block[rows]
    block.eliminate_zeros()
    return rows, embed_rows(embedder, block, genes)


def by_counts(
    embedder: Embedder,
    block: csr_matrix,
    genes: GeneMap,
    edits: Edits,
    direction: npt.NDArray[np.float64] | None,
    progress: Progress | None,
) -> Iterator[Shifts]:
    """Delete genes for a family that does not rank: one edit after the other over all cells."""
    before = embed_rows(embedder, block, genes)

    def moved(number: int, tokens: Sequence[Tokens | None]) -> Shifts:
        rows, after = _embed_without(embedder, block, genes, tokens)
        old, new = _unit(before[rows]), _unit(after)
        nothing = np.full(len(rows), np.nan, np.float32)
        return Shifts(
            edit=np.full(len(rows), number),
            cell=rows,
            shift=((new - old) ** 2).sum(axis=1) / 2,
            gene_shift=nothing,
            towards_goal=nothing if direction is None else (new - old) @ direction,
        )

    for number, tokens in enumerate(edits.tokens):
        yield moved(number, [tokens] * block.shape[0])
        if progress is not None:
            progress(number + 1, len(edits.tokens))
    if edits.with_null:
        tokens, rng = edits.tokens[0], np.random.default_rng(edits.seed)
        cells = [_by_count(block, genes, row) for row in range(block.shape[0])]
        for _ in range(NULL_DRAWS):
            yield moved(
                NULL,
                [
                    null_genes(cell, tokens[np.isin(tokens, cell)], edits.shown, rng)
                    if np.isin(tokens, cell).any()
                    else None
                    for cell in cells
                ],
            )


def _by_count(block: csr_matrix, genes: GeneMap, row: int) -> Tokens:
    """Known genes of a cell by falling count."""
    places = slice(block.indptr[row], block.indptr[row + 1])
    token, count = genes.token[block.indices[places]], block.data[places]
    token = token[np.argsort(-count, kind="stable")][: int((count > 0).sum())]
    return np.array(list(dict.fromkeys(token[token >= 0].tolist())), dtype=np.int64)


def _unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
