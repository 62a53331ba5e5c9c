"""Containers of several AnnData are read as the one with genes, which is asked for or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import write_elem

from cellscribe.cells.counts import open_counts
from cellscribe.config import InputOptions
from cellscribe.errors import InputError

COUNTS = sp.random(20, 12, density=0.5, random_state=0, format="csr", dtype=np.float32)
COUNTS.data = np.ceil(COUNTS.data * 9)
CELLS = [f"cell{i}" for i in range(20)]


def part(kind: str | None = "Gene Expression", times: int = 1, cells: list[str] = CELLS) -> Any:
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(12)])
    if kind is not None:
        var["feature_types"] = kind
    obs = pd.DataFrame({"n": range(len(cells))}, index=cells)
    return ad.AnnData(X=COUNTS * times, obs=obs, var=var)


def store(root: Any, key: str, element: Any) -> None:
    """Write without shards, of which anndata warns."""
    storage = {"shards": None} if isinstance(root, zarr.Group) else {}
    write_elem(root, key, element, dataset_kwargs=storage)


def fill(root: Any, parts: dict[str, ad.AnnData]) -> None:
    """The layout of MuData 0.1: ``mod/NAME`` and an ``obs`` of all cells, columns by modality."""
    joint = pd.DataFrame({"rna:n": range(20), "type": ["a", "b"] * 10}, index=CELLS[::-1])
    root.create_group("mod")
    store(root, "obs", joint)
    store(root, "var", pd.DataFrame(index=["x"]))
    for name, adata in parts.items():
        store(root, f"mod/{name}", adata)
    root.attrs["encoding-type"] = "MuData"


def mudata(folder: Path, form: str, **parts: ad.AnnData) -> Path:
    path = folder / f"x.{form}"
    if form == "zarr":
        fill(zarr.open_group(path, mode="w"), parts)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        fill(file, parts)
    with path.open("r+b") as raw:
        raw.write(b"MuData (format-version=0.1.0;creator=muon)".ljust(512, b"\0"))
    return path


def spatial(folder: Path, group: str = "tables", **tables: ad.AnnData) -> Path:
    path = folder / "s.zarr"
    root = zarr.open_group(path, mode="w")
    root.create_group("images")
    for name, adata in tables.items():
        store(root, f"{group}/{name}", adata)
    return path


def read(path: Path, **options: Any) -> sp.csr_matrix:
    with open_counts(path, options=InputOptions(**options)) as counts:
        return sp.vstack(list(counts.blocks(7)))


@pytest.mark.parametrize("form", ["h5mu", "zarr"])
@pytest.mark.parametrize(
    "parts",
    [
        {"rna": part(None), "prot": part(None, 2)},
        {"RNA": part(None), "atac": part("Peaks", 2)},
        {"gex": part(None), "adt": part(None, 2)},
        {"one": part("Gene Expression"), "two": part("Antibody Capture", 2)},
        {"anything": part(None)},
    ],
)
def test_the_modality_of_genes_is_read(
    parts: dict[str, ad.AnnData], form: str, tmp_path: Path
) -> None:
    path = mudata(tmp_path, form, **parts)
    assert (read(path) != COUNTS).nnz == 0
    first, *others = parts
    with open_counts(path) as counts:
        assert counts.layer == f"mod/{first}/X"
        assert list(counts.obs.index) == CELLS
        # a label of all modalities is found by the cell's name
        assert list(counts.obs["type"]) == ["b", "a"] * 10 and "rna:n" not in counts.obs
    for other in others[:1]:
        if "feature_types" not in parts[other].var:
            assert (read(path, modality=other) != 2 * COUNTS).nnz == 0


@pytest.mark.parametrize("form", ["h5mu", "zarr"])
def test_a_choice_is_the_users(form: str, tmp_path: Path) -> None:
    path = mudata(tmp_path, form, first=part(None), second=part(None, 2))
    with pytest.raises(InputError, match=r"MuData with first, second; .*--modality first$"):
        read(path)
    assert (read(path, modality="second") != 2 * COUNTS).nnz == 0
    with pytest.raises(InputError, match="has no modality 'rna'; there are first, second"):
        read(path, modality="rna")


def test_layers_of_a_modality(tmp_path: Path) -> None:
    adata = part(None)
    adata.layers["counts"] = COUNTS
    adata.X = COUNTS.log1p()
    path = mudata(tmp_path, "h5mu", rna=adata)
    with pytest.raises(InputError, match=r"use --layer counts$"):
        read(path)
    assert (read(path, layer="counts") != COUNTS).nnz == 0


@pytest.mark.parametrize("group", ["tables", "table"])
def test_the_table_of_a_spatialdata(group: str, tmp_path: Path) -> None:
    assert (read(spatial(tmp_path, group, table=part())) != COUNTS).nnz == 0
    path = spatial(tmp_path, group, a=part(), b=part(times=2))
    with pytest.raises(InputError, match=r"SpatialData with a, b; .*--table a$"):
        read(path)
    assert (read(path, table="b") != 2 * COUNTS).nnz == 0
    with pytest.raises(InputError, match="has no table 'c'; there are a, b"):
        read(path, table="c")


def test_a_name_for_what_has_no_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    part().write_h5ad(path)
    for options, kind in (({"modality": "rna"}, "MuData"), ({"table": "t"}, "SpatialData")):
        for source in (path, part()):
            with pytest.raises(InputError, match=f"is no {kind}, so .* leave it out"):
                open_counts(source, options=InputOptions(**options))
    with pytest.raises(InputError, match="is no SpatialData"):
        read(mudata(tmp_path, "h5mu", rna=part()), table="rna")


def test_a_container_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MuData with nothing in it; give a file"):
        read(mudata(tmp_path, "h5mu"))
    with pytest.raises(InputError, match="not an AnnData"):
        read(spatial(tmp_path))


# --- relatives of the 10x .h5 ---------------------------------------------------------------------


def tenx(path: Path, kinds: list[str], more: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        # genes x cells by columns: cells x genes by rows, as it stands
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(COUNTS, key).astype(np.int64)
        group["shape"] = np.array([12, 20])
        group["barcodes"] = np.array(CELLS, "S")
        group["features/id"] = np.array([f"ENSG{i:011d}" for i in range(12)], "S")
        group["features/name"] = np.array([f"G{i}" for i in range(12)], "S")
        group["features/feature_type"] = np.array(kinds, "S")
        group["features/genome"] = np.array(["GRCh38"] * 12, "S")
        for name, values in more.items():
            file[name] = values
    return path


@pytest.mark.parametrize("other", ["Peaks", "Antibody Capture", "CRISPR Guide Capture"])
def test_of_multiome_and_feature_barcodes_genes_alone_are_read_and_it_is_said(
    other: str, tmp_path: Path
) -> None:
    said: list[str] = []
    path = tenx(tmp_path / "x.h5", ["Gene Expression"] * 8 + [other] * 4, {})
    with open_counts(path, log=said.append) as counts:
        assert (sp.vstack(list(counts.blocks())) != COUNTS[:, :8]).nnz == 0
    assert len(said) == 1 and f"4 features left out that are not genes ({other})" in said[0]


@pytest.mark.parametrize(
    "more",
    [
        # CellBender 0.3: groups of its own next to the matrix
        {
            "droplet_latents/cell_probability": np.ones(20),
            "droplet_latents/gene_expression_encoding": np.ones((20, 3)),
            "global_latents/ambient_expression": np.ones(12),
            "metadata/barcodes_analyzed_inds": np.arange(20),
        },
        # CellBender 0.2: in the group of the matrix
        {
            "matrix/latent_cell_probability": np.ones(20),
            "matrix/latent_gene_encoding": np.ones((20, 3)),
            "matrix/ambient_expression": np.ones(12),
            "matrix/barcode_indices_for_latents": np.arange(20),
        },
    ],
)
def test_files_of_cellbender(more: dict[str, Any], tmp_path: Path) -> None:
    path = tenx(tmp_path / "x_filtered.h5", ["Gene Expression"] * 12, more)
    assert (read(path) != COUNTS).nnz == 0
