"""Writes finished vectors to the output, by blocks; the file appears when it is whole.

- ``.npy``: the matrix. ``.parquet``: ``cell_id``, ``embedding`` (fixed-size list) and columns of
  obs that were asked for. What the vectors are is next to them in ``OUT.json``.
- ``.h5ad``, ``.zarr``: AnnData with the vectors in ``obsm`` and what they are in
  ``uns["cellscribe"]``. A container of the same form is copied with all it holds; any other input
  gives ``X``, ``obs`` and ``var``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype, is_numeric_dtype

from cellscribe.cells.counts import Counts
from cellscribe.cells.pipeline import BLOCK
from cellscribe.cells.readers.token_source import TokenCells
from cellscribe.errors import InputError
from cellscribe.inference.inputs import InputChangedError, InputFiles
from cellscribe.inference.obs_columns import arrow_columns
from cellscribe.inference.resume import GO_ON, Partial
from cellscribe.writing import disk_errors, make_writable, remove, replace, writing

FORMS = (".npy", ".h5ad", ".zarr", ".parquet")
CONTAINERS = {".h5ad": "h5ad", ".zarr": "zarr"}


def check_form(out: Path, key_added: str, obs: Sequence[str] = ()) -> None:
    """Refuse an output that is of no known form, or what could not be found in it."""
    if out.suffix not in FORMS:
        raise InputError(f"{out}: end the output's name in one of {', '.join(FORMS)}")
    if obs and out.suffix == ".npy":
        raise InputError(f"{out}: a .npy has no place for columns of obs (--obs); choose .parquet")
    if key_added in ("", ".", "..") or "/" in key_added:
        raise InputError(f"{key_added!r} cannot name vectors (--key-added); give a plain name")


def finish(
    out: Path,
    partial: Partial,
    counts: Counts,
    provenance: Mapping[str, Any],
    key_added: str,
    files: InputFiles,
    obs: Sequence[str] = (),
) -> None:
    """Write `out` from a complete run and remove the partial folder.

    Parameters
    ----------
    obs
        Columns of obs that go into a ``.parquet``.

    Raises
    ------
    OutputError
        The disk is full; the run can be resumed.
    InputChangedError
        The input is no longer what was read; likewise.
    """
    partial.close()
    made = partial.folder / f"out{out.suffix}"
    with disk_errors(out, GO_ON):
        # Of an attempt that the disk, or a kill, cut short.
        remove(made)
        files.check(now=True)
        if out.suffix in CONTAINERS:
            _write_container(made, partial, counts, provenance, key_added)
            files.check(now=True)
        else:
            if out.suffix == ".npy":
                made = partial.folder / "vectors.npy"
            else:
                _write_parquet(made, partial, counts, obs)
            # whose names and annotations were read, or which was copied, after its counts
            files.check(now=True)
            with writing(sidecar(out)) as note:
                note.write_text(json.dumps(dict(provenance), indent=2) + "\n", encoding="utf-8")
        _settle(made)
        replace(made, out)
        remove(partial.folder)


def sidecar(out: Path) -> Path:
    """Path of the JSON next to a ``.npy`` or ``.parquet``."""
    return out.with_name(f"{out.name}.json")


def _settle(path: Path) -> None:
    """Have a file on the disk before its name is."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _write_parquet(path: Path, partial: Partial, counts: Counts, obs: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_cells, width = partial.shape
    names = counts.obs.index.to_numpy(dtype=object)
    kind = pa.float16() if partial.dtype.itemsize == 2 else pa.float32()
    more = arrow_columns(counts, obs)
    schema = pa.schema(
        {"cell_id": pa.string(), "embedding": pa.list_(kind, width)}
        | {name: column.type for name, column in more.items()}
    )
    # collect reads from the statistics which columns have nulls
    few: Any = list(obs) or False
    with pq.ParquetWriter(path, schema, use_dictionary=few, write_statistics=few) as writer:
        for start in range(0, n_cells, 64 * BLOCK):
            stop = start + 64 * BLOCK
            flat = pa.array(partial.vectors(start, stop).ravel(), kind)
            columns = [
                pa.array(names[start:stop], pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, width),
                *(column[start:stop] for column in more.values()),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_container(
    path: Path,
    partial: Partial,
    counts: Counts,
    provenance: Mapping[str, Any],
    key_added: str,
) -> None:
    copied = counts.form == CONTAINERS[path.suffix] and counts.path is not None
    if copied:
        assert counts.path is not None
        copy_input(counts.path, path)
    if path.suffix == ".h5ad":
        import h5py

        with h5py.File(path, "r+" if copied else "w") as root:
            _fill(root, copied, partial, counts, provenance, key_added)
    else:
        import zarr

        with _damaged_copy(counts) if copied else nullcontext():
            indexed = copied and zarr.open_group(path, mode="r").metadata.consolidated_metadata
            root = zarr.open_group(path, mode="r+" if copied else "w", use_consolidated=False)
            _fill(root, copied, partial, counts, provenance, key_added)
            if indexed:
                # The copy's index knows nothing of the vectors, and a reader would believe it.
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Consolidated metadata")
                    zarr.consolidate_metadata(root.store)


@contextmanager
def _damaged_copy(counts: Counts) -> Iterator[None]:
    """Say where an input's copy cannot be written to, that it is the input that is damaged."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except OSError as error:
        if not isinstance(error, IsADirectoryError | NotADirectoryError):
            raise
        raise InputError(
            f"{counts.name}: not a whole zarr store (a folder where a file should be, or the "
            "reverse), so no copy of it can be written; name an output that ends in .npy"
        ) from error
    # the parser of zarr's metadata raises whatever it meets; cells were read around the damage
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{counts.name}: not a whole zarr store ({what}), so no copy of it can be written; "
            "name an output that ends in .npy, or write the store anew with anndata"
        ) from error


def copy_input(source: Path, path: Path) -> None:
    """Copy an input so that the copy can be written to, whatever may be done with the input.

    Raises
    ------
    InputChangedError
        The input, or a file of it, is gone.
    InputError
        The input holds what cannot be copied: a link to nothing or to itself, a pipe.
    """
    try:
        if source.is_dir():
            shutil.copytree(source, path, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, path)
    except (FileNotFoundError, shutil.Error) as error:
        if isinstance(error, shutil.Error) and os.path.exists(source):
            # copytree gathers what went wrong as text; a pipe has no number there
            dangling = any(
                each.is_symlink() and not os.path.exists(each) for each in _files_in(source)
            )
            if f"[Errno {errno.ELOOP}]" in str(error) or "[Errno " not in str(error) or dangling:
                raise InputError(
                    f"{source} holds a link to nothing or what is no file, and cannot be copied; "
                    "remove that, or name an output that ends in .npy"
                ) from None
            if f"[Errno {errno.ENOENT}]" in str(error):
                raise InputChangedError(
                    f"{source} lost files while it was copied; put them back"
                ) from None
            full = f"errno = {errno.ENOSPC}" if f"[Errno {errno.ENOSPC}]" in str(error) else ""
            raise OSError(full or str(error)[:200]) from error
        if not source.exists():
            raise InputChangedError(f"{source} was moved or removed; put it back") from None
        raise
    finally:
        if path.exists():
            make_writable(path)


def _files_in(folder: Path) -> Iterator[Path]:
    """Everything below a folder but folders; links are not followed."""
    for at, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        yield from (Path(at) / name for name in (*files, *links))


def _fill(
    root: Any,
    copied: bool,
    partial: Partial,
    counts: Counts,
    provenance: Mapping[str, Any],
    key_added: str,
) -> None:
    if not copied:
        write_cells(root, counts)
    need_groups(root, ("obsm", "uns"), counts.name, ".npy")
    obsm = root["obsm"]
    if key_added in obsm:
        del obsm[key_added]
    n_cells, width = partial.shape
    rows = max(1, min(n_cells, (1 << 20) // (width * partial.dtype.itemsize)))
    options: dict[str, Any] = {"shape": partial.shape, "dtype": partial.dtype}
    options["chunks"] = (rows, width)
    make = obsm.create_dataset if _is_h5(obsm) else obsm.create_array
    array = make(key_added, **options)
    array.attrs["encoding-type"] = "array"
    array.attrs["encoding-version"] = "0.2.0"
    for start in range(0, n_cells, rows):
        array[start : start + rows] = partial.vectors(start, start + rows)
    keep_facts(root, key_added, provenance)


def write_cells(root: Any, counts: Counts) -> None:
    """Write obs, var and X of an input of another form; of tokens there is obs alone."""
    from anndata import AnnData

    with warnings.catch_warnings():
        # They are kept as they are.
        warnings.filterwarnings("ignore", message=".* names are not unique")
        empty = AnnData(obs=plain_frame(counts.obs), var=plain_frame(counts.var))
    write_element(root, "/", empty)
    if "X" in root:
        del root["X"]
    if not isinstance(counts, TokenCells):
        write_rows(root, counts)


def need_groups(root: Any, names: tuple[str, ...], source: str, other: str) -> None:
    """Make groups of an AnnData that are missing.

    Raises
    ------
    InputError
        One is there as something else; an output that ends in `other` would do.
    """
    for group in names:
        if group not in root:
            write_element(root, group, {})
        elif not hasattr(root[group], "keys"):
            raise InputError(
                f"{source} is of an AnnData version before 0.7; write it anew with anndata, "
                f"or name an output that ends in {other}"
            )


def keep_facts(root: Any, key: str, facts: Mapping[str, Any]) -> None:
    """Put what is to be known of a result into ``uns["cellscribe"]``."""
    uns = root["uns"]
    if not hasattr(uns.get("cellscribe"), "keys"):
        write_element(uns, "cellscribe", {})
    write_element(uns["cellscribe"], key, dict(facts))


def write_element(group: Any, key: str, element: Any) -> None:
    """Write an element as anndata does; zarr without shards, which could not be appended to."""
    from anndata.io import write_elem

    storage = {} if _is_h5(group) else {"shards": None}
    write_elem(group, key, element, dataset_kwargs=storage)


def _is_h5(group: Any) -> bool:
    return type(group).__module__.startswith("h5py")


def write_rows(root: Any, counts: Counts) -> None:
    """Append the counts to a new CSR ``X`` block by block."""
    from anndata.io import sparse_dataset

    stored = None
    for block in counts.blocks(BLOCK):
        if stored is None:
            # 64-bit places from the start: anndata cannot widen them later.
            block.indptr = block.indptr.astype(np.int64)
            write_element(root, "X", block)
            stored = sparse_dataset(root["X"])
        else:
            stored.append(block)


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Copy of a frame that anndata can store: repeated names stay, odd columns become text."""
    # A slash would make a group of the column, and anndata keeps "_index" for itself.
    names = [str(name).replace("/", "_") for name in frame.columns]
    names = ["index_" if name == "_index" else name for name in names]
    columns = {name: _storable(frame.iloc[:, at]) for at, name in enumerate(names)}
    # A column may have the index's name, which anndata takes for a mistake.
    index = frame.index.rename(None if frame.index.name in columns else frame.index.name)
    return pd.DataFrame({name: column.array for name, column in columns.items()}, index=index)


def _storable(column: pd.Series) -> pd.Series:
    kinds = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    plain = kinds.dtype == object and infer_dtype(kinds, skipna=False) == "string"
    if plain or is_numeric_dtype(kinds):
        return column
    text = column.astype(object).where(column.isna(), column.astype(str))
    # Among categories a missing one stays missing.
    return text.astype("category") if text.hasnans else text
