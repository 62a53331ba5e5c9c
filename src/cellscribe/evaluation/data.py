"""Data that models are evaluated on: a file of cells, read whole, or a corpus.

Of a file with more than `EvaluateOptions.cells` cells, that many are drawn. The draw depends on the
seed alone, so every method and every later run gets the same cells, in the order of the file. Names
and hashes of the cells are kept (`CellProvenance`) to find models that were trained on them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.cells.columns import text_column
from cellscribe.cells.readers.endings import stem
from cellscribe.config import CountsKind, EvaluateOptions, InputOptions, Species
from cellscribe.corpus.build.gene_space import all_genes
from cellscribe.corpus.build.packing import gene_hashes, to_space
from cellscribe.corpus.manifest import MANIFEST
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.evaluation.scores import UnfitError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from cellscribe.cells.counts import Counts

DATASET_COLUMNS = ("dataset_id", "source_dataset")
"""Columns of obs with the name of a cell's dataset."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CellProvenance:
    """Where the cells of a case come from."""

    names: frozenset[str]
    """Names of their datasets: the file's stem, and the values of `DATASET_COLUMNS`."""
    hashes: npt.NDArray[np.uint64] | None = None
    """``[B]`` hashes of the cells that show a gene, see `corpus.build.packing`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Cells of a file, in memory."""

    name: str
    """The file's stem: the name of its tables, and a dataset id that a model may list."""
    counts: csr_matrix
    """``[B, G]`` counts, float32."""
    obs: pd.DataFrame
    var: pd.DataFrame
    gene_key: str | None
    """Column of var with the genes' names, if the user gave one."""
    n_in_file: int
    """Cells of the file, of which these were drawn."""
    kind: CountsKind = "raw"
    """What the counts are, see `InputOptions.counts`."""
    species: Species = "human"
    """Whose genes they are."""

    @property
    def n_cells(self) -> int:
        """``B``."""
        return self.counts.shape[0]

    @cached_property
    def adata(self) -> AnnData:
        """The cells as an AnnData that shares their arrays."""
        import anndata

        with warnings.catch_warnings():
            # files of several samples often repeat names, and no name is used here
            warnings.filterwarnings("ignore", "(Observation|Variable) names are not unique")
            return anndata.AnnData(self.counts, obs=self.obs, var=self.var)

    def open(self) -> Counts:
        """Open the cells for a model, as what they were read as; to be closed."""
        from cellscribe.cells.counts import open_counts

        options = InputOptions(counts=self.kind)
        return open_counts(self.adata, options=options, trusted=True)

    @cached_property
    def hash(self) -> str:
        """Hash of counts, genes and how they are read, 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.gene_key}\n{_text_of(self.var)}".encode())
        for part in (self.counts.data, self.counts.indices, self.counts.indptr):
            digest.update(np.ascontiguousarray(part).tobytes())
        if self.kind != "raw":
            digest.update(self.kind.encode())
        if self.species != "human":
            digest.update(self.species.encode())
        return digest.hexdigest()[:16]

    @cached_property
    def labels_hash(self) -> str:
        """Hash of all of obs, 16 hexadecimal digits."""
        return hashlib.sha256(_text_of(self.obs).encode()).hexdigest()[:16]

    @cached_property
    def provenance(self) -> CellProvenance:
        """Datasets and hashes of the cells, see `provenance_of`."""
        return provenance_of(self)

    def take(self, rows: npt.NDArray[np.integer]) -> Cells:
        """Select some of the cells."""
        return dataclasses.replace(self, counts=self.counts[rows], obs=self.obs.iloc[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """One ``--data``: exactly one of cells and corpus is not None."""

    name: str
    path: Path
    cells: Cells | None = None
    corpus: Corpus | None = None


def read_data(path: Path, options: EvaluateOptions) -> Data:
    """Read a file of cells, or open a corpus.

    Raises
    ------
    InputError
        There is no such file, or it does not hold raw counts.
    """
    if path.is_dir() and (path / MANIFEST).is_file():
        return Data(name=path.resolve().name, path=path, corpus=open_corpus(path))
    return Data(name=stem(str(path.resolve())), path=path, cells=read_cells(path, options))


def read_cells(path: Path | AnnData, options: EvaluateOptions, *, name: str = "") -> Cells:
    """Read the cells of a file, at most `options.max_cells` of them.

    Raises
    ------
    InputError
        As `open_counts` and `Counts.blocks`.
    """
    from scipy.sparse import csr_matrix, vstack

    from cellscribe.cells.counts import open_counts

    with open_counts(path, options=options) as counts:
        rows = draw(counts.n_cells, options.max_cells, options.seed)
        blocks, start = [], 0
        for block in counts.blocks():
            first, last = np.searchsorted(rows, [start, start + block.shape[0]])
            blocks.append(csr_matrix(block[rows[first:last] - start], dtype=np.float32))
            start += block.shape[0]
        if not name:
            name = stem(str(path)) if isinstance(path, str | Path) else "cells"
        return Cells(
            name=name,
            counts=csr_matrix(vstack(blocks)),
            obs=counts.obs.iloc[rows],
            var=counts.var,
            gene_key=options.gene_key,
            n_in_file=counts.n_cells,
            kind=counts.kind,
            species=options.species,
        )


def draw(n: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw `most` of `n` rows, ascending; all rows if there are no more."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _text_of(table: pd.DataFrame) -> str:
    """Write a table as text, in order."""
    columns = [(str(name), table.iloc[:, place]) for place, name in enumerate(table.columns)]
    parts = [("", table.index), *columns]
    return "\n".join(f"{name}\t" + "\t".join(map(str, values)) for name, values in parts)


def provenance_of(cells: Cells) -> CellProvenance:
    """Read names and compute hashes of the cells of a file.

    A file whose genes are not known human genes (some families have gene names of their own) has no
    hashes, nor has one of other than raw counts: no corpus can have been built of it.
    """
    names = {cells.name}
    for name in DATASET_COLUMNS:
        if name in cells.obs:
            names |= set(cells.obs[name].dropna().astype(str).unique())
    try:
        hashes = cell_hashes(cells) if cells.kind == "raw" else None
    except InputError:  # the refusal of a corpus build
        hashes = None
    return CellProvenance(names=frozenset(names), hashes=hashes)


def cell_hashes(cells: Cells) -> npt.NDArray[np.uint64]:
    """Compute hashes of cells, the same as a corpus built from the file has.

    A corpus whose ``--vocabulary`` has genes beyond the table of human genes counts these too, and
    has other hashes for cells that show them. Cells without a known gene have no hash.

    Raises
    ------
    InputError
        See `cells.genes.map_genes`.
    """
    from cellscribe.cells.gene_names.genes import map_genes

    genes = all_genes()
    mapped = map_genes(
        cells.var, genes, gene_key=cells.gene_key, species=cells.species, name=cells.name
    )
    rows = to_space(cells.counts, mapped.token, gene_hashes(genes.ids))
    return rows.cell_hash[rows.n_genes > 0]


def column(cells: Cells, name: str, flag: str) -> npt.NDArray[np.object_]:
    """Read a column of obs as text, missing values as "".

    Raises
    ------
    UnfitError
        There is no such column, or more than one.
    """
    try:
        return text_column(cells.obs, name, flag, cells.name)
    except InputError as error:
        raise UnfitError(str(error)) from None
