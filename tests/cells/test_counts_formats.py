"""Every format gives the same rows; layers, names and feature types come out as it has them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.formats import (
    WRITERS,
    annotated,
    h5ad,
    loom,
    mtx_folder,
    tenx_v3,
    write_genome,
    write_zarr,
)

from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.readers import convert, matrices
from cellscribe.errors import InputError

count_matrices = hnp.arrays(
    np.int64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.one_of(st.just(0), st.integers(0, 30_000)),
)


def gathered(source: Any, rows: int = 4096, start: int = 0, **options: Any) -> np.ndarray:
    # what is open already is left open
    held = nullcontext(source) if isinstance(source, Counts) else open_counts(source, **options)
    with held as counts:
        blocks = list(counts.blocks(rows, start))
        assert all(block.shape[0] <= rows for block in blocks)
        assert all(block.indices.dtype == np.int32 for block in blocks)
        assert all((np.diff(row.indices) > 0).all() for block in blocks for row in block)
        return sp.vstack(blocks).toarray() if blocks else np.empty((0, counts.n_genes))


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@settings(max_examples=8)
@given(dense=count_matrices, rows=st.integers(1, 12), data=st.data())
def test_every_format_gives_the_rows_that_were_written(
    writer: Callable[[np.ndarray, Path], Any], dense: np.ndarray, rows: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(dense)))
    with tempfile.TemporaryDirectory() as folder:
        source = writer(dense, Path(folder))
        with open_counts(source) as counts:
            assert (counts.n_cells, counts.n_genes) == dense.shape
            assert counts.layer == "X"
            assert list(counts.obs.index) == [f"cell{i}" for i in range(len(dense))]
            assert list(counts.var.index) == [f"gene{i}" for i in range(dense.shape[1])]
            np.testing.assert_array_equal(gathered(counts, rows, start), dense[start:])
        if isinstance(source, ad.AnnData) and source.isbacked:
            source.file.close()


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes even tiny matrices go by way of files, bands and pieces."""
    monkeypatch.setattr(convert, "IN_MEMORY", 10)
    monkeypatch.setattr(convert, "BAND", 50)
    monkeypatch.setattr(matrices, "DENSE_BYTES", 100)
    monkeypatch.setattr(matrices.CscColumns.entries, "__defaults__", (37,))


@pytest.mark.parametrize("kind", ["h5ad csc", "10x mtx", "h5ad dense", "loom"])
def test_large_columns_go_through_scratch_files(
    kind: str, tmp_path: Path, small_limits: None
) -> None:
    rng = np.random.default_rng(1)
    # one cell has more entries than a band holds, others none
    dense = rng.poisson(rng.choice([0, 0.2, 3], size=(60, 1)), size=(60, 70)).astype(np.int64)
    scratch, said = tmp_path / "scratch", []
    scratch.mkdir()
    source = WRITERS[kind](dense, tmp_path)
    with open_counts(source, scratch=scratch, log=said.append) as counts:
        np.testing.assert_array_equal(sp.vstack(list(counts.blocks(7))).toarray(), dense)
        np.testing.assert_array_equal(sp.vstack(list(counts.blocks(7))).toarray(), dense)
        converted = kind in ("h5ad csc", "10x mtx")
        assert len(list(scratch.iterdir())) == len(said) == converted
    assert list(scratch.iterdir()) == []


def test_entries_that_stand_twice_are_summed(tmp_path: Path) -> None:
    folder = mtx_folder(np.array([[1, 0], [0, 2]]), tmp_path, zipped=False)
    body = "%%MatrixMarket matrix coordinate integer general\n%\n2 2 3\n2 1 4\n1 2 1\n2 1 5\n"
    (folder / "matrix.mtx").write_text(body)
    np.testing.assert_array_equal(gathered(folder), [[0, 9], [1, 0]])
    x = sp.csr_matrix(([4, 5, 1], [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    adata = annotated(x)
    np.testing.assert_array_equal(gathered(adata), [[0, 9], [1, 0]])
    assert adata.X.nnz == 3, "the user's matrix was changed"


def test_matrix_market_may_lie_transposed_under_a_prefix(tmp_path: Path) -> None:
    dense = np.arange(6).reshape(2, 3)
    folder = mtx_folder(dense, tmp_path, zipped=False, version=2)
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(dense), field="real")
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"GSM1_{path.name}"))
    np.testing.assert_array_equal(gathered(folder), dense)
    np.testing.assert_array_equal(gathered(folder / "GSM1_matrix.mtx"), dense)


def test_genomes_of_cellranger_2_lie_side_by_side(tmp_path: Path) -> None:
    human, mouse = np.array([[1, 2], [0, 3], [4, 0]]), np.array([[5, 0, 1], [0, 6, 1]])
    with h5py.File(tmp_path / "two.h5", "w") as file:
        write_genome(file.create_group("hg19"), human, ["a", "b", "c"])
        write_genome(file.create_group("mm10"), mouse, ["b", "d"], first=2)
    expected = [[1, 2, 0, 0, 0], [0, 3, 5, 0, 1], [4, 0, 0, 0, 0], [0, 0, 0, 6, 1]]
    with open_counts(tmp_path / "two.h5") as counts:
        assert list(counts.var["genome"]) == ["hg19"] * 2 + ["mm10"] * 3
        assert list(counts.obs.index) == ["a", "b", "c", "d"]
        for rows in (1, 2, 3, 4):
            np.testing.assert_array_equal(gathered(counts, rows), expected)


def test_features_that_are_not_genes_are_left_out_and_said_so(tmp_path: Path) -> None:
    dense = np.array([[1, 2, 3, 0], [4, 5, 0, 6]])
    path, said = tenx_v3(dense, tmp_path), []
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression", "Gene Expression"]
    with h5py.File(path, "r+") as file:
        file["matrix/features/feature_type"][...] = np.array(kinds, dtype="S16")[:4].astype("S15")
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = np.array(kinds, dtype="S")
    with open_counts(path, log=said.append) as counts:
        assert counts.n_genes == 3
        assert list(counts.var.index) == ["gene0", "gene2", "gene3"]
        assert list(counts.var.columns) == ["feature_types", "genome", "gene_ids"]
        np.testing.assert_array_equal(gathered(counts, 1), dense[:, [0, 2, 3]])
    assert len(said) == 1
    assert "1 features left out" in said[0]
    assert "Antibody Capture" in said[0]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", "memory", "backed"])
def test_layers_and_raw(suffix: str, tmp_path: Path) -> None:
    dense = np.array([[1, 0, 7], [0, 2, 9]])
    adata = annotated(np.log1p(dense), layers={"counts": sp.csr_matrix(dense)})
    adata.raw = annotated(sp.csr_matrix(np.hstack([dense, dense])))
    source: Any = adata
    if suffix == ".zarr":
        source = tmp_path / "x.zarr"
        write_zarr(adata, source)
    elif suffix != "memory":
        source = tmp_path / "x.h5ad"
        adata.write_h5ad(source)
        if suffix == "backed":
            source = ad.read_h5ad(source, backed="r")
    with open_counts(source, layer="counts") as counts:
        assert counts.layer == "layers/counts"
        np.testing.assert_array_equal(gathered(counts), dense)
    with open_counts(source, layer="raw") as counts:
        assert counts.layer == "raw/X"
        assert counts.n_genes == len(counts.var) == 6
        np.testing.assert_array_equal(gathered(counts), np.hstack([dense, dense]))
    with pytest.raises(InputError, match="no layer 'spliced'; there are X, counts, raw"):
        open_counts(source, layer="spliced")
    # of two that look like counts, a layer of that name is named first
    with open_counts(source) as counts, pytest.raises(InputError, match="use --layer counts"):
        list(counts.blocks())
    if suffix == "backed":
        source.file.close()


def test_loom_layer_and_attributes(tmp_path: Path) -> None:
    dense = np.array([[1, 0, 7], [0, 2, 9]])
    with open_counts(loom(dense, tmp_path), layer="spliced") as counts:
        np.testing.assert_array_equal(gathered(counts), dense // 2)
        assert list(counts.var["Accession"]) == [f"ENSG{i:011}" for i in range(3)]
        assert list(counts.obs.columns) == ["CellID"]


@pytest.mark.parametrize("names", ["bytes", "categorical"])
def test_odd_gene_names_become_str(names: str, tmp_path: Path) -> None:
    adata = annotated(sp.csr_matrix(np.eye(3, dtype=np.int32)))
    path = tmp_path / "x.h5ad"
    if names == "categorical":
        adata.var.index = pd.CategoricalIndex(["b", "a", "b"])
        source: Any = adata
    else:
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            del file["var/_index"]
            file["var/_index"] = np.array([b"b", b"a", b"b"])
        source = path
    with open_counts(source) as counts:
        assert list(counts.var.index) == ["b", "a", "b"]
        assert all(isinstance(name, str) for name in counts.var.index)


def test_categorical_gene_index_in_a_file(tmp_path: Path) -> None:
    path = h5ad(sp.csr_matrix)(np.eye(3, dtype=np.int32), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["var/_index"]
        ad.io.write_elem(file["var"], "_index", pd.Categorical(["b", "a", "b"]))
    with open_counts(path) as counts:
        assert list(counts.var.index) == ["b", "a", "b"]


@pytest.mark.parametrize(
    ("make", "suffix"), [(h5ad(sp.csr_matrix), ".loom"), (loom, ".h5ad"), (tenx_v3, ".zarr")]
)
def test_a_wrong_suffix_does_not_matter(
    make: Callable[..., Path], suffix: str, tmp_path: Path
) -> None:
    dense = np.array([[1, 0], [3, 4]])
    wrong = make(dense, tmp_path).rename(tmp_path / f"wrong{suffix}")
    np.testing.assert_array_equal(gathered(wrong), dense)
