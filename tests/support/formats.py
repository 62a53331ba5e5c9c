"""The same cells in every format that is read: writers for tests of reading and of embedding."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

Genes = Callable[[int], tuple[list[str], list[str]]]
"""Gives the Ensembl ids and the names of the first so many genes."""
Write = Callable[..., Any]
"""``(dense, folder, genes)`` to a path or an AnnData with those counts."""


def made_up(n_genes: int) -> tuple[list[str], list[str]]:
    return [f"ENSG{i:011}" for i in range(n_genes)], [f"gene{i}" for i in range(n_genes)]


def annotated(x: Any, genes: Genes = made_up, **more: Any) -> ad.AnnData:
    n_cells, n_genes = x.shape
    ids, names = genes(n_genes)
    return ad.AnnData(
        X=x,
        obs=pd.DataFrame({"batch": ["a"] * n_cells}, index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame({"gene_ids": ids}, index=names),
        **more,
    )


def h5ad(make: Callable[[np.ndarray], Any]) -> Write:
    def write(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
        annotated(make(dense), genes).write_h5ad(folder / "x.h5ad", compression="gzip")
        return folder / "x.h5ad"

    return write


def write_zarr(adata: ad.AnnData, path: Path, version: int = 3) -> None:
    choice = {"zarr_write_format": version, "auto_shard_zarr_v3": version == 3}
    with warnings.catch_warnings(), ad.settings.override(**choice):
        warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        adata.write_zarr(path)


def zarr_store(make: Callable[[np.ndarray], Any], version: int) -> Write:
    def write(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
        write_zarr(annotated(make(dense), genes), folder / "x.zarr", version)
        return folder / "x.zarr"

    return write


def old_h5ad(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
    """As anndata 0.6 wrote it: structured arrays for the frames, bytes for the names."""
    x = sp.csr_matrix(dense)
    with h5py.File(folder / "old.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = b"csr"
        group.attrs["h5sparse_shape"] = x.shape
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(x, key)
        cells = [f"cell{i}" for i in range(x.shape[0])]
        for key, names in (("obs", cells), ("var", genes(x.shape[1])[1])):
            rows = [(name.encode(), i) for i, name in enumerate(names)]
            file[key] = np.array(rows, dtype=[("index", "S16"), ("number", "i8")])
    return folder / "old.h5ad"


def tenx_v3(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
    x = sp.csr_matrix(dense)
    n_cells, n_genes = x.shape
    ids, names = genes(n_genes)
    with h5py.File(folder / "v3.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"cell{i}" for i in range(n_cells)], dtype="S")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(x, key).astype(np.int64)
        group["shape"] = np.array([n_genes, n_cells], np.int32)
        features = group.create_group("features")
        features["_all_tag_keys"] = np.array([b"genome"])
        features["id"] = np.array(ids, dtype="S")
        features["name"] = np.array(names, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * n_genes, dtype="S")
        features["genome"] = np.array(["GRCh38"] * n_genes, dtype="S")
    return folder / "v3.h5"


def write_genome(
    group: h5py.Group,
    dense: np.ndarray,
    cells: list[str],
    first: int = 0,
    genes: Genes = made_up,
) -> None:
    x = sp.csr_matrix(dense)
    for key in ("data", "indices", "indptr"):
        group[key] = getattr(x, key)
    group["shape"] = np.array(x.shape[::-1])
    ids, names = (column[first:] for column in genes(first + x.shape[1]))
    group["genes"] = np.array(ids, dtype="S")
    group["gene_names"] = np.array(names, dtype="S")
    group["barcodes"] = np.array(cells, dtype="S")


def tenx_v2(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
    with h5py.File(folder / "v2.h5", "w") as file:
        cells = [f"cell{i}" for i in range(len(dense))]
        write_genome(file.create_group("GRCh38"), dense, cells, genes=genes)
    return folder / "v2.h5"


def mtx_folder(
    dense: np.ndarray,
    folder: Path,
    genes: Genes = made_up,
    *,
    version: int = 3,
    shuffled: bool = True,
    zipped: bool = True,
) -> Path:
    folder = folder / "filtered"
    folder.mkdir(exist_ok=True)
    x = sp.coo_matrix(dense.T)
    if shuffled:
        order = np.random.default_rng(0).permutation(x.nnz)
        x = sp.coo_matrix((x.data[order], (x.row[order], x.col[order])), shape=x.shape)
    text = io.BytesIO()
    scipy.io.mmwrite(text, x, field="integer", symmetry="general")
    last = "\tGene Expression" if version == 3 else ""
    ids, names = genes(dense.shape[1])
    features = "".join(f"{i}\t{name}{last}\n" for i, name in zip(ids, names, strict=True))
    contents = {
        "matrix.mtx": text.getvalue(),
        "features.tsv" if version == 3 else "genes.tsv": features.encode(),
        "barcodes.tsv": "".join(f"cell{i}\n" for i in range(len(dense))).encode(),
    }
    for name, content in contents.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / name).write_bytes(content)
    return folder


def mtx_tar(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
    made = mtx_folder(dense, folder, genes)
    with tarfile.open(folder / "x.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(made, arcname="run/filtered_feature_bc_matrix")
    return folder / "x.tar.gz"


def loom(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> Path:
    ids, names = genes(dense.shape[1])
    with h5py.File(folder / "x.loom", "w") as file:
        file["matrix"] = dense.T.astype(np.float32)
        file.create_group("layers")["spliced"] = dense.T // 2
        rows, columns = file.create_group("row_attrs"), file.create_group("col_attrs")
        rows["Gene"] = np.array(names, dtype="S")
        rows["Accession"] = ids
        columns["CellID"] = [f"cell{i}" for i in range(len(dense))]
        columns["plane"] = np.zeros((len(dense), 2))
    return folder / "x.loom"


def backed(make: Callable[[np.ndarray], Any]) -> Write:
    def write(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> ad.AnnData:
        return ad.read_h5ad(h5ad(make)(dense, folder, genes), backed="r")

    return write


def view(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> ad.AnnData:
    return annotated(sp.csr_matrix(np.vstack([dense, dense])), genes)[: len(dense)]


def memory(make: Callable[[np.ndarray], Any]) -> Write:
    def hold(dense: np.ndarray, folder: Path, genes: Genes = made_up) -> ad.AnnData:
        return annotated(make(dense), genes)

    return hold


def as_float(dense: np.ndarray) -> np.ndarray:
    return dense.astype(np.float64)


WRITERS: dict[str, Write] = {
    "h5ad csr": h5ad(sp.csr_matrix),
    "h5ad csc": h5ad(sp.csc_matrix),
    "h5ad dense": h5ad(as_float),
    "h5ad 0.6": old_h5ad,
    "zarr v2 csr": zarr_store(sp.csr_matrix, 2),
    "zarr v3 csr": zarr_store(sp.csr_matrix, 3),
    "zarr v3 csc": zarr_store(sp.csc_matrix, 3),
    "zarr v3 dense": zarr_store(as_float, 3),
    "10x h5 v3": tenx_v3,
    "10x h5 v2": tenx_v2,
    "10x mtx": mtx_folder,
    "10x mtx v2": partial(mtx_folder, version=2, zipped=False),
    "10x mtx tar": mtx_tar,
    "loom": loom,
    "memory csr": memory(sp.csr_array),
    "memory csc": memory(lambda dense: sp.csc_array(dense.astype(np.float32))),
    "memory dense": memory(lambda dense: dense.astype(np.int16)),
    "memory view": view,
    "backed csr": backed(sp.csr_matrix),
    "backed csc": backed(sp.csc_matrix),
    "backed dense": backed(as_float),
}
