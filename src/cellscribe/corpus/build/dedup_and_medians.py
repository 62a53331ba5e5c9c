"""Find duplicates, vocabulary and medians over all cells, before any shard is written.

Each is a function over the spill files that can be called alone. Vocabulary and medians use
training cells only, so that a model's gene table has no information from held-out cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.cells.pipeline import read_ahead
from cellscribe.corpus.build.gene_space import choose_genes, tokens_of
from cellscribe.corpus.build.medians import LARGEST_ERROR, GeneMedians, Values
from cellscribe.corpus.build.plan import BuildPlan
from cellscribe.corpus.build.spill import SpillFile, lists_of, read_batches
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


MEDIAN_CELLS = 16_384
"""Number of cells that are added to the medians at a time."""


def find_duplicates(spills: Sequence[SpillFile]) -> npt.NDArray[np.int64]:
    """Return the numbers of cells that repeat an earlier one, ascending; 32 bytes per cell."""
    parts = [
        (table["cell"].to_numpy(), table["cell_hash"].to_numpy())
        for _, table in read_batches(spills, ["cell", "cell_hash"])
    ]
    if not parts:
        return np.empty(0, dtype=np.int64)
    cells = np.concatenate([part[0] for part in parts])
    hashes = np.concatenate([part[1] for part in parts])
    order = np.lexsort((cells, hashes))
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    return np.sort(cells[order[again]])


def without(cells: pa.Table, left_out: npt.NDArray[np.int64]) -> pa.Table:
    """Return the cells whose number is not in `left_out`, which is ascending."""
    import pyarrow as pa

    if not len(left_out):
        return cells
    numbers = cells["cell"].to_numpy()
    place = np.minimum(np.searchsorted(left_out, numbers), len(left_out) - 1)
    inside = left_out[place] == numbers
    return cells.filter(pa.array(~inside)) if inside.any() else cells


def by_source(plan: BuildPlan, cells: npt.NDArray[np.int64]) -> Counter[int]:
    """Count the cells of each source."""
    return Counter((np.searchsorted(plan.starts, cells, side="right") - 1).tolist())


def count_cells_of_genes(
    plan: BuildPlan, spills: Sequence[SpillFile], duplicates: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Count the training cells with each gene of the space, ``[G]``.

    Raises
    ------
    InputError
        After the QC flags, a label is left in held-out cells only.
    """
    n_cells = np.zeros(len(plan.space), dtype=np.int64)
    covered = plan.split_options.covered
    train = {label: np.zeros(len(plan.categories[label]), bool) for label in covered}
    held = {label: np.zeros(len(plan.categories[label]), bool) for label in covered}
    for bucket, cells in _read(plan, spills, duplicates, ["genes", *covered], training=False):
        is_train = bucket in plan.training_buckets
        if is_train:
            genes, _ = lists_of(cells["genes"])
            n_cells += np.bincount(genes, minlength=len(n_cells))
        for label in covered:
            (train if is_train else held)[label][cells[label].to_numpy()] = True
    for label in covered:
        for place in np.flatnonzero(held[label] & ~train[label]):
            raise InputError(
                f"{label} {plan.categories[label][place]!r} is left in held-out cells only, the "
                "others were dropped; lower --min-genes, or keep its dataset with --train"
            )
    if not n_cells.any():
        raise InputError("no training cell is left after the QC flags; lower --min-genes")
    return n_cells


def find_medians(
    plan: BuildPlan,
    spills: Sequence[SpillFile],
    duplicates: npt.NDArray[np.int64],
    token_of_gene: npt.NDArray[np.int32],
    n_tokens: int,
) -> GeneMedians:
    """Compute the genes' medians over all training cells.

    Parameters
    ----------
    token_of_gene
        ``[G]`` token of each gene of the space, -1 for genes without one.
    n_tokens
        Number of tokens.
    """
    medians = GeneMedians(token_of_gene, n_tokens)
    columns = ["genes", "counts", "n_counts"]
    blocks: list[Values] = []
    with closing(_read(plan, spills, duplicates, columns, training=True)) as batches:
        for _, cells in batches:
            genes, offsets = lists_of(cells["genes"])
            counts, _ = lists_of(cells["counts"])
            blocks.append(Values(genes, counts, offsets, cells["n_counts"].to_numpy()))
            if sum(len(block.totals) for block in blocks) >= MEDIAN_CELLS:
                medians.add(blocks)
                blocks = []
    medians.add(blocks)
    return medians


def _read(
    plan: BuildPlan,
    spills: Sequence[SpillFile],
    duplicates: npt.NDArray[np.int64],
    columns: list[str],
    *,
    training: bool,
) -> Generator[tuple[int, pa.Table]]:
    """Yield bucket and cells without duplicates, in batches; only of `training` if set."""
    with closing(read_ahead(read_batches(spills, ["cell", *columns]), depth=4)) as batches:
        for bucket, cells in batches:
            if not training or bucket in plan.training_buckets:
                kept = without(cells, duplicates)
                if len(kept):
                    yield bucket, kept


def make_vocabulary(
    plan: BuildPlan, spills: Sequence[SpillFile], duplicates: npt.NDArray[np.int64]
) -> tuple[Vocabulary, dict[str, Any]]:
    """Choose genes and find their medians, or keep the vocabulary that was given.

    Returns
    -------
    vocabulary
        Special tokens, then genes in order of their ids.
    record
        The manifest's entry: hash, genes, how they were chosen, how the medians were found.

    Raises
    ------
    InputError
        No training cell shows a gene; a label is left in held-out cells only.
    """
    n_cells = count_cells_of_genes(plan, spills, duplicates)
    if plan.options.vocabulary is not None:
        vocabulary = Vocabulary.read(plan.options.vocabulary)
        medians: dict[str, Any] = {"method": "kept as given"}
        chosen = "kept as given"
    else:
        places = choose_genes(plan.space, n_cells, plan.options.genes)
        token_of_gene = np.full(len(plan.space), -1, dtype=np.int32)
        token_of_gene[places] = np.arange(len(places))
        found = find_medians(plan, spills, duplicates, token_of_gene, len(places))
        vocabulary = Vocabulary.build(
            [plan.space.ids[place] for place in places],
            [plan.space.symbols[place] for place in places],
            found.medians(),
        )
        medians = {
            "method": "exact" if found.exact else "histogram of logarithmic bins",
            "largest_relative_error": 0.0 if found.exact else LARGEST_ERROR,
            "cells": found.n_cells,
        }
        fewest = int(n_cells[places].min())
        chosen = f"the {len(places):,} genes that most training cells show, each {fewest:,} or more"
        if len(places) < plan.options.genes:
            chosen += f"; {plan.options.genes:,} were asked for, but no cell shows others"
    record = {
        "hash": vocabulary.hash,
        "genes": vocabulary.n_genes,
        "chosen": chosen,
        "seen_in_train": int((n_cells[tokens_of(plan.space, vocabulary) >= 0] > 0).sum()),
        "medians": medians,
    }
    return vocabulary, record
