"""Joins the parts of a job into one output, a block of rows in memory at a time.

- ``.parquet``: the rows of all parts, with the column ``source``; of tokens, too.
- ``.npy``: the matrix, to be memory-mapped, and ``OUT.cells.parquet`` with ``source``, ``cell_id``
  and the columns of obs of each of its rows.
- ``.zarr``, ``.h5ad``: an AnnData without X: vectors in obsm, those columns in obs.

Columns keep their types where the parts agree (`column_types`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.atlas.column_types import cast_columns, common_type, names_differ
from cellscribe.atlas.job import MANIFEST
from cellscribe.atlas.parts import (
    ID,
    VECTOR,
    Block,
    Part,
    columns_of,
    read_tables,
    read_vectors,
    reading_parquet,
    type_of,
)
from cellscribe.atlas.records import as_record
from cellscribe.atlas.stores import Folder, Store
from cellscribe.buckets.bucket import Bucket
from cellscribe.callbacks import Progress
from cellscribe.errors import InputError
from cellscribe.writing import disk_errors, writing

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = (".parquet", ".npy", ".zarr", ".h5ad")
SOURCE = "source"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What the parts hold together."""

    n_cells: int
    width: int
    dtype: np.dtype[Any]
    key_added: str
    schema: pa.Schema
    """``source``, ``cell_id`` and the columns of obs."""
    nulls: Mapping[str, bool]
    """Columns of which values are or may be missing."""


def index_of(out: Path) -> list[Path]:
    """Return the file that lies next to an output of this form, if there is one."""
    return [out.with_name(f"{out.name}.cells.parquet")] if out.suffix == ".npy" else []


def read_parts(folder: str | Path) -> tuple[list[Part], dict[str, Any]]:
    """Read which results a folder, or a bucket, holds, and what they are.

    Returns
    -------
    parts
        In the order of the manifest.
    about
        What was made: ``verb``, ``width``, ``dtype``, ``key_added`` and more.

    Raises
    ------
    InputError
        There is no manifest, a source has no result, a result is missing.
    """
    store: Store = Bucket(str(folder)) if "://" in str(folder) else Folder(Path(folder))
    manifest = as_record(store.read(MANIFEST))
    shards, about = manifest.get("shards"), manifest.get("about")
    if not isinstance(shards, list) or not isinstance(about, dict) or not shards:
        raise InputError(
            f"{store.name} has no readable {MANIFEST}; give the output folder of embed or tokenize"
        )
    verb, parts = about.get("verb", "embed"), []
    for shard in shards:
        if shard["status"] != "done":
            why = shard.get("reason", "not done yet")
            raise InputError(
                f"{shard['name']} has no result ({why}); run {verb} again first, if that source is "
                "no good without it: what is done is kept"
            )
        where = f"{store.name}/{shard['file']}"
        if not shard["file"].endswith(".parquet"):
            raise InputError(
                f"{where}: only .parquet results are joined; {verb} with --form parquet"
            )
        part = Part(
            source=shard.get("cut_from", shard["name"]),
            store=store,
            file=shard["file"],
            n_cells=int(shard["cells"]),
            sha256=shard["sha256"],
            columns=shard.get("columns"),
        )
        if isinstance(store, Folder) and not (store.path / part.file).is_file():
            raise InputError(f"{where} is missing; run {verb} again first")
        parts.append(part)
    return parts, about


def collect_parts(
    parts: Sequence[Part],
    out: Path,
    about: Mapping[str, Any],
    *,
    progress: Progress | None = None,
) -> int:
    """Write the rows of all parts, in their order.

    Parameters
    ----------
    parts, about
        Results of one job, from `read_parts`.
    out
        ``.parquet``, ``.npy``, ``.zarr`` or ``.h5ad``; appears when it is whole.
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
    check_form(out, about)
    total = sum(part.n_cells for part in parts)
    with tempfile.TemporaryDirectory(prefix="cellscribe-") as scratch, disk_errors(out):
        files = _Files(parts, Path(scratch), total, progress)
        if about.get("verb") == "tokenize":
            _join_tokens(files, out)
            return total
        write = {".parquet": _to_parquet, ".npy": _to_npy}.get(out.suffix, _to_anndata)
        write(files, out, _joined(files, about))
    return total


def check_form(out: Path, about: Mapping[str, Any]) -> None:
    """Refuse an output that is of no form in which these parts can be joined.

    Raises
    ------
    InputError
        It is of none.
    """
    forms = FORMS[:1] if about.get("verb") == "tokenize" else FORMS
    if out.suffix not in forms:
        tokens = "tokens are joined as Parquet; " if forms != FORMS else ""
        raise InputError(f"{out}: {tokens}end the output's name in one of {', '.join(forms)}")


@dataclass(frozen=True)
class _Files:
    """The parts one after the other, each on this machine while it is read."""

    parts: Sequence[Part]
    scratch: Path
    n_cells: int
    progress: Progress | None

    def __iter__(self) -> Iterator[tuple[Part, Path, Callable[[int], None]]]:
        """Give each part, its file, and what is called with the rows of each block of it.

        Raises
        ------
        InputError
            A part has not the rows that the manifest says.
        """
        done = 0
        for part in self.parts:
            first = done

            def count(rows: int) -> None:
                nonlocal done
                done += rows
                if self.progress is not None:
                    self.progress(done, self.n_cells)

            with part.local(self.scratch) as path:
                yield part, path, count
            if done - first != part.n_cells:
                raise InputError(
                    f"{part.where}: {done - first:,} cells, the manifest says {part.n_cells:,}; "
                    "embed that source again"
                )


def _joined(files: _Files, about: Mapping[str, Any]) -> Joined:
    """Find the columns that the parts have together, and their types."""
    import pyarrow as pa

    kinds: dict[str, list[pa.DataType]] = {}
    nulls: dict[str, bool] = {}
    orders: dict[str, list[Any]] = {}
    first: list[str] = []
    for place, part in enumerate(files.parts):
        columns = part.columns
        if columns is None:
            with part.local(files.scratch) as path:
                columns = columns_of(path)
        first = first if place else list(columns)
        names_differ(list(columns), first, part.where)
        for name, column in columns.items():
            kind = type_of(column["type"])
            kinds.setdefault(name, []).append(kind)
            orders.setdefault(name, []).append(column.get("order"))
            nulls[name] = nulls.get(name, False) or column["nulls"] or pa.types.is_null(kind)
    fixed = {SOURCE: pa.dictionary(pa.int32(), pa.string()), ID: pa.string()}
    own = {name: common_type(found, orders[name]) for name, found in kinds.items()}
    schema = pa.schema(fixed | own)
    return Joined(
        n_cells=files.n_cells,
        width=about["width"],
        dtype=np.dtype(about["dtype"]),
        key_added=about["key_added"],
        schema=schema,
        nulls=nulls,
    )


def _blocks(files: _Files, joined: Joined) -> Iterator[Block]:
    """Read the vectors of all parts, and their cells in the types that all have together."""
    for part, path, count in files:
        for block in read_vectors(path, part.where):
            if block.vectors.shape[1] != joined.width:
                raise InputError(
                    f"{part.where}: {block.vectors.shape[1]} values a cell, other parts have "
                    f"{joined.width}; embed all with the same model"
                )
            cells = _with_source(block.cells, part.source)
            names_differ(cells.column_names, joined.schema.names, part.where)
            yield Block(block.vectors, cast_columns(cells, joined.schema, part.where))
            count(len(block.vectors))


def _with_source(table: pa.Table, source: str) -> pa.Table:
    import pyarrow as pa

    codes = pa.array(np.zeros(table.num_rows, np.int32))
    return table.add_column(0, SOURCE, pa.DictionaryArray.from_arrays(codes, pa.array([source])))


@contextmanager
def _parquet(path: Path, schema: pa.Schema, coded: Sequence[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    few: Any = list(coded)
    with pq.ParquetWriter(path, schema, use_dictionary=few, write_statistics=False) as writer:
        yield writer


def _to_parquet(files: _Files, out: Path, joined: Joined) -> None:
    import pyarrow as pa

    kind = pa.float16() if joined.dtype.itemsize == 2 else pa.float32()
    schema = joined.schema.append(pa.field(VECTOR, pa.list_(kind, joined.width)))
    coded = [name for name in joined.schema.names if name != ID]
    with writing(out) as made, _parquet(made, schema, coded) as writer:
        for block in _blocks(files, joined):
            flat = pa.array(block.vectors.astype(joined.dtype, copy=False).ravel(), kind)
            vectors = pa.FixedSizeListArray.from_arrays(flat, joined.width)
            writer.write_table(block.cells.append_column(schema.field(VECTOR), vectors))


def _to_npy(files: _Files, out: Path, joined: Joined) -> None:
    from cellscribe.inference.resume import npy_header

    (index,) = index_of(out)
    dtype = joined.dtype.newbyteorder("<")
    coded = [name for name in joined.schema.names if name != ID]
    with writing(out) as made, writing(index) as table, ExitStack() as stack:
        writer = stack.enter_context(_parquet(table, joined.schema, coded))
        file = stack.enter_context(made.open("wb"))
        file.write(npy_header((joined.n_cells, joined.width), dtype))
        for block in _blocks(files, joined):
            file.write(block.vectors.astype(dtype, copy=False).tobytes())
            writer.write_table(block.cells)
        stack.close()


def _to_anndata(files: _Files, out: Path, joined: Joined) -> None:
    """Write an AnnData, to zarr or HDF5, without holding it."""
    from anndata import AnnData

    from cellscribe.atlas.stored_obs import StoredObs
    from cellscribe.inference.outputs import write_element

    with writing(out) as made, ExitStack() as stack:
        root, is_zarr = _new_root(made, out.suffix, stack)
        write_element(root, "/", AnnData(shape=(0, 0)))
        obs: Any = root["obs"]
        del obs["_index"]
        shape = (joined.n_cells, joined.width)
        rows = max(1, min(shape[0], CHUNK_BYTES // (shape[1] * joined.dtype.itemsize)))
        make = root["obsm"].create_array if is_zarr else root["obsm"].create_dataset
        vectors = make(joined.key_added, shape=shape, dtype=joined.dtype, chunks=(rows, shape[1]))
        vectors.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        table = StoredObs(obs, shape[0], joined.schema, index=ID, nulls=joined.nulls)
        done = 0
        for block in _blocks(files, joined):
            vectors[done : done + len(block.vectors)] = block.vectors
            table.write(done, block.cells)
            done += len(block.vectors)
        table.close()
        stack.close()


def _new_root(path: Path, suffix: str, stack: ExitStack) -> tuple[Any, bool]:
    if suffix == ".zarr":
        import zarr

        return zarr.open_group(path, mode="w"), True
    import h5py

    return stack.enter_context(h5py.File(path, "w")), False


def _join_tokens(files: _Files, out: Path) -> None:
    """Join tokens, which are of one model, as the manifest is of one job."""
    schema: pa.Schema | None = None
    with writing(out) as made, ExitStack() as stack:
        writer: Any = None
        for part, path, count in files:
            for table in read_tables(path, part.where):
                joined = _with_source(table, part.source)
                if schema is None:
                    schema = joined.schema.with_metadata(_about_tokens(table.schema))
                    writer = stack.enter_context(_parquet(made, schema, joined.column_names))
                names_differ(joined.column_names, schema.names, part.where)
                with reading_parquet(part.where):
                    writer.write_table(joined.replace_schema_metadata(schema.metadata))
                count(table.num_rows)
        stack.close()


def _about_tokens(schema: pa.Schema) -> dict[str, str]:
    """Say what the tokens mean, without the name of the one source."""
    about = json.loads((schema.metadata or {}).get(b"cellscribe", b"{}"))
    return {"cellscribe": json.dumps({k: v for k, v in about.items() if k != "source"})}
