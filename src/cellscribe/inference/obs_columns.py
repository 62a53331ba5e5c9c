"""Columns of obs as Arrow columns: what stands next to the vectors in a Parquet file.

A column keeps its type where Arrow has one: numbers, truth values, texts, categories, dates. What
is of several kinds, or has no such type (a period, an interval, a length of time), is text. A
missing value is null, that of a float included, as pandas writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from pandas.api.types import infer_dtype

from cellscribe.cells.columns import find_column
from cellscribe.cells.counts import Counts
from cellscribe.cells.readers.frames import text

if TYPE_CHECKING:
    import pyarrow as pa

FLAG = "--obs"
ALIKE = ("boolean", "integer", "floating", "mixed-integer-float", "datetime64", "datetime", "date")
"""Kinds of objects that have a type of their own, by pandas' names."""


def lacking(counts: Counts, names: Sequence[str]) -> list[str]:
    """List the columns of `names` that the cells do not have."""
    if not names:
        return []
    there = set(map(str, counts.obs.columns))
    return [name for name in names if name not in there]


def check_columns(counts: Counts, names: Sequence[str]) -> None:
    """Refuse columns that the cells do not have, or have twice.

    Raises
    ------
    InputError
        There is no such column, or more than one; the message has names that are near it.
    """
    for name in names:
        find_column(counts.obs, name, FLAG, counts.name)


def arrow_columns(counts: Counts, names: Sequence[str]) -> dict[str, pa.Array]:
    """Read columns of obs; one that the cells do not have is null for all of them.

    Returns
    -------
    dict
        Name of a column and its ``n_cells`` values.

    Raises
    ------
    InputError
        The cells have a column twice.
    """
    import pyarrow as pa

    absent = lacking(counts, names)
    return {
        name: pa.nulls(counts.n_cells)
        if name in absent
        else to_arrow(find_column(counts.obs, name, FLAG, counts.name))
        for name in names
    }


def to_arrow(values: pd.Series) -> pa.Array:
    """Turn a column into an Arrow array of a type that Parquet and anndata have.

    Returns
    -------
    pyarrow.Array
        Of integers, floats, truth values, texts, dates, times (with a time zone or without), or
        32-bit codes of categories of these; null where a value is missing.
    """
    import pyarrow as pa

    if isinstance(values.dtype, pd.CategoricalDtype):
        kinds = to_arrow(pd.Series(values.cat.categories))
        codes = values.cat.codes.to_numpy()
        places = pa.array(codes.astype("int32"), mask=codes < 0)
        return pa.DictionaryArray.from_arrays(places, kinds, ordered=bool(values.cat.ordered))
    found = infer_dtype(values, skipna=True) if values.dtype.kind == "O" else ""
    if found == "empty":
        return pa.nulls(len(values))
    if found in ALIKE or values.dtype.kind in "biufM":
        try:
            column = pa.array(values, from_pandas=True)
            return column.cast(pa.float32()) if column.type == pa.float16() else column
        # whole numbers of any size, as Python has them
        except (pa.ArrowException, OverflowError):
            pass
    pairs = zip(values, values.isna(), strict=True)
    return pa.array([None if missing else text(value) for value, missing in pairs], pa.string())
