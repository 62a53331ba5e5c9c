"""HDF5 files and zarr stores: opened, and told apart by the groups in them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cellscribe.callbacks import Log
from cellscribe.cells import formats, tenx
from cellscribe.cells.formats import Source
from cellscribe.cells.matrices import DAMAGED, STORAGE_ERRORS
from cellscribe.errors import InputError

HDF5_CACHE_BYTES = 64 << 20
"""Holds the chunks that two neighbouring blocks share."""


def open_zarr(path: Path) -> Source:
    """Open a zarr store.

    Raises
    ------
    InputError
        It cannot be read, or holds no AnnData.
    """
    import zarr

    try:
        root = zarr.open_group(str(path), mode="r")
        keys = set(root)
    # metadata that is missing or mangled surfaces as whatever its parser meets
    except Exception as error:
        raise InputError(
            f"{path}: not a readable zarr group ({str(error) or type(error).__name__}); {DAMAGED}"
        ) from error
    if not {"obs", "var"} <= keys:
        raise InputError(
            f"{path}: a zarr store, but not an AnnData (it holds {_names_of(keys)}); "
            "give the folder that holds obs, var and X"
        )
    return formats.anndata_store(root, path=path, form="zarr")


def open_hdf5(path: Path, stack: ExitStack, log: Log) -> Source:
    """Open an HDF5 file: h5ad, 10x or loom.

    Raises
    ------
    InputError
        It cannot be read, or is none of these.
    """
    import h5py

    try:
        file = stack.enter_context(h5py.File(path, "r", rdcc_nbytes=HDF5_CACHE_BYTES))
        keys = set(file)
    except BlockingIOError:
        raise InputError(f"{path} is open for writing in another program; close it there") from None
    except STORAGE_ERRORS as error:
        raise InputError(f"{path}: cannot be opened as HDF5 ({error}); {DAMAGED}") from error
    try:
        if "matrix" in keys and not formats.is_group(file["matrix"]):
            return formats.loom_file(file, path=path)
        if "matrix" in keys or any(tenx.is_genome(file[key]) for key in keys):
            return tenx.h5_file(file, path=path, log=log)
        if {"obs", "var"} <= keys:
            return formats.anndata_store(file, path=path, form="h5ad")
    except InputError:
        raise
    except STORAGE_ERRORS as error:
        raise InputError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    raise InputError(
        f"{path}: HDF5, but neither h5ad, 10x nor loom (it holds {_names_of(keys)}); "
        "write it as .h5ad with anndata"
    )


def _names_of(found: set[str]) -> str:
    return ", ".join(sorted(found)[:8]) or "nothing"
