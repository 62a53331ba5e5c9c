"""An obs of AnnData written by blocks of rows, to zarr or HDF5, in the types of its columns.

The encodings are those of anndata's on-disk format (anndata.readthedocs.io, "On-disk format"). A
column with missing values is stored with a mask if it has whole numbers, truth values or texts; of
fractions NaN stands for them, and of categories the code -1. Dates and times, which anndata does
not store, are texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
"""Rows of a chunk."""
MASKED = {"i": "nullable-integer", "u": "nullable-integer", "b": "nullable-boolean"}
MASKED |= {"O": "nullable-string-array"}
"""Encoding of a column with missing values, by the kind of its values."""


class StoredObs:
    """Writes the rows of obs one block after the other.

    Parameters
    ----------
    obs
        Group of h5py or zarr, encoded as a table without columns.
    n_cells
        Rows of all blocks.
    schema
        Names and types of the columns.
    index
        The one that names the cells.
    nulls
        Columns of which values are missing.
    """

    def __init__(
        self, obs: Any, n_cells: int, schema: pa.Schema, *, index: str, nulls: Mapping[str, bool]
    ) -> None:
        self._columns = {}
        stored = {**stored_names([name for name in schema.names if name != index]), index: "_index"}
        for field in schema:
            missing = nulls.get(field.name, False)
            name = stored[field.name]
            self._columns[field.name] = _Column(obs, name, n_cells, field.type, missing)
        order = [stored[name] for name in schema.names if name != index]
        # of an empty list h5py cannot tell the type
        obs.attrs["column-order"] = order or np.empty(0, dtype=np.float64)

    def write(self, first: int, table: pa.Table) -> None:
        """Write the rows from `first` on."""
        for name, column in self._columns.items():
            column.write(first, table[name].combine_chunks())

    def close(self) -> None:
        """Write what is known at the end alone."""
        for column in self._columns.values():
            column.close()


def stored_names(names: Sequence[str]) -> dict[str, str]:
    """Name columns for a store, where a slash would make a group: no two have one name."""
    stored: dict[str, str] = {name: name for name in names if "/" not in name and name != "_index"}
    for name in names:
        if name not in stored:
            new = "index_" if name == "_index" else name.replace("/", "_")
            while new in stored.values():
                new += "_"
            stored[name] = new
    return stored


class _Column:
    def __init__(self, obs: Any, name: str, size: int, kind: pa.DataType, nulls: bool) -> None:
        import pyarrow as pa

        self._categories: dict[Any, int] | None = None
        if pa.types.is_dictionary(kind):
            self._group = _encode(obs.create_group(name), "categorical")
            self._group.attrs["ordered"] = bool(kind.ordered)
            self._values = _array(self._group, "codes", size, np.dtype(np.int32))
            self._categories, self._kind = {}, kind.value_type
            self._mask = None
            return
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        self._dtype = np.dtype(kind.to_pandas_dtype()) if plain else np.dtype(object)
        encoding = MASKED.get(self._dtype.kind) if nulls else None
        self._mask = None
        if encoding is None:
            self._values = _array(obs, name, size, self._dtype)
        else:
            group = _encode(obs.create_group(name), encoding, "0.1.0")
            self._values = _array(group, "values", size, self._dtype)
            self._mask = _array(group, "mask", size, np.dtype(bool))

    def write(self, first: int, column: pa.Array) -> None:
        import pyarrow as pa

        rows = slice(first, first + len(column))
        if self._categories is not None:
            known = self._categories
            places = [
                known.setdefault(value, len(known)) for value in column.dictionary.to_pylist()
            ]
            places.append(-1)
            codes = column.indices.fill_null(len(places) - 1).to_numpy()
            self._values[rows] = np.array(places, dtype=np.int32)[codes]
            return
        if self._mask is not None:
            self._mask[rows] = column.is_null().to_numpy(zero_copy_only=False)
        if self._dtype.kind == "O":
            texts = column.cast(pa.string()).fill_null("")
            self._values[rows] = texts.to_numpy(zero_copy_only=False).astype(object)
        elif self._dtype.kind == "f":
            self._values[rows] = column.to_numpy(zero_copy_only=False)
        else:
            empty = False if self._dtype.kind == "b" else 0
            self._values[rows] = column.fill_null(empty).to_numpy(zero_copy_only=False)

    def close(self) -> None:
        """Write the categories, in the order in which they came."""
        import pyarrow as pa

        if self._categories is None:
            return
        found = pa.array(list(self._categories), self._kind)
        plain = pa.types.is_integer(self._kind) or pa.types.is_floating(self._kind)
        if plain or pa.types.is_boolean(self._kind):
            values = found.to_numpy(zero_copy_only=False)
        else:
            values = found.cast(pa.string()).to_numpy(zero_copy_only=False).astype(object)
        _array(self._group, "categories", len(found), values.dtype)[:] = values


def _encode(element: Any, encoding: str, version: str = "0.2.0") -> Any:
    element.attrs["encoding-type"] = encoding
    element.attrs["encoding-version"] = version
    return element


def _array(group: Any, name: str, size: int, dtype: np.dtype[Any]) -> Any:
    """Make an array of numbers or, of type object, of texts."""
    options = {"shape": (size,), "chunks": (max(1, min(size, ROWS)),)}
    texts = dtype.kind == "O"
    if type(group).__module__.startswith("h5py"):
        import h5py

        made = group.create_dataset(name, dtype=h5py.string_dtype() if texts else dtype, **options)
    else:
        from zarr.core.dtype import VariableLengthUTF8

        made = group.create_array(name, dtype=VariableLengthUTF8() if texts else dtype, **options)
    return _encode(made, "string-array" if texts else "array")
