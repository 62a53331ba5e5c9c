"""AnnData stores (h5ad, zarr), loom files and AnnData objects, opened as sources of counts.

An opener lists the matrices of a container by their layer address ("X", "layers/<name>", "raw/X"),
without reading any; `counts` picks one. Sparse matrices are read from
their three arrays directly, because anndata's own slicing costs more than reading the bytes;
the annotation frames, which come in many encodings, go through anndata.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellscribe.cells.matrices import (
    DAMAGED,
    STORAGE_ERRORS,
    Array,
    CscColumns,
    CsrRows,
    DenseRows,
    Entries,
    Rows,
    read_slice,
)
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

LOOM_GENE_NAMES = ("Gene", "gene", "var_names", "GeneName", "gene_name", "Symbol", "Accession")
LOOM_CELL_NAMES = ("CellID", "obs_names", "cell_id", "Barcode", "barcode")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened container of counts, of which nothing has been read yet.

    Attributes
    ----------
    matrices
        Layer address -> opens that matrix.
    var
        Reads the gene frame that belongs to a layer address.
    obs
        Reads the cell frame.
    keep
        ``n_genes`` bool, True for genes; None if all stored features are genes.
    """

    name: str
    path: Path | None
    form: str
    matrices: dict[str, Callable[[], Rows | Entries]]
    var: Callable[[str], pd.DataFrame]
    obs: Callable[[], pd.DataFrame]
    keep: Array | None = None


def text(value: Any) -> str:
    """Give a name as str: bytes decoded, missing as ""."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None or value is pd.NA or value != value else str(value)


def names(values: Iterable[Any]) -> pd.Index:
    """Make an index of str from names of any kind."""
    return pd.Index([text(value) for value in values], dtype=object)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """Copy a frame with names as str and columns of bytes decoded."""
    frame = frame.copy()
    frame.index = names(frame.index).rename(frame.index.name)
    for column in frame.columns:
        values = frame[column]
        if values.dtype == object and any(isinstance(value, bytes) for value in values):
            frame[column] = [text(value) for value in values]
    return frame


def is_group(element: Any) -> bool:
    """Tell a group from an array, in h5py and zarr alike."""
    return hasattr(element, "keys")


def member(group: Any, key: str, where: str) -> Any:
    """Get a member of a group.

    Raises
    ------
    InputError
        It is missing or damaged.
    """
    try:
        return group[key]
    except STORAGE_ERRORS as error:
        raise InputError(f"{where} holds no readable {key!r}; {DAMAGED}") from error


def stored_matrix(element: Any, where: str) -> Rows | Entries:
    """Open a matrix as anndata writes it, the encoding of before 0.7 included."""
    if not is_group(element):
        return DenseRows(array=element, where=where)
    attrs = element.attrs
    encoding = text(attrs.get("encoding-type", attrs.get("h5sparse_format", "nothing")))
    shape = attrs.get("shape", attrs.get("h5sparse_shape"))
    form = encoding.removesuffix("_matrix")
    if form not in ("csr", "csc") or shape is None or len(shape) != 2:
        raise InputError(
            f"{where} is stored as {encoding!r}; a CSR, CSC or dense matrix is needed: "
            "write the file again with anndata"
        )
    arrays = {key: member(element, key, where) for key in ("data", "indices", "indptr")}
    for key in ("data", "indices"):
        if hasattr(arrays[key], "nchunks_initialized"):
            _refuse_holes(arrays[key], arrays["indptr"].shape[0] - 1, f"{where}/{key}")
    return _sparse(form, arrays, (int(shape[0]), int(shape[1])), where)


def _refuse_holes(array: zarr.Array, n_major: int, where: str) -> None:
    """Refuse a zarr array that lacks files: zarr would read them as zeros without a word.

    A last chunk that holds only zeros is rightly not written, if it is so short that each row may
    have one zero among its indices.
    """
    size, unit = array.shape[0], (array.shards or array.chunks)[0]
    n_units = -(-size // unit)
    missing = n_units - array.nchunks_initialized * array.chunks[0] // unit
    last = slice((n_units - 1) * unit, size)
    if (
        missing == 1
        and last.stop - last.start <= n_major
        and not read_slice(array, last, where).any()
    ):
        return
    if missing > 0:
        raise InputError(f"{missing:,} chunks of {where} are missing; copy the whole store again")


def _sparse(
    form: str, arrays: dict[str, Any], shape: tuple[int, int], where: str
) -> Rows | Entries:
    if form == "csc":
        return CscColumns(**arrays, shape=shape, where=where).entries()
    return CsrRows(**arrays, shape=shape, where=where)


def stored_frame(element: Any, where: str) -> pd.DataFrame:
    """Read an annotation frame as anndata writes it, structured arrays of before 0.7 included."""
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OldFormatWarning)
            if is_group(element):
                frame = read_elem(element)
            else:
                frame = pd.DataFrame.from_records(element[()])
    # anndata raises whatever its readers meet, some of it in private classes
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where} cannot be read ({reason}); {DAMAGED}") from error
    if isinstance(frame, dict):
        frame = pd.DataFrame(frame)
    if not is_group(element) or "_index" not in element.attrs:
        first = [key for key in ("_index", "index") if key in frame.columns]
        frame = frame.set_index((first or list(frame.columns))[0])
    return tidy(frame)


def anndata_store(root: Any, *, path: Path, form: str) -> Source:
    """Open the root group of an h5ad file or an AnnData zarr store."""
    name = str(path)
    addresses = {"X": "X"}
    if "layers" in root:
        addresses |= {f"layers/{key}": f"layers/{key}" for key in root["layers"].keys()}  # noqa: SIM118
    addresses["raw/X"] = "raw/X" if "raw" in root else "raw.X"
    available = {layer: key for layer, key in addresses.items() if _filled(root, key)}

    def var(layer: str) -> pd.DataFrame:
        key = {"raw/X": "raw/var", "raw.X": "raw.var"}.get(available[layer], "var")
        return stored_frame(member(root, key, name), f"{name}: {key}")

    def opener(layer: str) -> Callable[[], Rows | Entries]:
        return lambda: stored_matrix(member(root, available[layer], name), f"{name}: {layer}")

    return Source(
        name=name,
        path=path,
        form=form,
        matrices={layer: opener(layer) for layer in available},
        var=var,
        obs=lambda: stored_frame(member(root, "obs", name), f"{name}: obs"),
    )


def _filled(root: Any, key: str) -> bool:
    """Whether a matrix is there; anndata may write a missing X as a null."""
    return key in root and text(root[key].attrs.get("encoding-type", "")) != "null"


def anndata_object(adata: AnnData) -> Source:
    """Open an AnnData in memory, backed, or a view of either."""
    name = "AnnData object"

    def matrix(layer: str) -> Rows | Entries:
        where = f"{name}: {layer}"
        if layer == "raw/X":
            return memory_matrix(adata.raw.X, where)
        if layer != "X":
            return memory_matrix(adata.layers[layer.removeprefix("layers/")], where)
        if adata.isbacked and adata.is_view:
            # anndata can neither slice such a view again nor read it but as a whole
            raise InputError(
                f"{where} is a view of a backed AnnData, which cannot be read by blocks; "
                "give the backed object itself, or the view's .to_memory()"
            )
        return memory_matrix(adata.X, where)

    available = [f"layers/{key}" for key in adata.layers if isinstance(key, str)]
    # .X of a backed view reads it all, and a backed object always has one
    if adata.isbacked or adata.X is not None:
        available.insert(0, "X")
    if adata.raw is not None:
        available.append("raw/X")
    return Source(
        name=name,
        path=None,
        form="anndata",
        matrices={layer: partial(matrix, layer) for layer in available},
        var=lambda layer: tidy(adata.raw.var if layer == "raw/X" else adata.var),
        obs=lambda: tidy(adata.obs),
    )


def memory_matrix(matrix: Any, where: str) -> Rows | Entries:
    """Open a matrix of an AnnData object: SciPy, NumPy, or backed by a file."""
    import h5py
    import zarr
    from anndata.abc import CSCDataset, CSRDataset
    from scipy.sparse import issparse

    if isinstance(matrix, CSRDataset | CSCDataset):
        return stored_matrix(matrix.group, where)
    if issparse(matrix):
        matrix = matrix if matrix.format in ("csc", "csr") else matrix.tocsr()
        arrays = {key: getattr(matrix, key) for key in ("data", "indices", "indptr")}
        return _sparse(matrix.format, arrays, matrix.shape, where)
    if isinstance(matrix, np.ndarray | h5py.Dataset | zarr.Array):
        return DenseRows(array=matrix, where=where)
    raise InputError(
        f"{where} is a {type(matrix).__module__}.{type(matrix).__name__}; "
        "call adata.to_memory() first, so that it is a NumPy or SciPy matrix"
    )


def loom_file(file: Any, *, path: Path) -> Source:
    """Open a loom file: genes x cells, dense, with one array for each annotation."""
    name = str(path)
    addresses = {"X": "matrix"}
    if "layers" in file:
        addresses |= {f"layers/{key}": f"layers/{key}" for key in file["layers"]}
    n_genes, n_cells = file["matrix"].shape

    def opener(layer: str) -> Callable[[], Rows | Entries]:
        return lambda: DenseRows(
            array=member(file, addresses[layer], name), where=f"{name}: {layer}", cells_axis=1
        )

    return Source(
        name=name,
        path=path,
        form="loom",
        matrices={layer: opener(layer) for layer in addresses},
        var=lambda layer: _loom_frame(file, "row_attrs", n_genes, LOOM_GENE_NAMES, name),
        obs=lambda: _loom_frame(file, "col_attrs", n_cells, LOOM_CELL_NAMES, name),
    )


def _loom_frame(
    file: Any, key: str, size: int, index_names: tuple[str, ...], name: str
) -> pd.DataFrame:
    """Read the one-dimensional attributes; without a name among them, places are the names."""
    group = member(file, key, name)
    columns = {}
    for attribute in group:
        try:
            values = group[attribute][()]
        except STORAGE_ERRORS as error:
            raise InputError(f"{name}: {key}/{attribute} cannot be read; {DAMAGED}") from error
        if values.shape == (size,):
            columns[attribute] = values.astype(object) if values.dtype.kind == "S" else values
    frame = pd.DataFrame(columns, index=range(size))
    found = [column for column in index_names if column in columns]
    return tidy(frame.set_index(found[0], drop=False).rename_axis(None) if found else frame)
