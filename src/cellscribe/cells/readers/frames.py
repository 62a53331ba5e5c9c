"""Tables of cells and genes (obs and var), as every version of anndata has written them.

The tables come in many encodings and are read by anndata itself. Before it sees one, every column
is checked to be what it can be, with as many values as the table has rows: anndata and pandas
trust what they find, repeat a single value for all cells, and follow groups that hold themselves.
Names come out as str, whatever they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cellscribe.cells.readers.storage import (
    DAMAGED,
    array_shape,
    attribute,
    attribute_text,
    attribute_texts,
    check_names,
    check_stored,
    is_group,
    keys_of,
    member,
    one_axis,
    reading,
    shortened,
)
from cellscribe.errors import InputError

COLUMN_GROUPS = {
    "categorical": ("codes",),
    "nullable-integer": ("values", "mask"),
    "nullable-boolean": ("values", "mask"),
    "nullable-string-array": ("values", "mask"),
}
"""Encodings of a column that is a group -> its arrays with one value a row."""
FIRST = ("_index", "index")
"""Columns that hold the names where nothing says which one does."""
LEGACY = "_categories"
"""anndata before 0.7 kept the categories of ``obs["x"]`` in ``uns["x_categories"]``."""


def text(value: Any) -> str:
    """Give a name as str: bytes decoded, missing as ""."""
    if isinstance(value, str):
        # h5py hands on bytes that are no UTF-8 as lone surrogates, which cannot be written again
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)


def names(values: Iterable[Any]) -> pd.Index:
    """Make an index of str from names of any kind."""
    found = list(values)
    # most are; asked of all at once, as there may be a million
    if set(map(type, found)) != {str} or not "".join(found).isascii():
        found = [text(value) for value in found]
    return pd.Index(found, dtype=object)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Copy a frame with names as str and columns of bytes decoded."""
    frame = frame.copy()
    frame.index = names(frame.index).rename(frame.index.name)
    # by place, as two columns may have one name
    for at, dtype in enumerate(frame.dtypes):
        if dtype.kind != "O":
            continue
        values = frame.iloc[:, at]
        if any(issubclass(kind, bytes) for kind in set(map(type, values))):
            frame.isetitem(at, [text(value) for value in values])
    return frame


def n_rows(element: Any, where: str) -> int:
    """Give the number of rows of a stored table without reading it.

    Parameters
    ----------
    element
        Group or structured array.
    where
        Name in messages.

    Raises
    ------
    InputError
        It is no table, or claims more names than its bytes can hold.
    """
    if not is_group(element):
        return _length(element, where)
    key = index_key(element, where)
    return _length(member(element, key, where), f"{where}/{shortened(key)}")


def index_key(group: Any, where: str) -> str:
    """Name of the member that holds the names of a table."""
    key = attribute_text(group, "_index", where)
    if key is not None:
        return key
    columns = keys_of(group, where)
    found = [key for key in FIRST if key in columns] or columns
    if not found:
        raise InputError(f"{where} has no column of names; {DAMAGED}")
    return found[0]


def _length(column: Any, where: str) -> int:
    grouped = is_group(column)
    if grouped:
        column = member(column, _group_arrays(column, where)[0], where)
    check_names(one_axis(column, where), where)
    if hasattr(column, "store_path") and not grouped:
        from cellscribe.cells.readers.zarr_store import refuse_holes

        refuse_holes(column, where)
    return int(column.shape[0])


def _group_arrays(group: Any, where: str) -> tuple[str, ...]:
    encoding = attribute_text(group, "encoding-type", where)
    if encoding not in COLUMN_GROUPS:
        raise InputError(
            f"{where} is a group stored as {shortened(str(encoding))!r} and not a column; {DAMAGED}"
        )
    return COLUMN_GROUPS[encoding]


def _check_column(column: Any, table: Any, size: int, where: str) -> None:
    """Check that a column has one value a row and nothing in it that leads elsewhere."""
    if not is_group(column):
        check_stored(one_axis(column, where, size), where)
        # anndata 0.7: where in the group __categories they are, in HDF5 as a reference
        place = attribute(column, "categories", where)
        if place is not None:
            _check_categories(member(table, place, where), f"{where}: categories")
        return
    for key in _group_arrays(column, where):
        array = one_axis(member(column, key, where), f"{where}/{key}", size)
        check_stored(array, f"{where}/{key}")
    if attribute_text(column, "encoding-type", where) == "categorical":
        _check_categories(member(column, "categories", where), f"{where}/categories")


def _check_categories(categories: Any, where: str) -> None:
    size = _length(categories, where)
    if is_group(categories):
        for key in _group_arrays(categories, where):
            if key == "codes":
                raise InputError(f"{where} are themselves categorical; {DAMAGED}")
            one_axis(member(categories, key, where), f"{where}/{key}", size)


def stored_frame(element: Any, where: str, uns: Any = None) -> pd.DataFrame:
    """Read an annotation frame as anndata writes it, structured arrays of before 0.7 included.

    Parameters
    ----------
    element
        Group or structured array.
    where
        Name in messages.
    uns
        The group of the file that may hold the categories of an old one, if any.

    Raises
    ------
    InputError
        It is damaged, or a column has another length than the names.
    """
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    size = n_rows(element, where)
    if is_group(element):
        check_columns(element, size, where)
    # anndata raises whatever its readers meet, some of it in private classes
    with reading(where), warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        records = None if is_group(element) else element[()]
        frame = read_elem(element) if records is None else pd.DataFrame.from_records(records)
        if isinstance(frame, dict):
            frame = pd.DataFrame(frame)
        if not is_group(element) or "_index" not in element.attrs:
            first = [key for key in FIRST if key in frame.columns]
            frame = frame.set_index((first or list(frame.columns))[0])
        frame = tidy(frame)
    if len(frame) != size:
        raise InputError(f"{where} has {len(frame):,} rows in place of {size:,}; {DAMAGED}")
    return frame if uns is None else _with_categories(frame, uns, where)


def check_columns(group: Any, size: int, where: str) -> None:
    """Check all columns that anndata will read."""
    encoding = attribute_text(group, "encoding-type", where)
    columns = attribute_texts(group, "column-order", where)
    if encoding == "dataframe":
        if columns is None:
            raise InputError(f"{where} has no column-order; {DAMAGED}")
    elif encoding is None:
        # read as a mapping: all its members
        columns = keys_of(group, where)
    else:
        raise InputError(f"{where} is stored as {shortened(encoding)!r}, not a table; {DAMAGED}")
    for key in {*columns, index_key(group, where)}:
        column = f"{where}/{shortened(key)}"
        _check_column(member(group, key, where), group, size, column)


def _with_categories(frame: pd.DataFrame, uns: Any, where: str) -> pd.DataFrame:
    """Put the categories that an old file keeps in uns in the place of their codes."""
    if not is_group(uns):
        return frame
    for at, (column, dtype) in enumerate(frame.dtypes.items()):
        key = f"{column}{LEGACY}"
        if dtype.kind not in "iu":
            continue
        with reading(f"{where}: {shortened(key)}"):
            if key not in uns:
                continue
        found = member(uns, key, where)
        if is_group(found):
            continue
        categories = _categories(found, f"{where}: uns/{shortened(key)}")
        codes = frame.iloc[:, at].to_numpy()
        # a column of var may have the name of one of obs: as anndata, tell them by their codes
        if codes.size and (codes.min() < -1 or codes.max() >= len(categories)):
            continue
        named = pd.Categorical.from_codes(codes.astype(np.int64), pd.Index(categories))
        frame.isetitem(at, named)
    return frame


def _categories(array: Any, where: str) -> list[Any]:
    shape = array_shape(array, where)
    check_stored(array, where)
    if len(shape) > 1:
        raise InputError(f"{where} has {len(shape)} axes in place of one; {DAMAGED}")
    with reading(where):
        # one category may be stored as a single value
        values = np.atleast_1d(np.asarray(array[()], dtype=object))
        found = [text(value) if isinstance(value, str | bytes) else value for value in values]
    if len(set(found)) < len(found):
        raise InputError(f"{where} names a category twice; {DAMAGED}")
    return found
