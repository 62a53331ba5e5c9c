"""Some rows of a stored table, without reading the others.

Of a file of ten million cells each worker reads its own part, and the names of all cells alone
would take more memory than the model. anndata reads a table as a whole, so its encodings (its
documentation's "On-disk format") are read here by slices; a table of anndata before 0.8 is read
whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cellscribe.cells.readers.frames import check_columns, index_key, n_rows, stored_frame, tidy
from cellscribe.cells.readers.storage import (
    Array,
    attribute,
    attribute_text,
    attribute_texts,
    is_group,
    member,
    reading,
)

NULLABLE = {
    "nullable-integer": pd.arrays.IntegerArray,
    "nullable-boolean": pd.arrays.BooleanArray,
}


def stored_rows(element: Any, where: str, first: int, last: int, uns: Any = None) -> pd.DataFrame:
    """Read rows `first` to `last` (exclusive) of an annotation frame, as `stored_frame` would.

    Parameters
    ----------
    element, where, uns
        As for `stored_frame`.
    first, last
        Rows.

    Raises
    ------
    InputError
        As `stored_frame`.
    """
    if not is_group(element) or not _is_plain(element, where):
        return stored_frame(element, where, uns).iloc[first:last]
    check_columns(element, n_rows(element, where), where)
    key, rows = index_key(element, where), slice(first, last)
    with reading(where):
        names = _values(member(element, key, where), rows, where)
        columns = attribute_texts(element, "column-order", where) or []
        found = {name: _values(member(element, name, where), rows, where) for name in columns}
        frame = pd.DataFrame(found, index=pd.Index(names), columns=columns)
        frame.index.name = None if key == "_index" else key
        return tidy(frame)


def _is_plain(group: Any, where: str) -> bool:
    """Whether a table is as anndata 0.8 and later write it."""
    if attribute_text(group, "encoding-type", where) != "dataframe":
        return False
    columns = attribute_texts(group, "column-order", where) or []
    return all(
        is_group(column) or attribute(column, "categories", where) is None
        for column in (member(group, name, where) for name in columns)
    )


def _values(column: Any, rows: slice, where: str) -> Any:
    if not is_group(column):
        return _array(column, rows)
    encoding = attribute_text(column, "encoding-type", where)
    if encoding == "categorical":
        categories = member(column, "categories", where)
        kinds = _values(categories, slice(None), where)
        ordered = attribute(column, "ordered", where)
        codes = np.asarray(member(column, "codes", where)[rows])
        return pd.Categorical.from_codes(codes, pd.Index(kinds), ordered=bool(ordered))
    values = _array(member(column, "values", where), rows)
    mask = np.asarray(member(column, "mask", where)[rows], dtype=bool)
    if encoding in NULLABLE:
        return NULLABLE[encoding](values, mask)
    texts = pd.array(values, dtype=pd.StringDtype())
    texts[mask] = pd.NA
    return texts


def _array(array: Any, rows: slice) -> Array:
    """Read values; texts, which h5py gives as bytes, as objects of str."""
    import h5py

    if isinstance(array, h5py.Dataset) and h5py.check_string_dtype(array.dtype) is not None:
        return np.asarray(array.asstr(errors="replace")[rows], dtype=object)
    values = np.asarray(array[rows])
    return values if values.dtype.kind in "biufc" else values.astype(object)
