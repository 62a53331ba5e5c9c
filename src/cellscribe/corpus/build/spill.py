"""Shuffling out of core: cells scattered to buckets while they are read, gathered when written.

Reading goes through the sources once and leaves runs: Arrow files of some 32,000 consecutive cells,
with one record batch for each bucket that has a cell in it. A bucket is a random set of cells that
becomes one shard of one split; gathering it takes one batch of every run. A run is complete or not
there, so what a killed build has read stays read.
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

RUN_CELLS = 32_768
"""Cells a run, at least; some 300 MB with the copy that is sorted."""
LISTS = ("genes", "counts")
SCRATCH = Scratch()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path
        The Arrow file.
    start, stop
        Cells of the sources, in order, that it covers, dropped ones included.
    buckets
        Bucket of each record batch, ascending.
    dropped
        Source -> reason -> cells that are not in it.
    """

    path: Path
    start: int
    stop: int
    buckets: tuple[int, ...]
    dropped: dict[int, dict[str, int]]


def list_array(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.ListArray:
    """Packed rows as an Arrow list array, sharing memory."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def unpack(lists: pa.ListArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Values and offsets of an Arrow list array."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def lists_of(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Values and offsets of an Arrow list column."""
    return unpack(column.combine_chunks())


def narrowest(largest: int) -> type[np.unsignedinteger[Any]]:
    """Type of numbers up to `largest`: half the bytes are half the work of writing them."""
    return np.uint16 if largest < 1 << 16 else np.uint32


def concatenate(parts: Sequence[pa.Table]) -> pa.Table:
    """Join tables whose counts may be of two widths."""
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
    """Copy rows of all parts in another order, once.

    Parameters
    ----------
    parts
        Lists of numbers.
    order
        Which row of all of them comes first, second, ...
    dtype
        Of the copy; the widest of the parts if not given.
    scratch
        Copy to the thread's own array of that name, until the next one does.

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


def write_run(
    folder: Path,
    parts: Sequence[pa.Table],
    bucket: npt.NDArray[np.int64],
    start: int,
    stop: int,
    dropped: Counter[tuple[int, str]],
) -> Run:
    """Write a run, cells in order of their buckets.

    Parameters
    ----------
    folder
        Of the runs.
    parts
        Cells: columns of numbers and text, and the lists ``genes`` and ``counts``.
    bucket
        Bucket of each cell of all parts.
    start, stop, dropped
        As in `Run`; `dropped` by source and reason.
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
    told = {"start": start, "stop": stop, "buckets": there.tolist(), "dropped": by_source}
    table = pa.table(columns).replace_schema_metadata({"run": json.dumps(told)})
    path = folder / f"{start:012}.arrow"
    bounds = [*first.tolist(), len(order)]
    with writing(path) as partial, pa.OSFile(str(partial), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            for place in range(len(there)):
                part = table.slice(bounds[place], bounds[place + 1] - bounds[place])
                for batch in part.to_batches():
                    writer.write_batch(batch)
    return read_run(path)


def read_run(path: Path) -> Run:
    """Read what a run says of itself."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        told = json.loads(pa.ipc.open_file(file).schema.metadata[b"run"])
    return Run(
        path=path,
        start=told["start"],
        stop=told["stop"],
        buckets=tuple(told["buckets"]),
        dropped={int(source): reasons for source, reasons in told["dropped"].items()},
    )


def finished_runs(folder: Path) -> list[Run]:
    """Runs of a folder as far as they follow on one another; what else lies there is removed."""
    runs: list[Run] = []
    for path in sorted(folder.iterdir()):
        run = read_run(path) if path.suffix == ".arrow" and path.name[0] != "." else None
        if run is not None and run.start == (runs[-1].stop if runs else 0):
            runs.append(run)
        else:
            path.unlink()
    return runs


@contextmanager
def _opened(run: Run, columns: Sequence[str]) -> Iterator[Any]:
    """Give the run's reader; its batches must not be used once it is closed."""
    import pyarrow as pa

    with pa.OSFile(str(run.path)) as file:
        names = pa.ipc.open_file(file).schema.names
        fields = [names.index(name) for name in columns]
        yield pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))


def read_batches(runs: Sequence[Run], columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Read columns of all runs: bucket and cells, a batch at a time."""
    import pyarrow as pa

    for run in runs:
        with _opened(run, columns) as reader:
            for place, bucket in enumerate(run.buckets):
                yield bucket, pa.table(reader.get_batch(place)).select(list(columns))


def read_bucket(runs: Sequence[Run], bucket: int, columns: Sequence[str]) -> pa.Table | None:
    """Read all cells of a bucket, None if it has none."""
    import pyarrow as pa

    parts = []
    for run in runs:
        place = int(np.searchsorted(run.buckets, bucket))
        if place < len(run.buckets) and run.buckets[place] == bucket:
            with _opened(run, columns) as reader:
                parts.append(pa.table(reader.get_batch(place)))
    return concatenate(parts).select(list(columns)) if parts else None
