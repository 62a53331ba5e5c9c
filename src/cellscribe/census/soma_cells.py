"""Read cells of an opened SOMA experiment: labels, annotation, blocks of counts.

Everything is streamed through small buffers: neither the 60 million rows of a Census's `obs` nor
the counts of one dataset are in memory as a whole. The cells of a dataset are close together in a
Census, so one pass over `obs` finds first and last id, and later reads use only this range.

Letters: ``B`` cells, ``G`` genes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellscribe.census.soma import Matrix, Source, SourceError, extra, reason
from cellscribe.config import DATASET, SOMA_ID
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MISSING = "(none)"
"""Label under which cells without a label are counted."""


@dataclass(frozen=True)
class Extent:
    """Number of cells of a dataset, and its first and last id."""

    cells: int
    first: int
    last: int


def check_filter(source: Source, value_filter: str | None) -> None:
    """Check that TileDB understands a filter.

    Raises
    ------
    InputError
        It does not; the message has TileDB's reason and the columns that exist.
    """
    soma = extra("tiledbsoma")
    source.obs.read(column_names=[SOMA_ID])
    try:
        source.obs.read(column_names=[SOMA_ID], value_filter=value_filter)
    except soma.SOMAError as error:
        raise InputError(
            f"the filter {value_filter} cannot be used ({reason(error)}); write it as in "
            f"\"cell_type == 'B cell'\", with the columns {', '.join(source.obs.schema.names)}"
        ) from error


def scan_obs(
    source: Source, value_filter: str | None, columns: list[str]
) -> tuple[dict[str, Counter[str]], dict[str, Extent]]:
    """Count cells per label, and find the range of each dataset, in one pass over `obs`.

    Parameters
    ----------
    source
        The experiment; only its `obs` is read.
    value_filter
        Filter of the cells; None for all.
    columns
        Columns to count; numeric ones are skipped.

    Returns
    -------
    labels, datasets
        Cells per label of each column; the extent of each dataset, by first id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    labels: dict[str, Counter[str]] = {
        name: Counter() for name in columns if _is_label(source.obs.schema.field(name).type)
    }
    extents: dict[str, Extent] = {}
    given = [] if source.dataset is None else [source.dataset]
    wanted = list(dict.fromkeys([SOMA_ID, *given, *labels]))
    for table in source.obs.read(column_names=wanted, value_filter=value_filter):
        for name, counter in labels.items():
            for entry in pc.value_counts(table[name].cast(pa.string())):
                label, cells = entry["values"].as_py(), entry["counts"].as_py()
                counter[MISSING if label is None else label] += cells
        of_cell = pa.array([source.stem] * len(table), pa.string())
        if source.dataset is not None:
            of_cell = table[source.dataset].cast(pa.string())
        keyed = pa.table({DATASET: of_cell, SOMA_ID: table[SOMA_ID]})
        found = keyed.group_by(DATASET).aggregate(
            [(SOMA_ID, "count"), (SOMA_ID, "min"), (SOMA_ID, "max")]
        )
        for row in found.to_pylist():
            part = Extent(row[f"{SOMA_ID}_count"], row[f"{SOMA_ID}_min"], row[f"{SOMA_ID}_max"])
            key = MISSING if row[DATASET] is None else row[DATASET]
            extents[key] = _join(extents[key], part) if key in extents else part
    return labels, dict(sorted(extents.items(), key=lambda entry: entry[1].first))


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)) or kind == pa.bool_()


def _join(one: Extent, other: Extent) -> Extent:
    first, last = min(one.first, other.first), max(one.last, other.last)
    return Extent(one.cells + other.cells, first, last)


def read_obs(
    source: Source, value_filter: str | None, dataset: str, extent: Extent, columns: list[str]
) -> pd.DataFrame:
    """Read `obs` of one dataset's cells in the order of their ids, labels as categories.

    Returns
    -------
    DataFrame
        Indexed by the id as text; with a column `soma_joinid` in addition to `columns`. The
        dataset is in `dataset_id`, whatever the store calls it.
    """
    import pyarrow as pa

    only = [] if source.dataset is None else [f"{source.dataset} == {dataset!r}"]
    stored = [name for name in columns if name != DATASET or source.dataset == DATASET]
    table = source.obs.read(
        coords=(slice(extent.first, extent.last),),
        column_names=list(dict.fromkeys([SOMA_ID, *stored])),
        value_filter=" and ".join([*only, *([value_filter] if value_filter else [])]) or None,
    ).concat()
    if DATASET in columns and DATASET not in stored:
        names = pa.array([dataset] * len(table), pa.string())
        table = table.append_column(DATASET, names)
    table = table.take(pa.compute.sort_indices(table[SOMA_ID]))
    frame = {}
    for name in dict.fromkeys([*columns, SOMA_ID]):
        if not _is_label(table[name].type) or table[name].type == pa.bool_():
            frame[name] = table[name].to_numpy()
            continue
        values = table[name].cast(pa.string()).combine_chunks().dictionary_encode().to_pandas()
        frame[name] = values.cat.reorder_categories(sorted(values.cat.categories)).array
    return pd.DataFrame(frame, index=pd.Index(table[SOMA_ID].to_numpy().astype(str)))


def read_block(matrix: Matrix, ids: np.ndarray) -> csr_matrix:
    """Read the counts of some cells.

    Parameters
    ----------
    matrix
        From `open_matrix`.
    ids
        ``[B]`` ids of the cells, ascending.

    Returns
    -------
    csr_matrix
        ``[B, G]`` in canonical form, without stored zeros.

    Raises
    ------
    SourceError
        The matrix has genes that `var` lacks, or two values for one entry.
    """
    from scipy.sparse import coo_matrix

    solid = ids[-1] - ids[0] + 1 == len(ids)
    cells = slice(int(ids[0]), int(ids[-1])) if solid else ids
    rows, columns, values = [], [], []
    for table in matrix.raw.read((cells, slice(None))).tables():
        rows.append(places(ids, table["soma_dim_0"].to_numpy()))
        columns.append(places(matrix.gene_ids, table["soma_dim_1"].to_numpy()))
        values.append(table["soma_data"].to_numpy())
    shape = (len(ids), len(matrix.gene_ids))
    stored = np.concatenate(values)
    block = coo_matrix((stored, (np.concatenate(rows), np.concatenate(columns))), shape).tocsr()
    if block.nnz != len(stored):
        raise SourceError("X has several entries for one cell and gene; the store is damaged")
    block.sort_indices()
    block.eliminate_zeros()
    return block


def places(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the place of each wanted id in ascending `ids`, as int32."""
    solid = ids[-1] - ids[0] + 1 == len(ids)
    found = wanted - ids[0] if solid else np.searchsorted(ids, wanted)
    inside = (found >= 0) & (found < len(ids))
    if not inside.all() or not np.array_equal(ids[found], wanted):
        raise SourceError("X has entries for ids that obs or var does not list")
    return found.astype(np.int32)
