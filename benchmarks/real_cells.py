"""Make a file of any number of real cells from a folder of real files.

Speed and memory depend on how many genes a cell has and how counts are spread, so made-up cells
will not do. Rows of all files are brought into one gene space (the union of their Ensembl ids,
columns of one id summed), shuffled once with a seed, and repeated in that order until there are
enough. Blocks are appended to the HDF5 file: memory is that of the folder, not of the file made.

Letters: ``B`` cells, ``G`` genes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.cells.gene_names.genes import human_genes
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

GENE_COLUMN = "ensembl_id"
FEWEST_GENES = 5_000
"""A file that measured fewer genes is a targeted panel, and left out."""
DUPLICATE_FLAG = "in_came_baron"
"""Column of `obs` that marks cells that stand in another file of the folder too."""
CHUNK = 1 << 16


def real_cells(
    folder: Path,
    n: int,
    path: Path,
    *,
    seed: int = 0,
    block: int = 4_096,
    compression: str | None = None,
) -> dict[str, Any]:
    """Write an h5ad of `n` real cells: CSR, float32 counts, genes by Ensembl id, `obs["n_counts"]`.

    Parameters
    ----------
    folder
        Holds h5ad files of raw counts with a column `ensembl_id` in `var`.
    n
        Cells wanted. Above the number that the folder holds, cells repeat.
    path
        The file to write; an existing one is replaced.
    seed
        Of the shuffle.
    block
        Cells written at a time.
    compression
        ``None``, ``"gzip"`` or ``"lzf"``.

    Returns
    -------
    dict
        ``cells``, ``distinct_cells``, ``genes``, ``non_zeros`` and the names of the ``files`` used.

    Raises
    ------
    InputError
        The folder holds no usable file.
    """
    counts, names, file_of_row, genes = _gather(Path(folder))
    order = np.random.default_rng(seed).permutation(counts.shape[0])
    rows = order[np.arange(n) % len(order)]
    non_zeros = _write(Path(path), counts, rows, genes, names, file_of_row, block, compression)
    return {
        "cells": n,
        "distinct_cells": min(n, len(order)),
        "genes": len(genes),
        "non_zeros": non_zeros,
        "files": names,
    }


def _gather(folder: Path) -> tuple[csr_matrix, list[str], np.ndarray, list[str]]:
    import anndata
    from scipy.sparse import csr_matrix, vstack

    parts: list[tuple[str, csr_matrix, list[str]]] = []
    for path in sorted(folder.glob("*.h5ad")):
        adata = anndata.read_h5ad(path)
        if GENE_COLUMN not in adata.var or adata.n_vars < FEWEST_GENES:
            continue
        if DUPLICATE_FLAG in adata.obs:
            adata = adata[~adata.obs[DUPLICATE_FLAG].to_numpy(bool)]
        ids = [str(name).partition(".")[0] for name in adata.var[GENE_COLUMN].astype(str)]
        parts.append((path.stem, csr_matrix(adata.X), ids))
    if not parts:
        raise InputError(
            f"{folder}: no h5ad file of at least {FEWEST_GENES:,} genes with a column "
            f"{GENE_COLUMN!r} in var; name the folder of real cells with --data"
        )
    twins = _twins()
    genes = sorted({name for _, _, ids in parts for name in ids if name.startswith("ENSG")} - twins)
    column_of = {name: column for column, name in enumerate(genes)}
    projected = []
    for _, matrix, ids in parts:
        pairs = [(place, column_of[name]) for place, name in enumerate(ids) if name in column_of]
        source, target = np.array(pairs).T
        gene_map = csr_matrix(
            (np.ones(len(pairs), np.float32), (source, target)), shape=(len(ids), len(genes))
        )
        cells = matrix.astype(np.float32) @ gene_map
        cells.eliminate_zeros()
        cells.sort_indices()
        projected.append(cells)
    file_of_row = np.repeat(np.arange(len(parts)), [cells.shape[0] for cells in projected])
    return vstack(projected, format="csr"), [name for name, _, _ in parts], file_of_row, genes


def _twins() -> set[str]:
    """Ids that share their symbol: for us they are one gene, for the peers two."""
    genes = human_genes()
    shared = genes["symbol"].duplicated(keep=False) & (genes["symbol"] != "")
    return set(genes["ensembl_id"][shared])


def _write(
    path: Path,
    counts: csr_matrix,
    rows: np.ndarray,
    genes: list[str],
    names: list[str],
    file_of_row: np.ndarray,
    block: int,
    compression: str | None,
) -> int:
    import anndata
    import h5py
    import pandas as pd

    row_ends = np.cumsum(np.diff(counts.indptr)[rows], dtype=np.int64)
    indptr = np.concatenate([np.zeros(1, np.int64), row_ends])
    obs = pd.DataFrame(
        {
            "source_dataset": pd.Categorical.from_codes(file_of_row[rows], pd.Index(names)),
            "n_counts": np.asarray(counts.sum(axis=1)).ravel()[rows],
        },
        index=[f"cell{i}" for i in range(len(rows))],
    )
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(
            file, "/", anndata.AnnData(obs=obs, var=pd.DataFrame({GENE_COLUMN: genes}, index=genes))
        )
        if "X" in file:
            del file["X"]
        matrix = file.create_group("X")
        matrix.attrs["encoding-type"] = "csr_matrix"
        matrix.attrs["encoding-version"] = "0.1.0"
        matrix.attrs["shape"] = np.array([len(rows), len(genes)])
        fits = indptr[-1] <= np.iinfo(np.int32).max
        matrix["indptr"] = indptr.astype(np.int32 if fits else np.int64)
        options = {"shape": (indptr[-1],), "chunks": (min(CHUNK, max(1, int(indptr[-1]))),)}
        data = matrix.create_dataset("data", dtype=np.float32, compression=compression, **options)
        indices = matrix.create_dataset(
            "indices", dtype=np.int32, compression=compression, **options
        )
        for start in range(0, len(rows), block):
            part = counts[rows[start : start + block]]
            place = slice(indptr[start], indptr[start] + part.nnz)
            data[place], indices[place] = part.data, part.indices
    return int(indptr[-1])
