"""10x Genomics matrices in HDF5: the .h5 of CellRanger 3 and later, and that of CellRanger 2.

Both are genes x cells by columns, so they are cells x genes by rows as they stand. Names of genes
are the symbols, with the Ensembl ids in `gene_ids`, as the field's readers have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.cells.gene_names.features import genes_only
from cellscribe.cells.readers.anndata_files import Source, check_shape
from cellscribe.cells.readers.frames import names, text
from cellscribe.cells.readers.matrices import CsrRows, JoinedRows, Rows
from cellscribe.cells.readers.storage import (
    DAMAGED,
    Array,
    array_shape,
    check_names,
    is_group,
    keys_of,
    matrix_shape,
    member,
    one_axis,
    reading,
    shortened,
    subgroup,
)
from cellscribe.errors import InputError

COLUMN_NAMES = {"id": "gene_ids", "feature_type": "feature_types"}
CORE = ("id", "name", "feature_type", "genome")
"""Columns of features that must have one value a feature; others are left out if they do not."""


def is_genome(group: Any) -> bool:
    """Whether a group is a matrix of CellRanger 2, which has one for each genome."""
    return is_group(group) and {"barcodes", "indptr", "indices", "data", "genes"} <= set(group)


def h5_file(file: Any, *, path: Path | str, log: Log) -> Source:
    """Open the .h5 of CellRanger 3 and later (``matrix``) or 2 (a group for each genome).

    Raises
    ------
    InputError
        It is damaged, or the matrix has other cells or features than are named.
    """
    name = str(path)
    if "matrix" in keys_of(file, name):
        group = member(file, "matrix", name)
        features = subgroup(group, "features", name)
        n_features = _n_features(features, name)
        barcodes = names(_column(group, "barcodes", name))
        rows: Rows = _compressed(group, f"{name}: X", (len(barcodes), n_features))
        var = _features(features, n_features, name)
    else:
        rows, var, barcodes = _genomes(file, name)
    return Source(
        name=name,
        path=path if isinstance(path, Path) else None,
        form="10x-h5",
        matrices={"X": lambda: rows},
        var=lambda layer: var,
        obs=lambda: pd.DataFrame(index=barcodes),
        keep=genes_only(var, name, log),
    )


def _compressed(group: Any, where: str, expected: tuple[int, int]) -> CsrRows:
    with reading(f"{where}/shape"):
        array = member(group, "shape", where)
        stored = (
            array[()] if array_shape(array, f"{where}/shape") == (2,) else array_shape(array, where)
        )
    n_genes, n_cells = matrix_shape(stored, where)
    check_shape((n_cells, n_genes), expected, where)
    return CsrRows(
        data=member(group, "data", where),
        indices=member(group, "indices", where),
        indptr=member(group, "indptr", where),
        shape=(n_cells, n_genes),
        where=where,
    )


def _column(group: Any, key: str, name: str, size: int | None = None) -> Array:
    where = f"{name}: {shortened(key)}"
    array = one_axis(member(group, key, name), where, size)
    check_names(array, where)
    with reading(where):
        return array[()]


def _n_features(group: Any, name: str) -> int:
    for key in ("id", "name"):
        if key in keys_of(group, name):
            where = f"{name}: matrix/features/{key}"
            return int(one_axis(member(group, key, name), where).shape[0])
    raise InputError(f"{name}: matrix/features has neither ids nor names; {DAMAGED}")


def _features(group: Any, size: int, name: str) -> pd.DataFrame:
    columns = {}
    for key in keys_of(group, name):
        array = member(group, key, name)
        where = f"{name}: matrix/features/{shortened(key)}"
        if key.startswith("_") or (is_group(array) and key not in CORE):
            continue
        if key not in CORE and array_shape(array, where) != (size,):
            continue
        columns[COLUMN_NAMES.get(key, key)] = _column(group, key, f"{name}: matrix/features", size)
    frame = pd.DataFrame({key: [text(v) for v in values] for key, values in columns.items()})
    frame.index = names(frame["name" if "name" in frame else "gene_ids"])
    return frame.drop(columns="name", errors="ignore")


def _genomes(file: Any, name: str) -> tuple[Rows, pd.DataFrame, pd.Index]:
    """Put the genomes side by side; a cell that one of them lacks has no counts there."""
    parts, frames, barcodes = [], [], []
    for genome in keys_of(file, name):
        group = member(file, genome, name)
        if not is_genome(group):
            continue
        where = f"{name}: {shortened(genome)}"
        ids = names(_column(group, "genes", where))
        known = "gene_names" in keys_of(group, where)
        symbols = names(_column(group, "gene_names", where, len(ids))) if known else ids
        frames.append(pd.DataFrame({"gene_ids": ids, "genome": genome}, index=symbols))
        barcodes.append(names(_column(group, "barcodes", where)))
        parts.append(_compressed(group, where, (len(barcodes[-1]), len(ids))))
    if len(parts) == 1:
        return parts[0], frames[0], barcodes[0]
    cells = barcodes[0]
    for of_genome in barcodes:
        if not of_genome.is_unique:
            twice = shortened(str(of_genome[of_genome.duplicated()][0]))
            raise InputError(
                f"{name}: barcode {twice!r} stands twice in a genome, so the genomes cannot be "
                f"joined; {DAMAGED}"
            )
        cells = cells.append(of_genome.difference(cells, sort=False))
    places = [part.get_indexer(cells) for part in barcodes]
    return JoinedRows(parts=parts, places=places), pd.concat(frames), cells
