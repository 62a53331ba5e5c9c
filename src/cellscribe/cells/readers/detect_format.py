"""Which format a path is in, told by its content and not by its suffix.

HDF5 files are known by their first bytes and then by their groups, folders by what lies in them,
text by its first lines. What is recognised is handed to its opener (`containers`, `matrix_folders`,
`text_tables`, `parquet_tables`); what is not is refused with a guess at what it may be.
"""

from __future__ import annotations

import os
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.cells.readers import (
    anndata_files,
    archives,
    folders,
    matrix_folders,
    parquet_tables,
    soma_experiment,
    text_tables,
)
from cellscribe.cells.readers.anndata_files import Source
from cellscribe.cells.readers.containers import open_hdf5, open_zarr
from cellscribe.cells.readers.foreign_files import (
    H5SEURAT,
    guess,
    is_remote_store,
    recognise,
    refuse_url,
)
from cellscribe.cells.readers.multimodal import Wanted
from cellscribe.cells.readers.storage import STORAGE_ERRORS
from cellscribe.cells.readers.text_files import first_bytes, first_text, shown
from cellscribe.errors import InputError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MATRIX_MARKET = b"%%matrixmarket"
HEAD = 32
"""First bytes that tell a format."""
NOTHING = Wanted()


def open_source(
    source: Any, stack: ExitStack, scratch: Path | None, log: Log, wanted: Wanted = NOTHING
) -> Source:
    """Recognise and open a path or an AnnData; `stack` closes what was opened.

    Raises
    ------
    InputError
        Nothing is there, it may not be read, it is damaged, or its format is not known.
    """
    if not isinstance(source, str | os.PathLike):
        from anndata import AnnData

        if isinstance(source, AnnData):
            return anndata_files.anndata_object(source)
        raise InputError(
            f"cells cannot be read from a {type(source).__name__}; give a path or an AnnData"
        )
    if is_remote_store(os.fspath(source)):
        return open_zarr(os.fspath(source), wanted)
    if url := refuse_url(os.fspath(source)):
        raise InputError(url)
    path = Path(source)
    try:
        if path.is_dir():
            return _open_folder(path, stack, log, wanted)
        return _open_file(path, stack, scratch, log, wanted)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path} may not be read; ask its owner, or chmod u+r it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, InputError) or "null" not in str(error):
            raise
        raise InputError(f"{shown(str(path))}: a null byte in the path; check it") from None


def _open_file(
    path: Path, stack: ExitStack, scratch: Path | None, log: Log, wanted: Wanted
) -> Source:
    head = first_bytes(path, HEAD)
    # muon writes a line of text in front
    if head.startswith((HDF5_MAGIC, b"MuData")):
        if path.suffix.lower() == ".h5seurat":
            raise InputError(f"{path}: {H5SEURAT.format(name=shown(path.name))}")
        return open_hdf5(path, stack, log, wanted)
    if matrix_folders.is_matrix(path) or first_text(path).lower().startswith(MATRIX_MARKET):
        return matrix_folders.open_matrix(path, name=str(path), path=path, log=log)
    if head.startswith(parquet_tables.MAGIC):
        return parquet_tables.open_table(path, log)
    inside = None
    if archives.is_zip(path) or _is_tar(path):
        inside = archives.unpack(path, stack, scratch)
        if matrix_folders.is_matrix(inside):
            return matrix_folders.open_matrix(inside, name=str(path), path=path, log=log)
    foreign = recognise(path, head)
    if inside is not None or (foreign is None and text_tables.is_text(path)):
        return text_tables.open_table(inside or path, name=str(path), path=path, log=log)
    raise InputError(f"{path}: {foreign or guess(head)}")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    # a damaged gzip stream may fail in the decompressor before tarfile can judge it
    except STORAGE_ERRORS:
        return False


def _open_folder(path: Path, stack: ExitStack, log: Log, wanted: Wanted) -> Source:
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")):
        return open_zarr(path, wanted)
    if soma_experiment.is_experiment(path):
        return soma_experiment.open_experiment(path, stack, wanted)
    found = folders.choose(path, log)
    return matrix_folders.open_matrix(found, name=str(path), path=path, log=log)
