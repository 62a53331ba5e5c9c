"""Shuffle on disk: spill files hold cells by bucket; a bucket is gathered when it is written.

The sources are read once into spill files: Arrow files of about 32,000 consecutive cells, with one
record batch for each bucket that has a cell in it. A bucket is a random set of cells that becomes
one shard of one split; it is gathered from one batch of every spill file. A spill file is complete
or absent, so a build that was killed does not read its cells again. They lie in ``.build/runs``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.corpus.build.packing import Scratch, offsets_of, scatter_rows
from cellscribe.writing import writing

if TYPE_CHECKING:
    import pyarrow as pa

SPILL_CELLS = 32_768
"""Smallest number of cells of a spill file; about 300 MB with the sorted copy."""
LISTS = ("genes", "counts")
SCRATCH = Scratch()


@dataclass(frozen=True, kw_only=True)
class SpillFile:
    """A finished spill file.

    Attributes
    ----------
    path
        The Arrow file.
    start, stop
        Range of the sources' cells that it covers, with the dropped ones.
    buckets
        Bucket number of each record batch, ascending.
    dropped
        Source -> reason -> number of dropped cells.
    """

    path: Path
    start: int
    stop: int
    buckets: tuple[int, ...]
    dropped: dict[int, dict[str, int]]


def list_array(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.ListArray:
    """Return packed rows as an Arrow list array that shares their memory."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def unpack(lists: pa.ListArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return values and offsets of an Arrow list array."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def lists_of(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return values and offsets of an Arrow list column."""
    return unpack(column.combine_chunks())


def narrowest(largest: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest type for numbers up to `largest`: fewer bytes are written faster."""
    return np.uint16 if largest < 1 << 16 else np.uint32


def concatenate(parts: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables whose counts may have two widths."""
    import pyarrow as pa

    wide = pa.list_(pa.uint32())
    if len({part.schema.field("counts").type for part in parts}) > 1:
        parts = [
            part.set_column(part.column_names.index("counts"), "counts", part["counts"].cast(wide))
            for part in parts
        ]
    return pa.concat_tables(parts)


def rows_in_order(
    parts: Sequence[pa.ListArray],
    order: npt.NDArray[np.int64],
    dtype: npt.DTypeLike | None = None,
    *,
    scratch: str | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Copy rows of all parts once, in another order.

    Parameters
    ----------
    parts
        Lists of numbers.
    order
        Numbers of the rows of all parts, in their new order.
    dtype
        Type of the copy; the widest type of the parts if not given.
    scratch
        Name of the thread's array to copy to, whose contents the next such call overwrites.

    Returns
    -------
    Values and offsets, packed.
    """
    packed = [unpack(part) for part in parts]
    lengths = np.concatenate([np.diff(offsets) for _, offsets in packed])
    offsets = offsets_of(lengths[order])
    places = np.empty(len(order), dtype=np.int64)
    places[order] = offsets[:-1]
    dtype = dtype or np.result_type(*(values.dtype for values, _ in packed))
    size = int(offsets[-1])
    out = SCRATCH.empty(scratch, size, dtype) if scratch else np.empty(size, dtype=dtype)
    row = 0
    for values, ends in packed:
        scatter_rows(values, ends, out, places[row : row + len(ends) - 1])
        row += len(ends) - 1
    return out, offsets


def write_spill(
    folder: Path,
    parts: Sequence[pa.Table],
    bucket: npt.NDArray[np.int64],
    start: int,
    stop: int,
    dropped: Counter[tuple[int, str]],
) -> SpillFile:
    """Write a spill file, cells in order of their buckets.

    Parameters
    ----------
    folder
        Folder of the spill files.
    parts
        Tables of cells: columns of numbers and text, and the lists ``genes`` and ``counts``.
    bucket
        Bucket of each cell of all parts.
    start, stop, dropped
        As in `SpillFile`; `dropped` by source and reason.
    """
    import pyarrow as pa

    order = np.argsort(bucket, kind="stable")
    there, first = np.unique(bucket[order], return_index=True)
    cells = concatenate(parts)
    columns = {
        name: cells[name].take(pa.array(order)).combine_chunks()
        for name in cells.column_names
        if name not in LISTS
    }
    columns |= {
        name: list_array(*rows_in_order(cells[name].chunks, order, scratch=name)) for name in LISTS
    }
    by_source: dict[int, dict[str, int]] = {}
    for (source, reason), n in sorted(dropped.items()):
        by_source.setdefault(source, {})[reason] = n
    record = {"start": start, "stop": stop, "buckets": there.tolist(), "dropped": by_source}
    table = pa.table(columns).replace_schema_metadata({"run": json.dumps(record)})
    path = folder / f"{start:012}.arrow"
    bounds = [*first.tolist(), len(order)]
    with writing(path) as partial, pa.OSFile(str(partial), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            for place in range(len(there)):
                part = table.slice(bounds[place], bounds[place + 1] - bounds[place])
                for batch in part.to_batches():
                    writer.write_batch(batch)
    return read_spill(path)


def read_spill(path: Path) -> SpillFile:
    """Read the metadata of a spill file."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        record = json.loads(pa.ipc.open_file(file).schema.metadata[b"run"])
    return SpillFile(
        path=path,
        start=record["start"],
        stop=record["stop"],
        buckets=tuple(record["buckets"]),
        dropped={int(source): reasons for source, reasons in record["dropped"].items()},
    )


def finished_spills(folder: Path) -> list[SpillFile]:
    """Return a folder's spill files up to the first gap in their cells; remove the others."""
    spills: list[SpillFile] = []
    for path in sorted(folder.iterdir()):
        spill = read_spill(path) if path.suffix == ".arrow" and path.name[0] != "." else None
        if spill is not None and spill.start == (spills[-1].stop if spills else 0):
            spills.append(spill)
        else:
            path.unlink()
    return spills


@contextmanager
def _opened(spill: SpillFile, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the reader of a spill file; its batches must not be used after it is closed."""
    import pyarrow as pa

    with pa.OSFile(str(spill.path)) as file:
        names = pa.ipc.open_file(file).schema.names
        fields = [names.index(name) for name in columns]
        yield pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))


def read_batches(
    spills: Sequence[SpillFile], columns: Sequence[str]
) -> Iterator[tuple[int, pa.Table]]:
    """Read columns of all spill files: bucket and cells, one batch at a time."""
    import pyarrow as pa

    for spill in spills:
        with _opened(spill, columns) as reader:
            for place, bucket in enumerate(spill.buckets):
                yield bucket, pa.table(reader.get_batch(place)).select(list(columns))


def read_bucket(
    spills: Sequence[SpillFile], bucket: int, columns: Sequence[str]
) -> pa.Table | None:
    """Read all cells of a bucket; None if it has none."""
    import pyarrow as pa

    parts = []
    for spill in spills:
        place = int(np.searchsorted(spill.buckets, bucket))
        if place < len(spill.buckets) and spill.buckets[place] == bucket:
            with _opened(spill, columns) as reader:
                parts.append(pa.table(reader.get_batch(place)))
    return concatenate(parts).select(list(columns)) if parts else None
