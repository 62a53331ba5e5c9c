"""AnnData stores (h5ad, zarr) and AnnData objects, opened as sources of counts.

An opener lists the matrices of a container by their layer address ("X", "layers/<name>", "raw/X"),
without reading any; `counts` picks one. Sparse matrices are read from
their three arrays directly, because anndata's own slicing costs more than reading the bytes;
the annotation frames, which come in many encodings, go through anndata (`frames`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellscribe.cells.readers.frame_rows import stored_rows
from cellscribe.cells.readers.frames import n_rows, stored_frame, tidy
from cellscribe.cells.readers.matrices import CscColumns, CsrRows, DenseRows, Entries, Rows
from cellscribe.cells.readers.storage import (
    DAMAGED,
    Array,
    array_shape,
    attribute,
    attribute_text,
    is_group,
    keys_of,
    matrix_shape,
    member,
    reading,
    shortened,
    subgroup,
)
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

LARGEST_AXIS = 2**31 - 1
"""Places of cells and genes are kept in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of a matrix before any of it is read.

    Attributes
    ----------
    n_cells
        Its rows.
    by_rows
        Whether some cells can be read without the others.
    n_together
        Rows of a chunk of a dense array; 1 of a sparse one, whose chunks know no rows.
    """

    n_cells: int
    by_rows: bool
    n_together: int = 1


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
    part
        Where in a container of several it lies: "mod/rna/", "tables/table/" or "".
    header
        Tells what is known of a layer without opening it; None where it must be opened.
    obs_rows
        Reads the cells from one row to another; None where `obs` has to be read.
    """

    name: str
    path: Path | None
    form: str
    matrices: dict[str, Callable[[], Rows | Entries]]
    var: Callable[[str], pd.DataFrame]
    obs: Callable[[], pd.DataFrame]
    keep: Array | None = None
    part: str = ""
    header: Callable[[str], Header] | None = None
    obs_rows: Callable[[int, int], pd.DataFrame] | None = None


def stored_matrix(
    element: Any, where: str, expected: tuple[int, int] | None = None
) -> Rows | Entries:
    """Open a matrix as anndata writes it, the encoding of before 0.7 included.

    Parameters
    ----------
    element
        Group or array.
    where
        Name in messages.
    expected
        Cells and genes that are named, if known: nothing is read of a matrix of another shape.

    Raises
    ------
    InputError
        It is no matrix, is damaged, or has another shape.
    """
    if not is_group(element):
        check_shape(array_shape(element, where), expected, where)
        return DenseRows(array=element, where=where)
    form, sizes = _sparse_header(element, where)
    check_shape(sizes, expected, where)
    arrays = {key: member(element, key, where) for key in ("data", "indices", "indptr")}
    return _sparse(form, arrays, sizes, where)


def _sparse_header(group: Any, where: str) -> tuple[str, tuple[int, int]]:
    """Read the form, "csr" or "csc", and the shape of a sparse matrix."""
    encoding = attribute_text(group, "encoding-type", where)
    encoding = encoding or attribute_text(group, "h5sparse_format", where) or "nothing"
    form = encoding.removesuffix("_matrix")
    shape = attribute(group, "shape", where)
    shape = attribute(group, "h5sparse_shape", where) if shape is None else shape
    if form not in ("csr", "csc") or shape is None:
        raise InputError(
            f"{where} is stored as {shortened(encoding)!r}; a CSR, CSC or dense matrix is needed: "
            "write the file again with anndata"
        )
    return form, matrix_shape(shape, where)


def stored_header(element: Any, where: str) -> Header:
    """Read what a stored matrix says of itself.

    Raises
    ------
    InputError
        It is no matrix, or claims more than can be counted here.
    """
    if is_group(element):
        form, sizes = _sparse_header(element, where)
        check_shape(sizes, None, where)
        return Header(n_cells=sizes[0], by_rows=form == "csr")
    shape = array_shape(element, where)
    check_shape(shape, None, where)
    chunks = getattr(element, "shards", None) or element.chunks or (1,)
    return Header(n_cells=int(shape[0]) if shape else 0, by_rows=True, n_together=int(chunks[0]))


def check_shape(shape: Sequence[int], expected: tuple[int, int] | None, where: str) -> None:
    """Check that a matrix has as many cells and genes as are named.

    Raises
    ------
    InputError
        It has others, or more than can be counted here.
    """
    if expected is not None and len(shape) == 2:
        for size, n_named, what in zip(shape, expected, ("cells", "genes"), strict=True):
            if size != n_named:
                raise InputError(
                    f"{where} has {size:,} {what}, but {n_named:,} are named; {DAMAGED}"
                )
    if max(shape, default=0) > LARGEST_AXIS:
        raise InputError(f"{where} claims {max(shape):,} rows or columns; {DAMAGED}")


def _sparse(
    form: str, arrays: dict[str, Any], shape: tuple[int, int], where: str
) -> Rows | Entries:
    if form == "csc":
        return CscColumns(**arrays, shape=shape, where=where).entries()
    return CsrRows(**arrays, shape=shape, where=where)


def anndata_store(root: Any, *, path: Path | str, form: str) -> Source:
    """Open the root group of an h5ad file or an AnnData zarr store.

    Raises
    ------
    InputError
        Its groups are damaged, or X and obs differ in length.
    """
    name = str(path)
    keys = set(keys_of(root, name))
    addresses = {"X": "X"}
    if "layers" in keys:
        layers = subgroup(root, "layers", name)
        addresses |= {f"layers/{key}": f"layers/{key}" for key in keys_of(layers, name)}
    addresses["raw/X"] = "raw/X" if "raw" in keys else "raw.X"
    available = {layer: key for layer, key in addresses.items() if _filled(root, key, name)}

    def var_key(layer: str) -> str:
        return {"raw/X": "raw/var", "raw.X": "raw.var"}.get(available[layer], "var")

    def uns_of(key: str) -> Any:
        return member(root, "uns", name) if "uns" in keys and not key.startswith("raw") else None

    def frame(key: str) -> pd.DataFrame:
        return stored_frame(member(root, key, name), f"{name}: {key}", uns_of(key))

    def obs_rows(first: int, last: int) -> pd.DataFrame:
        return stored_rows(member(root, "obs", name), f"{name}: obs", first, last, uns_of("obs"))

    def opener(layer: str) -> Callable[[], Rows | Entries]:
        def matrix() -> Rows | Entries:
            expected = [
                n_rows(member(root, key, name), f"{name}: {key}") for key in ("obs", var_key(layer))
            ]
            return stored_matrix(
                member(root, available[layer], name), f"{name}: {layer}", (expected[0], expected[1])
            )

        return matrix

    return Source(
        name=name,
        path=path if isinstance(path, Path) else None,
        form=form,
        matrices={layer: opener(layer) for layer in available},
        var=lambda layer: frame(var_key(layer)),
        obs=lambda: frame("obs"),
        obs_rows=obs_rows,
        header=lambda layer: stored_header(
            member(root, available[layer], name), f"{name}: {layer}"
        ),
    )


def _filled(root: Any, key: str, name: str) -> bool:
    """Whether a matrix is there; anndata may write a missing X as a null."""
    with reading(f"{name}: {shortened(key)}"):
        if key not in root:
            return False
    found = member(root, key, name)
    # what is wrong with the encoding is said when the matrix is opened
    encoding = attribute(found, "encoding-type", f"{name}: {shortened(key)}")
    return not (isinstance(encoding, str | bytes) and encoding in ("null", b"null"))


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
        return stored_matrix(matrix.group, where, matrix.shape)
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
