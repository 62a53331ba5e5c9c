"""10x Genomics matrices in HDF5: the .h5 of CellRanger 3 and later, and that of CellRanger 2.

Both are genes x cells by columns, so they are cells x genes by rows as they stand. Names of genes
are the symbols, with the Ensembl ids in `gene_ids`, as the field's readers have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.cells.features import genes_only
from cellscribe.cells.formats import Source, is_group, member, names, text
from cellscribe.cells.matrices import DAMAGED, Array, CsrRows, JoinedRows, Rows
from cellscribe.errors import InputError

COLUMN_NAMES = {"id": "gene_ids", "feature_type": "feature_types"}


def is_genome(group: Any) -> bool:
    """Whether a group is a matrix of CellRanger 2, which has one for each genome."""
    return is_group(group) and {"barcodes", "indptr", "indices", "data", "genes"} <= set(group)


def h5_file(file: Any, *, path: Path, log: Log) -> Source:
    """Open the .h5 of CellRanger 3 and later (``matrix``) or 2 (a group for each genome)."""
    name = str(path)
    if "matrix" in file:
        group = file["matrix"]
        rows: Rows = _compressed(group, f"{name}: X")
        var = _features(member(group, "features", name), name)
        barcodes = names(_column(group, "barcodes", name))
    else:
        rows, var, barcodes = _genomes(file, name)
    return Source(
        name=name,
        path=path,
        form="10x-h5",
        matrices={"X": lambda: rows},
        var=lambda layer: var,
        obs=lambda: pd.DataFrame(index=barcodes),
        keep=genes_only(var, name, log),
    )


def _compressed(group: Any, where: str) -> CsrRows:
    shape = _column(group, "shape", where)
    return CsrRows(
        data=member(group, "data", where),
        indices=member(group, "indices", where),
        indptr=member(group, "indptr", where),
        shape=(int(shape[1]), int(shape[0])),
        where=where,
    )


def _column(group: Any, key: str, where: str) -> Array:
    try:
        return member(group, key, where)[()]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{where}: {key!r} cannot be read; {DAMAGED}") from error


def _features(group: Any, name: str) -> pd.DataFrame:
    keys = [key for key in group if not key.startswith("_") and not is_group(group[key])]
    columns = {COLUMN_NAMES.get(key, key): _column(group, key, name) for key in keys}
    size = max((len(values) for values in columns.values()), default=0)
    frame = pd.DataFrame(
        {key: [text(v) for v in values] for key, values in columns.items() if len(values) == size}
    )
    if not {"gene_ids", "name"} & set(frame):
        raise InputError(f"{name}: matrix/features has neither ids nor names; {DAMAGED}")
    frame.index = names(frame["name" if "name" in frame else "gene_ids"])
    return frame.drop(columns="name", errors="ignore")


def _genomes(file: Any, name: str) -> tuple[Rows, pd.DataFrame, pd.Index]:
    """Put the genomes side by side; a cell that one of them lacks has no counts there."""
    parts, frames, barcodes = [], [], []
    for genome in file:
        group = file[genome]
        if not is_genome(group):
            continue
        parts.append(_compressed(group, f"{name}: {genome}"))
        ids = names(_column(group, "genes", name))
        symbols = names(_column(group, "gene_names", name)) if "gene_names" in group else ids
        frames.append(pd.DataFrame({"gene_ids": ids, "genome": genome}, index=symbols))
        barcodes.append(names(_column(group, "barcodes", name)))
    cells = barcodes[0]
    for more in barcodes[1:]:
        cells = cells.append(more.difference(cells, sort=False))
    if len(parts) == 1:
        return parts[0], frames[0], cells
    places = [part.get_indexer(cells) for part in barcodes]
    return JoinedRows(parts=parts, places=places), pd.concat(frames), cells
