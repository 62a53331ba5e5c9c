"""Parquet tables of counts as pandas or R write them, read by batches of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.callbacks import Log
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.cells.readers.table_source import Piece, Table, table_source
from cellscribe.cells.readers.text_files import shown
from cellscribe.cells.readers.text_layout import NOT_COUNTS
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
VALUES, ROWS = 1 << 24, 1 << 18
"""Values and rows that a batch has at most; each row has a name in memory."""
PANDAS_INDEX = "__index_level_"


def open_table(path: Path, log: Log) -> Source:
    """Open a Parquet table of counts.

    Raises
    ------
    InputError
        It is damaged, holds lists (as tables of tokens do) or no counts, or its genes are not
        known.
    """
    import pyarrow as pa
    from pyarrow import parquet

    name = str(path)
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _unreadable(name, error) from error
    labels, fields, left_out = [], [], []
    index = _index_columns(schema)
    for at, field in enumerate(schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or field.name in index:
            labels.append(at)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            raise InputError(
                f"{name}: column {shown(field.name)!r} holds lists, as a table of tokens does; "
                "give the counts that it was made of"
            )
        elif NOT_COUNTS.fullmatch(field.name) or not _is_number(kind):
            left_out.append(shown(field.name, 30))
        else:
            fields.append(at)
    if left_out:
        log(f"{name}: columns left out, which hold no counts: {', '.join(left_out[:20])}")
    names = [schema.field(at).name for at in fields]
    # the index comes last in the file and first in meaning
    labels.sort(key=lambda at: schema.field(at).name not in index)
    titles = [schema.field(at).name for at in labels]
    table = Table(
        name=name,
        path=path,
        form="parquet-table",
        fields=names,
        labels=["" if title.startswith(PANDAS_INDEX) else title for title in titles],
        pieces=lambda: _pieces(file, name, labels, fields),
    )
    return table_source(table, log)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _index_columns(schema: Any) -> set[str]:
    """Names of the columns that are the index of a pandas frame."""
    try:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    # the metadata is any JSON that a program wrote
    except (ValueError, AttributeError):
        return set()
    return {name for name in index if isinstance(name, str)}


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(f"{name} cannot be read as Parquet ({shown(str(error), 120)}); {DAMAGED}")


def _pieces(
    file: pq.ParquetFile, name: str, labels: list[int], fields: list[int]
) -> Iterator[Piece]:
    import pyarrow as pa

    rows = min(ROWS, max(1, VALUES // max(1, len(fields))))
    batches = file.iter_batches(batch_size=rows)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            columns = [batch.column(at) for at in fields]
            names = [
                ["" if value is None else str(value) for value in batch.column(at).to_pylist()]
                for at in labels
            ]
        except (OSError, pa.ArrowException, ValueError) as error:
            raise _unreadable(name, error) from error
        yield _piece(columns, names, batch, name, fields)


def _piece(
    columns: list[Any], names: list[list[str]], batch: Any, name: str, fields: list[int]
) -> Piece:
    lines, places, values = [], [], []
    for place, column in enumerate(columns):
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            at = shown(names[0][row], 30) if names else f"{row:,}"
            title = shown(batch.schema.field(fields[place]).name, 30)
            raise InputError(
                f"{name}: row {at}, column {title!r}: the value is missing; write 0 if it means "
                "no counts"
            )
        numbers = column.to_numpy(zero_copy_only=False)
        filled = np.flatnonzero(numbers)
        lines.append(filled.astype(np.int32))
        places.append(np.full(len(filled), place, np.int32))
        values.append(numbers[filled].astype(np.float64))
    return Piece(
        n_lines=batch.num_rows,
        lines=np.concatenate(lines),
        columns=np.concatenate(places),
        values=np.concatenate(values),
        names=names,
    )
