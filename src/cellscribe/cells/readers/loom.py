"""Loom files: genes x cells, dense, with one array for each annotation of genes or cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from cellscribe.cells.readers.anndata_files import Source, check_shape
from cellscribe.cells.readers.frames import tidy
from cellscribe.cells.readers.matrices import DenseRows, Entries, Rows
from cellscribe.cells.readers.storage import (
    DAMAGED,
    array_shape,
    check_names,
    is_group,
    keys_of,
    member,
    reading,
    shortened,
    subgroup,
)
from cellscribe.errors import InputError

GENE_NAMES = ("Gene", "gene", "var_names", "GeneName", "gene_name", "Symbol", "Accession")
CELL_NAMES = ("CellID", "obs_names", "cell_id", "Barcode", "barcode")


def loom_file(file: Any, *, path: Path | str) -> Source:
    """Open a loom file.

    Raises
    ------
    InputError
        It is damaged, or an annotation has another length than the matrix.
    """
    name = str(path)
    addresses = {"X": "matrix"}
    if "layers" in keys_of(file, name):
        layers = subgroup(file, "layers", name)
        addresses |= {f"layers/{key}": f"layers/{key}" for key in keys_of(layers, name)}
    shape = array_shape(member(file, "matrix", name), f"{name}: X")
    if len(shape) != 2:
        raise InputError(f"{name}: X has {len(shape)} dimensions; a loom matrix is genes x cells")
    check_shape(shape, None, f"{name}: X")
    n_genes, n_cells = shape
    _check_lengths(file, "row_attrs", n_genes, "genes", name)
    _check_lengths(file, "col_attrs", n_cells, "cells", name)

    def opener(layer: str) -> Callable[[], Rows | Entries]:
        def matrix() -> Rows | Entries:
            array, where = member(file, addresses[layer], name), f"{name}: {layer}"
            check_shape(array_shape(array, where)[::-1], (n_cells, n_genes), where)
            return DenseRows(array=array, where=where, cells_axis=1)

        return matrix

    return Source(
        name=name,
        path=path if isinstance(path, Path) else None,
        form="loom",
        matrices={layer: opener(layer) for layer in addresses},
        var=lambda layer: _frame(file, "row_attrs", n_genes, GENE_NAMES, name),
        obs=lambda: _frame(file, "col_attrs", n_cells, CELL_NAMES, name),
    )


def _check_lengths(file: Any, key: str, size: int, what: str, name: str) -> None:
    """Check that every annotation has as many values as the matrix has genes or cells."""
    group = subgroup(file, key, name)
    for attribute in keys_of(group, f"{name}: {key}"):
        where = f"{name}: {key}/{shortened(attribute)}"
        found = member(group, attribute, f"{name}: {key}")
        # a group or a single value is no annotation of genes or cells
        shape = () if is_group(found) else array_shape(found, where)
        if shape and shape[0] != size:
            raise InputError(
                f"{name}: X has {size:,} {what}, but {key}/{shortened(attribute)} has "
                f"{shape[0]:,} values; {DAMAGED}"
            )


def _frame(file: Any, key: str, size: int, index_names: tuple[str, ...], name: str) -> pd.DataFrame:
    """Read the one-dimensional attributes; without a name among them, places are the names."""
    group = subgroup(file, key, name)
    columns = {}
    for attribute in keys_of(group, f"{name}: {key}"):
        where = f"{name}: {key}/{shortened(attribute)}"
        found = member(group, attribute, f"{name}: {key}")
        # SCENIC keeps tables in one attribute; pandas cannot hold their records
        if is_group(found) or array_shape(found, where) != (size,) or found.dtype.kind == "V":
            continue
        check_names(found, where)
        with reading(where):
            values = found[()]
        columns[attribute] = values.astype(object) if values.dtype.kind == "S" else values
    with reading(f"{name}: {key}"):
        frame = pd.DataFrame(columns, index=range(size))
    names = [column for column in index_names if column in columns]
    return tidy(frame.set_index(names[0], drop=False).rename_axis(None) if names else frame)
