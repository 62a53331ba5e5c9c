"""Joins the parts of a job into one output, a block of rows in memory at a time.

- ``.parquet``: the rows of all parts, with the column ``source``.
- ``.npy``: the matrix, to be memory-mapped, and ``OUT.cells.parquet`` with ``source``, ``cell_id``
  and the columns of obs of each of its rows.
- ``.zarr``: an AnnData without X: vectors in obsm, those columns in obs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.atlas.job import MANIFEST
from cellscribe.atlas.parts import ID, VECTOR, Block, read_parquet
from cellscribe.atlas.records import as_record
from cellscribe.atlas.stores import Folder
from cellscribe.callbacks import Progress
from cellscribe.errors import InputError
from cellscribe.writing import disk_errors, hash_of, writing

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = (".parquet", ".npy", ".zarr")
SOURCE = "source"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Part:
    """A shard's result."""

    name: str
    path: Path
    n_cells: int


def index_of(out: Path) -> list[Path]:
    """Return the file that lies next to an output of this form, if there is one."""
    return [out.with_name(f"{out.name}.cells.parquet")] if out.suffix == ".npy" else []


def read_parts(folder: Path) -> tuple[list[Part], dict[str, Any]]:
    """Read which results a folder holds, and what they are.

    Returns
    -------
    parts
        In the order of the manifest, each as it was written: the bytes are compared with the hash.
    about
        What was made: ``width``, ``dtype``, ``key_added`` and more.

    Raises
    ------
    InputError
        There is no manifest, a source has no result, a result is missing or not as it was written.
    """
    manifest = as_record(Folder(folder).read(MANIFEST))
    shards, about = manifest.get("shards"), manifest.get("about")
    if not isinstance(shards, list) or not isinstance(about, dict) or not shards:
        raise InputError(f"{folder} has no readable {MANIFEST}; give the output folder of embed")
    parts = []
    for shard in shards:
        if shard["status"] != "done":
            why = shard.get("reason", "not done yet")
            raise InputError(f"{shard['name']} has no vectors ({why}); run embed again first")
        path = folder / shard["file"]
        if path.suffix != ".parquet":
            raise InputError(f"{path}: only .parquet results are joined; embed with --form parquet")
        if not path.is_file() or hash_of(path) != shard["sha256"]:
            raise InputError(
                f"{path} is missing or not as it was written; remove it and run embed again"
            )
        parts.append(Part(name=shard["name"], path=path, n_cells=int(shard["cells"])))
    return parts, about


def collect_parts(
    parts: Sequence[Part],
    out: Path,
    *,
    width: int,
    dtype: str,
    key_added: str,
    progress: Progress | None = None,
) -> int:
    """Write the rows of all parts, in their order.

    Parameters
    ----------
    parts
        Results of one job.
    out
        ``.parquet``, ``.npy`` or ``.zarr``; appears when it is whole.
    width, dtype
        Of the vectors: ``D``, and ``float32`` or ``float16``.
    key_added
        Name of the vectors in obsm.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InputError
        No such form; a part is missing, damaged, or holds other columns than the first; the disk
        is full.
    """
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in one of {', '.join(FORMS)}")
    write = {".parquet": _to_parquet, ".npy": _to_npy, ".zarr": _to_zarr}[out.suffix]
    total = sum(part.n_cells for part in parts)
    with disk_errors(out):
        write(
            _blocks(parts, total, width, progress), out, (total, width), np.dtype(dtype), key_added
        )
    return total


def _blocks(
    parts: Sequence[Part], total: int, width: int, progress: Progress | None
) -> Iterator[Block]:
    """Read the parts in their order, each with its name in the column ``source``."""
    import pyarrow as pa

    done, schema = 0, None
    for part in parts:
        first = done
        for block in read_parquet(part.path):
            names = (
                pa.array([part.name])
                .dictionary_encode()
                .take(pa.array(np.zeros(block.cells.num_rows, np.int64)))
            )
            cells = block.cells.add_column(0, SOURCE, names.cast(pa.string()))
            schema = schema or cells.schema.remove_metadata()
            if block.vectors.shape[1] != width or cells.schema.names != schema.names:
                raise InputError(
                    f"{part.path}: holds {', '.join(cells.schema.names[1:])} and "
                    f"{block.vectors.shape[1]} values a cell, other parts "
                    f"{', '.join(schema.names[1:])} and {width}; embed all with the same options"
                )
            done += cells.num_rows
            yield Block(block.vectors, _as_text(cells))
            if progress is not None:
                progress(done, total)
        if done - first != part.n_cells:
            raise InputError(
                f"{part.path}: {done - first:,} cells, the manifest says {part.n_cells:,}; embed "
                "that source again"
            )


def _as_text(cells: pa.Table) -> pa.Table:
    """Give columns that may be of several types among the parts as text."""
    import pyarrow as pa

    return pa.table({name: cells[name].cast(pa.string()) for name in cells.column_names})


Blocks = Iterator[Block]
Shape = tuple[int, int]


def _to_parquet(blocks: Blocks, out: Path, shape: Shape, dtype: np.dtype[Any], key: str) -> None:
    with writing(out) as made, ExitStack() as stack:
        append = _parquet_writer(made, stack, _vectors_of(shape[1], dtype))
        for block in blocks:
            append(block)
        stack.close()


def _vectors_of(width: int, dtype: np.dtype[Any]) -> Callable[[Block], pa.Array]:
    import pyarrow as pa

    kind = pa.float16() if dtype.itemsize == 2 else pa.float32()

    def column(block: Block) -> pa.Array:
        flat = pa.array(block.vectors.astype(dtype, copy=False).ravel(), kind)
        return pa.FixedSizeListArray.from_arrays(flat, width)

    return column


def _parquet_writer(
    path: Path, stack: ExitStack, vectors: Callable[[Block], pa.Array] | None
) -> Callable[[Block], None]:
    """Make a function that appends blocks; the first one settles the columns."""
    import pyarrow.parquet as pq

    writer: Any = None

    def append(block: Block) -> None:
        nonlocal writer
        table = block.cells
        if vectors is not None:
            table = table.append_column(VECTOR, vectors(block))
        if writer is None:
            coded = [name for name in table.column_names if name not in (ID, VECTOR)]
            writer = stack.enter_context(
                pq.ParquetWriter(path, table.schema, use_dictionary=coded, write_statistics=False)
            )
        writer.write_table(table)

    return append


def _to_npy(blocks: Blocks, out: Path, shape: Shape, dtype: np.dtype[Any], key: str) -> None:
    from cellscribe.inference.resume import npy_header

    (index,) = index_of(out)
    with writing(out) as made, writing(index) as table, ExitStack() as stack:
        append = _parquet_writer(table, stack, None)
        with made.open("wb") as file:
            file.write(npy_header(shape, dtype.newbyteorder("<")))
            for block in blocks:
                file.write(block.vectors.astype(dtype.newbyteorder("<"), copy=False).tobytes())
                append(block)
        stack.close()


def _to_zarr(blocks: Blocks, out: Path, shape: Shape, dtype: np.dtype[Any], key: str) -> None:
    import zarr
    from anndata import AnnData

    from cellscribe.inference.outputs import write_element

    with writing(out) as made:
        root = zarr.open_group(made, mode="w")
        write_element(root, "/", AnnData(shape=(0, 0)))
        obs: Any = root["obs"]
        obs.attrs["column-order"] = []
        del obs["_index"]
        obsm: Any = root["obsm"]
        rows = max(1, CHUNK_BYTES // (shape[1] * dtype.itemsize))
        vectors = obsm.create_array(key, shape=shape, dtype=dtype, chunks=(rows, shape[1]))
        vectors.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        done = 0
        for block in blocks:
            end = done + len(block.vectors)
            vectors[done:end] = block.vectors
            for name in block.cells.column_names:
                _column(obs, "_index" if name == ID else name, shape[0])[done:end] = (
                    block.cells[name].fill_null("").to_numpy().astype(object)
                )
            done = end


def _column(obs: Any, name: str, size: int) -> Any:
    """Text column of a stored obs, made when it is first asked for."""
    if name not in obs:
        from zarr.core.dtype import VariableLengthUTF8

        array = obs.create_array(name, shape=(size,), dtype=VariableLengthUTF8(), chunks=(1 << 16,))
        array.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        if name != "_index":
            obs.attrs["column-order"] = [*obs.attrs["column-order"], name]
    return obs[name]
