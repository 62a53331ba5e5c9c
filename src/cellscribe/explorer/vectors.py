"""What a map is made of: obs and obsm of an ``.h5ad``, a ``.zarr`` or an AnnData.

Only the rows of the cells on the page are kept of a matrix, and X is not touched: the counts are
opened where a gene or a PCA is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.cells.readers.frames import stored_frame, tidy
from cellscribe.cells.readers.storage import (
    array_shape,
    is_group,
    keys_of,
    member,
    names_of,
    reading,
    subgroup,
)
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

ROWS = 65_536
"""Rows of a matrix that are read at once."""
OURS = "X_cellscribe"
UMAP = "X_umap"


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Opened cells with vectors.

    Attributes
    ----------
    name
        Name in messages.
    obs
        Table of all cells.
    obsm
        Key -> matrix of all cells, perhaps in the file.
    umap_of
        Key that the UMAP of the file was made of, where it says so as scanpy does.
    """

    name: str
    obs: pd.DataFrame
    obsm: Mapping[str, Any]
    umap_of: str | None = None

    def columns(self, key: str) -> int:
        """Columns of a matrix.

        Raises
        ------
        InputError
            There is none of that name, or it is no plain matrix with a row a cell.
        """
        where = f"{self.name}: obsm {key!r}"
        if key not in self.obsm:
            raise InputError(f"{self.name}: obsm has no {key!r}; it has {names_of(self.obsm)}")
        found = self.obsm[key]
        if is_group(found) and not isinstance(found, pd.DataFrame):
            raise InputError(f"{where} is a table or sparse; store it as a dense matrix")
        shape = found.shape if isinstance(found, pd.DataFrame) else array_shape(found, where)
        if len(shape) != 2 or shape[0] != len(self.obs) or shape[1] < 2:
            raise InputError(
                f"{where} has the shape {shape}; {len(self.obs):,} rows and two columns or more "
                "are needed"
            )
        return int(shape[1])

    def holds_vectors(self, key: str) -> bool:
        """Whether a matrix is there that neighbors can be found in."""
        try:
            return self.columns(key) > 2
        except InputError:
            # obsm holds tables and single columns too, which nobody asked for here
            return False

    def rows(self, key: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read rows, ascending, of a matrix, ``[len(rows), D]``."""
        width = self.columns(key)
        found, stored = np.empty((len(rows), width), np.float32), self.obsm[key]
        with reading(f"{self.name}: obsm {key!r}"):
            for first in range(0, len(self.obs), ROWS):
                low, high = np.searchsorted(rows, [first, first + ROWS])
                if high > low:
                    part = stored[first : first + ROWS]
                    if not isinstance(part, np.ndarray):
                        part = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
                    found[low:high] = part[rows[low:high] - first]
        return found


@contextmanager
def open_vectors(source: str | Path | AnnData) -> Iterator[Vectors]:
    """Open cells with vectors.

    Raises
    ------
    InputError
        There is no such file, it is of another form or damaged, or it holds no cell or no vectors.
    """
    if not isinstance(source, str | Path):
        yield _checked(
            Vectors(
                name="AnnData object",
                obs=tidy(source.obs),
                obsm={str(key): source.obsm[key] for key in source.obsm},
                umap_of=_umap_of(source.uns),
            )
        )
        return
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.suffix == ".zarr":
        import zarr

        with reading(f"{path}"):
            root = zarr.open_group(path, mode="r")
        yield _of_store(root, str(path))
    elif path.suffix == ".h5ad" and path.is_file():
        import h5py

        with reading(f"{path}"):
            root = h5py.File(path, "r")
        with root:
            yield _of_store(root, str(path))
    else:
        raise InputError(
            f"{path}: a map is made of an .h5ad or .zarr with vectors in obsm; write one with "
            "cellscribe embed -o vectors.h5ad"
        )


def _of_store(root: Any, name: str) -> Vectors:
    keys = keys_of(root, name)
    if "obs" not in keys:
        raise InputError(f"{name} holds no obs, so it is no AnnData; write one with anndata")
    uns = member(root, "uns", name) if "uns" in keys else None
    obsm = subgroup(root, "obsm", name) if "obsm" in keys else {}
    return _checked(
        Vectors(
            name=name,
            obs=stored_frame(member(root, "obs", name), f"{name}: obs", uns),
            obsm={key: member(obsm, key, name) for key in keys_of(obsm, name)},
            umap_of=_umap_of(uns),
        )
    )


def _checked(vectors: Vectors) -> Vectors:
    if not len(vectors.obs):
        raise InputError(f"{vectors.name} holds no cell; there is nothing to draw")
    return vectors


def _umap_of(uns: Any) -> str | None:
    """Key of obsm that scanpy's neighbors, and so its UMAP, were made of."""
    try:
        found = uns["neighbors"]["params"]["use_rep"]
        found = found[()] if hasattr(found, "shape") else found
    except (KeyError, TypeError, ValueError, OSError, IndexError):
        return None
    found = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    return found if isinstance(found, str) else None
