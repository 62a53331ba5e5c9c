"""A map of cells, from the file with their vectors to the page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from cellscribe.callbacks import Log, Progress, in_step, number_of
from cellscribe.cells.columns import find_column
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.config import ExploreOptions
from cellscribe.config.explore import COUNTS_PCA
from cellscribe.errors import InputError
from cellscribe.explorer.columns import MOST_LEVELS, pack_column
from cellscribe.explorer.genes import find_genes, pack_genes
from cellscribe.explorer.layouts import (
    Layout,
    choose_basis,
    choose_rep,
    draw_layouts,
    stored_places,
)
from cellscribe.explorer.neighbors import pack_neighbors
from cellscribe.explorer.packing import Packing
from cellscribe.explorer.page import render
from cellscribe.explorer.vectors import Vectors, open_vectors

if TYPE_CHECKING:
    from anndata import AnnData

MOST_COLUMNS = 40
"""Columns of obs that a page has unless some are named."""


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What a page shows."""

    n_cells: int
    """Cells on the page."""
    n_total: int
    """Cells of the source."""
    views: tuple[str, ...]
    columns: tuple[str, ...]
    genes: tuple[str, ...]
    neighbors: str | None
    """Key of obsm that neighbors were found in."""
    notes: tuple[str, ...]
    """What the page says of itself."""
    text: str
    """The page."""


class _Reader:
    """Counts of the cells on the page, opened and read when first asked for."""

    def __init__(
        self,
        source: str | Path | AnnData,
        layer: str | None,
        rows: npt.NDArray[np.int64],
        stack: ExitStack,
        log: Log,
    ) -> None:
        self.source, self.layer, self.rows = source, layer, rows
        self.stack, self.log = stack, log

    @cached_property
    def counts(self) -> Counts:
        opened = open_counts(self.source, layer=self.layer, log=self.log)
        return self.stack.enter_context(opened)

    @cached_property
    def values(self) -> csr_matrix:
        parts, first = [], 0
        for block in self.counts.blocks():
            low, high = np.searchsorted(self.rows, [first, first + block.shape[0]])
            parts.append(block[self.rows[low:high] - first])
            first += block.shape[0]
        return csr_matrix(vstack(parts))


def make_page(
    source: str | Path | AnnData,
    options: ExploreOptions,
    *,
    progress: Progress | None = None,
    log: Log,
) -> Explored:
    """Make the page of a file or an AnnData.

    Parameters
    ----------
    source
        ``.h5ad``, ``.zarr`` or AnnData with vectors in obsm.
    options
        What is drawn.
    progress, log
        Called while it is made.

    Raises
    ------
    InputError
        Bad input, or names that it does not have.
    """
    with ExitStack() as stack:
        vectors = stack.enter_context(open_vectors(source))
        n_total = len(vectors.obs)
        rows = _drawn(n_total, options)
        reader = _Reader(source, options.layer, rows, stack, log)
        basis = choose_basis(vectors, options, has_counts=_has_counts(source))
        rep = choose_rep(vectors, options)
        chosen = _columns(vectors, options)
        genes = find_genes(reader.counts.var, options.gene, vectors.name) if options.gene else []
        packing = Packing()
        columns, notes = _pack_columns(vectors, chosen, rows, packing, bool(options.color))
        if genes:
            columns += pack_genes(reader.values, genes, options.gene, packing)
        basis = _without_counts(basis, reader, options, log)
        layouts = draw_layouts(
            vectors, basis, rows, lambda: reader.values,
            seed=options.seed, progress=progress, log=log,
        )  # fmt: skip
        near = None
        if rep is not None:
            step = in_step(progress, f"Neighbors in {rep}")
            near = pack_neighbors(
                vectors.rows(rep, rows), packing, seed=options.seed, progress=step
            )
        ids = packing.add_texts([str(name) for name in vectors.obs.index[rows]])
    if len(rows) < n_total:
        notes.insert(
            0,
            f"{len(rows):,} of {n_total:,} cells, drawn at random (seed {options.seed}).",
        )
    notes += [
        f"{each.name}: {number_of(each.off, 'cell')} without a place."
        for each in layouts
        if each.off
    ]
    where = Path(vectors.name).name
    about = {
        "title": options.title or f"{len(rows):,} cells of {where}",
        "source": where,
        "n": len(rows),
        "ids": ids,
        "views": [_view(each, packing) for each in layouts],
        "columns": columns,
        "neighbors": near and {"of": rep, **near},
        "notes": notes,
    }
    return Explored(
        n_cells=len(rows),
        n_total=n_total,
        views=tuple(each.name for each in layouts),
        columns=tuple(each["name"] for each in columns if "gene" not in each),
        genes=options.gene,
        neighbors=rep if near else None,
        notes=tuple(notes),
        text=render(about, packing.text()),
    )


def _drawn(n_total: int, options: ExploreOptions) -> npt.NDArray[np.int64]:
    if n_total <= options.max_cells:
        return np.arange(n_total)
    drawn = np.random.default_rng(options.seed).choice(n_total, options.max_cells, replace=False)
    return np.sort(drawn)


def _has_counts(source: str | Path | AnnData) -> bool:
    """Whether there is a matrix; whether it holds counts is seen when it is read."""
    return isinstance(source, str | Path) or source.X is not None


def _without_counts(
    basis: list[str], reader: _Reader, options: ExploreOptions, log: Log
) -> list[str]:
    """Leave out a PCA that nobody named where the file holds no counts to make it of."""
    if COUNTS_PCA not in basis or options.basis:
        return basis
    try:
        if min(reader.values.shape) < 3:
            return basis[:1]
    except InputError as error:
        log(f"no PCA is shown next to the vectors: {error}")
        return basis[:1]
    return basis


def _columns(vectors: Vectors, options: ExploreOptions) -> list[str]:
    for name in options.color:
        find_column(vectors.obs, name, "--color", vectors.name)
    if options.color:
        return list(options.color)
    return [str(name) for name in vectors.obs.columns]


def _pack_columns(
    vectors: Vectors,
    names: Sequence[str],
    rows: npt.NDArray[np.int64],
    packing: Packing,
    named: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pack columns of obs, and say which were left out."""
    found: list[dict[str, Any]] = []
    notes = []
    unread = [] if named else list(names[MOST_COLUMNS:])
    for name in names if named else names[:MOST_COLUMNS]:
        values = vectors.obs[name]
        # of two columns of one name, nothing says which is meant
        packed = (
            None
            if isinstance(values, pd.DataFrame)
            else pack_column(name, values.iloc[rows], packing)
        )
        if packed is not None:
            found.append(packed)
        elif named:
            raise InputError(
                f"{vectors.name}: obs column {name!r} has more than {MOST_LEVELS:,} different "
                "texts, too many to colour by (--color); leave it out"
            )
        else:
            unread.append(name)
    if unread:
        few = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
        notes.append(f"Columns of obs that are not on the page: {few}.")
    return found, notes


def _view(layout: Layout, packing: Packing) -> dict[str, Any]:
    return {"name": layout.name, "off": layout.off, "data": packing.add(stored_places(layout.xy).T)}
