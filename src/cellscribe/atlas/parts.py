"""The results of shards that are joined: what each holds, and its rows by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.atlas.stores import Folder, Store
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.download import download
from cellscribe.errors import InputError
from cellscribe.writing import hash_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 65_536
"""Rows read at a time."""
ID, VECTOR = "cell_id", "embedding"
CATEGORY = "category of "
MOST_ORDERED = 1_000
"""Categories whose order is kept."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The result of a shard, as the manifest has it."""

    source: str
    """Name of its source."""
    store: Store
    file: str
    """Name in the store."""
    n_cells: int
    sha256: str
    columns: Mapping[str, Any] | None = None
    """From `columns_of`; None if the manifest does not tell."""

    @property
    def where(self) -> str:
        """Address, for messages."""
        return f"{self.store.name}/{self.file}"

    @contextmanager
    def local(self, scratch: Path) -> Iterator[Path]:
        """Give a file on this machine that is as it was written, until the block ends.

        Parameters
        ----------
        scratch
            Takes a copy of what lies in a bucket.

        Raises
        ------
        InputError
            The file is missing, or not as it was written.
        """
        path = scratch / "part"
        try:
            if isinstance(self.store, Folder):
                path = self.store.path / self.file
            else:
                assert isinstance(self.store, Bucket)
                download(self.store, self.file, path)
            self._check(path)
            yield path
        finally:
            (scratch / "part").unlink(missing_ok=True)

    def _check(self, path: Path) -> None:
        try:
            if hash_of(path) == self.sha256:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"{self.where} cannot be read: {error.strerror or error}") from None
        raise InputError(
            f"{self.where} is missing or not as it was written; remove it and run embed again"
        )


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a part."""

    vectors: npt.NDArray[np.floating]
    """``[B, D]``."""
    cells: pa.Table
    """``cell_id`` and the columns of obs that were asked for; ``B`` rows."""


def columns_of(path: Path) -> dict[str, dict[str, Any]]:
    """Read which columns of obs a file of vectors has, from its footer.

    Returns
    -------
    dict
        Name -> ``type``, see `type_of`, and ``nulls``, whether a value is or may be missing; of
        ordered categories ``order``, the list of them.
    """
    import pyarrow.parquet as pq

    with reading_parquet(str(path)), pq.ParquetFile(path) as file:
        places = {file.schema.column(i).path: i for i in range(len(file.schema.names))}
        about = file.metadata
        groups = [about.row_group(i) for i in range(about.num_row_groups)]

        def nulls(name: str) -> bool:
            found = [group.column(places[name]).statistics for group in groups]
            return any(each is None or each.null_count is None or each.null_count for each in found)

        return {
            field.name: {
                "type": name_of(field.type),
                "nulls": bool(nulls(field.name)),
                **_order(file, field),
            }
            for field in file.schema_arrow
            if field.name not in (ID, VECTOR)
        }


def _order(file: pq.ParquetFile, field: pa.Field) -> dict[str, list[Any]]:
    import pyarrow as pa

    if not (pa.types.is_dictionary(field.type) and field.type.ordered and file.num_row_groups):
        return {}
    column = file.read_row_group(0, columns=[field.name])[field.name].combine_chunks()
    values = column.dictionary.to_pylist()
    kept = len(values) <= MOST_ORDERED and all(isinstance(v, str | int | float) for v in values)
    return {"order": values} if kept else {}


def name_of(kind: pa.DataType) -> str:
    """Name a type as the manifest has it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return f"{CATEGORY}{name_of(kind.value_type)}"
    return str(kind)


def type_of(name: str) -> pa.DataType:
    """Find the type that `name_of` names.

    Raises
    ------
    ValueError
        There is no such type.
    """
    import pyarrow as pa

    if name.startswith(CATEGORY):
        return pa.dictionary(pa.int32(), type_of(name.removeprefix(CATEGORY)))
    unit, zoned, zone = name.partition(", tz=")
    if zoned:
        return pa.timestamp(unit.removeprefix("timestamp["), zone.removesuffix("]"))
    return pa.type_for_alias(name)


def read_tables(path: Path, where: str, rows: int = ROWS) -> Iterator[pa.Table]:
    """Read a Parquet file by blocks of rows.

    Raises
    ------
    InputError
        It is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading_parquet(where), pq.ParquetFile(path, memory_map=False) as file:
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch], schema=file.schema_arrow)


def read_vectors(path: Path, where: str) -> Iterator[Block]:
    """Read a file of vectors by blocks.

    Raises
    ------
    InputError
        It is no file of vectors, or damaged.
    """
    import pyarrow as pa

    for table in read_tables(path, where):
        kind = table.schema.field(VECTOR).type if VECTOR in table.column_names else pa.null()
        if not pa.types.is_fixed_size_list(kind) or ID not in table.column_names:
            raise InputError(f"{where}: holds no vectors of cells; give the folder of a run")
        flat = table[VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        yield Block(flat.reshape(-1, kind.list_size), table.drop_columns([VECTOR]))


@contextmanager
def reading_parquet(where: str) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into one line."""
    import pyarrow as pa

    try:
        yield
    except (KeyError, OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where} cannot be read ({reason}); embed that source again") from None
