"""Which format a path is in, told by its content and not by its suffix.

HDF5 files are known by their first bytes and then by their groups, folders by the metadata in them.
What is recognised is handed to its opener (`containers`, `matrix_market`); what is not is refused
with a guess at what it may be.
"""

from __future__ import annotations

import os
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.cells import formats, matrix_market
from cellscribe.cells.containers import open_hdf5, open_zarr
from cellscribe.cells.formats import Source
from cellscribe.cells.matrices import DAMAGED, STORAGE_ERRORS
from cellscribe.errors import InputError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
FORMATS = "h5ad, zarr, 10x .h5, 10x matrix folder or .tar.gz, loom"


def open_source(source: Any, stack: ExitStack, scratch: Path | None, log: Log) -> Source:
    """Recognise and open a path or an AnnData; `stack` closes what was opened.

    Raises
    ------
    InputError
        Nothing is there, it may not be read, it is damaged, or its format is not known.
    """
    if not isinstance(source, str | os.PathLike):
        from anndata import AnnData

        if isinstance(source, AnnData):
            return formats.anndata_object(source)
        raise InputError(
            f"cells cannot be read from a {type(source).__name__}; give a path or an AnnData"
        )
    path = Path(source)
    try:
        if path.is_dir():
            return _open_folder(path, log)
        with path.open("rb") as file:
            head = file.read(len(HDF5_MAGIC))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path} may not be read; ask its owner, or chmod u+r it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if head == HDF5_MAGIC:
        return open_hdf5(path, stack, log)
    if path.name.endswith((".mtx", ".mtx.gz")):
        return matrix_market.mtx_folder(path.parent, name=str(path), path=path, log=log)
    if _is_tar(path):
        folder = matrix_market.unpack(path, stack, scratch)
        return matrix_market.mtx_folder(folder, name=str(path), path=path, log=log)
    raise InputError(f"{path}: {_guess(path, head)}; known are {FORMATS}")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    # a damaged gzip stream may fail in the decompressor before tarfile can judge it
    except STORAGE_ERRORS:
        return False


def _guess(path: Path, head: bytes) -> str:
    """Say what a file of no known format may be, and what to do with it."""
    if not head:
        return "the file is empty"
    if head.startswith(b"\x1f\x8b"):
        return "gzip-compressed, but not a readable tar archive; gunzip it, or copy it again"
    if head.startswith(b"PK"):
        return "a zip archive; unzip it and give what is in it"
    if path.suffix in (".h5ad", ".h5", ".loom", ".hdf5"):
        return f"not an HDF5 file, though named {path.suffix}; {DAMAGED}"
    return "not a file of cells that cellscribe knows; write it as .h5ad with anndata"


def _open_folder(path: Path, log: Log) -> Source:
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")):
        return open_zarr(path)
    if matrix_market.mtx_in(path):
        return matrix_market.mtx_folder(path, name=str(path), path=path, log=log)
    inside = [p for p in sorted(path.iterdir()) if p.is_dir() and matrix_market.mtx_in(p)]
    hint = f"; did you mean {inside[0]}?" if inside else f"; known are {FORMATS}"
    raise InputError(f"{path}: a folder with neither a zarr store nor a matrix.mtx in it{hint}")
