"""Vectors and importance of genes, and expression that a model gives back, from opened counts.

A gene's vector is the mean of its contextual vectors over the cells that show it to the model (as
Geneformer's extractor makes it). Sums are kept in float64, in one order, so the result depends
neither on the number of workers nor on the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.callbacks import Progress
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.tokens import CellTokens
from cellscribe.errors import InputError
from cellscribe.families.base import (
    CellModel,
    ExpressionModel,
    GeneModel,
    ImportanceModel,
)
from cellscribe.inference.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class GeneVectors:
    """Mean contextual vectors of the genes that some cell showed."""

    tokens: npt.NDArray[np.int64]
    """``[M]`` rows of the model's gene table, ascending."""
    vectors: npt.NDArray[np.float32]
    """``[M, D]``."""
    n_cells: npt.NDArray[np.int64]
    """``[M]`` cells that each is a mean over."""


def gene_vectors(
    embedder: Embedder, counts: Counts, genes: GeneMap, *, progress: Progress | None = None
) -> GeneVectors:
    """Mean vector of each gene over all cells that show it.

    Raises
    ------
    InputError
        The model's family has no vectors of genes, or no cell shows a gene that it knows.
    """
    model = embedder.cells
    if not isinstance(model, GeneModel):
        raise InputError(f"{embedder.header.name} has no vectors of genes")
    n_tokens = len(embedder.header.table)
    sums = torch.zeros((n_tokens, model.gene_width), dtype=torch.float64)
    n_cells = torch.zeros(n_tokens, dtype=torch.int64)

    def run(
        model: CellModel, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(model, GeneModel)
        tokens, vectors = model.gene_vectors(cells, rows)
        return tokens.cpu(), vectors.cpu()

    for _, (tokens, vectors) in embedder.each_batch(counts, genes, run, progress=progress):
        sums.index_add_(0, tokens, vectors.double())
        n_cells += torch.bincount(tokens, minlength=n_tokens)
    shown = n_cells.nonzero()[:, 0]
    if not len(shown):
        raise InputError(f"{counts.name}: no cell has a count on a gene that the model knows")
    means = sums[shown] / n_cells[shown, None]
    return GeneVectors(
        tokens=shown.numpy(), vectors=means.float().numpy(), n_cells=n_cells[shown].numpy()
    )


def expression(
    embedder: Embedder, counts: Counts, genes: GeneMap, *, progress: Progress | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Expression of the model's genes in each cell, as the model gives it back.

    Yields rows of the input and their values ``[len(rows), V]``; cells without a known gene are
    left out.

    Raises
    ------
    InputError
        The model's family gives no expression back.
    """
    if not isinstance(embedder.cells, ExpressionModel):
        raise InputError(f"{embedder.header.name} gives no expression back; scFoundation does")

    def run(
        model: CellModel, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        assert isinstance(model, ExpressionModel)
        return model.expression(cells, rows).float().cpu().numpy()

    yield from embedder.each_batch(counts, genes, run, progress=progress)


def importance(
    embedder: Embedder,
    counts: Counts,
    genes: GeneMap,
    groups: npt.NDArray[np.int64],
    *,
    progress: Progress | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Share of a cell's attention that each gene gets, mean over each group of cells.

    Parameters
    ----------
    groups
        ``[n_cells]`` number of each cell's group, -1 for none.

    Returns
    -------
    shares
        ``[groups, V]``; zeros for a group without a cell that shows a known gene.
    n_cells
        ``[groups]`` cells that each is a mean over.

    Raises
    ------
    InputError
        The model's family tells no importance.
    """
    if not isinstance(embedder.cells, ImportanceModel):
        raise InputError(f"{embedder.header.name} tells no importance of genes; scBERT does")
    n_groups = int(groups.max(initial=-1)) + 1
    sums = np.zeros((n_groups, len(embedder.header.table)))
    n_cells = np.zeros(n_groups, dtype=np.int64)

    def run(
        model: CellModel, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        assert isinstance(model, ImportanceModel)
        return model.importance(cells, rows).cpu().numpy()

    for rows, shares in embedder.each_batch(counts, genes, run, progress=progress):
        for group, share in zip(groups[rows], shares, strict=True):
            if group >= 0:
                sums[group] += share
                n_cells[group] += 1
    return (sums / np.maximum(n_cells, 1)[:, None]).astype(np.float32), n_cells
