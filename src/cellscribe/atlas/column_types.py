"""Columns of obs of several parts brought to one type each.

What is of one type in all parts stays so. Whole numbers and fractions are joined as numbers,
categories and their values as values, and what does not go together is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

UNITS = ("s", "ms", "us", "ns")


def common_type(
    kinds: Iterable[pa.DataType], orders: Sequence[list[Any] | None] = ()
) -> pa.DataType:
    """Find the type that holds the values of all parts.

    Parameters
    ----------
    kinds
        Type of the column in each part; null where all its values are missing.
    orders
        Its categories in each part, where they have an order: it stays if all have the same.
    """
    import pyarrow as pa

    # of categories neither the order nor the width of the codes
    plain = [_without_order(kind) for kind in kinds if not pa.types.is_null(kind)]
    found = list(dict.fromkeys(plain))
    if len(found) < 2:
        one = found[0] if found else pa.string()
        same = bool(orders) and orders[0] is not None and all(o == orders[0] for o in orders)
        return pa.dictionary(pa.int32(), one.value_type, ordered=True) if same else one
    values = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in found]
    if len(set(values)) == 1:
        return values[0]
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in values):
        return pa.from_numpy_dtype(np.result_type(*(kind.to_pandas_dtype() for kind in values)))
    if all(pa.types.is_timestamp(kind) for kind in values) and len({k.tz for k in values}) == 1:
        return pa.timestamp(max((k.unit for k in values), key=UNITS.index), values[0].tz)
    return pa.string()


def _without_order(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.dictionary(pa.int32(), kind.value_type) if pa.types.is_dictionary(kind) else kind


def cast_columns(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Bring the columns of a part to the types that all parts have together.

    Raises
    ------
    InputError
        A value has no place in the common type: a whole number that no fraction equals.
    """
    import pyarrow as pa

    try:
        columns = [_cast(table[field.name].combine_chunks(), field.type) for field in schema]
    except pa.ArrowException as error:
        raise InputError(
            f"{where}: a column of obs does not go together with those of other parts "
            f"({str(error).partition(chr(10))[0]}); embed with --obs for those that do"
        ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if column.type == kind:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_dictionary(kind):
        coded = column.cast(kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), coded.dictionary)
    return column.cast(kind)


def names_differ(names: Sequence[str], others: Sequence[str], where: str) -> None:
    """Refuse a part with other columns than the first.

    Raises
    ------
    InputError
        It has.
    """
    if list(names) != list(others):
        raise InputError(
            f"{where}: holds {', '.join(names)}, other parts {', '.join(others)}; embed all with "
            "the same options"
        )
