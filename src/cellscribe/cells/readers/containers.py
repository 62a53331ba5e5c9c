"""HDF5 files and zarr stores: opened, and told apart by the groups in them."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.cells.readers import anndata_files, hdf5_guard, loom, tenx
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.multimodal import Wanted, open_part
from cellscribe.cells.readers.storage import (
    DAMAGED,
    is_group,
    member,
    names_of,
    reading,
    reason,
    shortened,
)
from cellscribe.errors import InputError

HDF5_CACHE_BYTES = 64 << 20
"""Holds the chunks that two neighbouring blocks share."""


def open_zarr(path: Path | str, wanted: Wanted) -> Source:
    """Open a zarr store in a folder, or by its URL one in a bucket.

    Raises
    ------
    InputError
        It cannot be read, or holds no AnnData.
    """
    import zarr

    from cellscribe.cells.readers.zarr_store import CheckedStore, open_remote

    root = None
    try:
        if isinstance(path, str):
            root = open_remote(path)
        else:
            root = zarr.open_group(CheckedStore(path), mode="r")
        keys = set(root)
    except InputError:
        raise
    # metadata that is missing or mangled surfaces as whatever its parser meets
    except Exception as error:
        named = root is not None and isinstance(path, Path)
        where = _damaged_member(root, Path(path)) if named else str(path)
        raise InputError(
            f"{where}: not a readable zarr group ({reason(error)}); {DAMAGED}"
        ) from error
    with reading(str(path)):
        part = open_part(root, path, "zarr", wanted)
    if part is not None:
        return part
    if not {"obs", "var"} <= keys:
        raise InputError(
            f"{path}: a zarr store, but not an AnnData (it holds {names_of(keys)}); "
            "give the folder that holds obs, var and X"
        )
    return anndata_files.anndata_store(root, path=path, form="zarr")


def _damaged_member(root: Any, path: Path) -> str:
    """Name the member of a store that cannot be opened, or the store."""
    for name in sorted(entry.name for entry in path.iterdir() if entry.is_dir()):
        try:
            root[name]
        # of any kind: the error itself is reported by the caller
        except Exception:  # noqa: BLE001
            return f"{path}: {shortened(name)}"
    return str(path)


def open_hdf5(path: Path, stack: ExitStack, log: Log, wanted: Wanted) -> Source:
    """Open an HDF5 file: h5ad, h5mu, 10x or loom.

    Raises
    ------
    InputError
        It cannot be read, the HDF5 library crashes on it, or it is none of these.
    """
    import h5py

    # takes as long as the check, and most files need it
    hdf5_guard.check(path, log, meanwhile=lambda: importlib.import_module("anndata.io"))
    try:
        file = stack.enter_context(h5py.File(path, "r", rdcc_nbytes=HDF5_CACHE_BYTES))
        set(file)
    except BlockingIOError:
        raise InputError(f"{path} is open for writing in another program; close it there") from None
    except Exception as error:
        raise InputError(
            f"{path}: cannot be opened as HDF5 ({reason(error)}); {DAMAGED}"
        ) from error
    return hdf5_source(file, path, log, wanted)


def hdf5_source(file: Any, path: Path | str, log: Log, wanted: Wanted) -> Source:
    """Open what an open HDF5 file holds: an h5ad, h5mu, 10x or loom.

    Raises
    ------
    InputError
        It is none of these.
    """
    name, keys = str(path), set(file)
    with reading(name):
        if "matrix" in keys and not is_group(member(file, "matrix", name)):
            return loom.loom_file(file, path=path)
        if "matrix" in keys:
            return tenx.h5_file(file, path=path, log=log)
        if (part := open_part(file, path, "h5ad", wanted)) is not None:
            return part
        if {"obs", "var"} <= keys:
            return anndata_files.anndata_store(file, path=path, form="h5ad")
        if any(tenx.is_genome(member(file, key, name)) for key in sorted(keys)):
            return tenx.h5_file(file, path=path, log=log)
    raise InputError(
        f"{path}: HDF5, but neither h5ad, 10x nor loom (it holds {names_of(keys)}); "
        "write it as .h5ad with anndata"
    )
