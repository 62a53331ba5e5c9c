"""Large sources cut into row ranges: every cell in one of them, wherever the list is made."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from support.formats import WRITERS, annotated, write_zarr
from support.tiny import real_genes, some_counts

import cellscribe
from cellscribe.atlas.cut import cut_shards, look_at
from cellscribe.atlas.sources import find_shards
from cellscribe.cells.counts import open_counts
from cellscribe.cells.headers import read_header
from cellscribe.config import EmbedOptions, InputOptions, ShardOptions
from cellscribe.errors import InputError

N_CELLS = 50
OPTIONS = InputOptions()


def rows(path: Path, most: int, said: list[str] | None = None) -> list[tuple[int, int] | None]:
    log = [].append if said is None else said.append
    found = cut_shards(find_shards([path]), most, OPTIONS, log)
    assert found == cut_shards(find_shards([path]), most, OPTIONS, lambda line: None)
    return [shard.rows for shard in found]


@pytest.fixture
def adata() -> ad.AnnData:
    return annotated(some_counts(N_CELLS), real_genes)


def test_the_ranges_hold_every_cell_once(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    write_zarr(adata, tmp_path / "a.zarr")
    for path in (tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        for most in (1, 7, 25, 49, 50, 51, 0):
            found = rows(path, most)
            if most in (50, 51, 0):
                assert found == [None]
                continue
            covered = [row for first, last in found for row in range(first, last)]
            assert covered == list(range(N_CELLS))
            assert max(last - first for first, last in found) == most


def test_a_dense_array_is_cut_where_its_chunks_end(adata: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        ad.io.write_elem(zarr.open_group(path, mode="w"), "/", adata)
        ad.io.write_elem(
            zarr.open_group(path, mode="r+"), "X", adata.X, dataset_kwargs={"chunks": (8, 200)}
        )
    assert rows(path, 20) == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert rows(path, 3) == [(first, min(first + 8, 50)) for first in range(0, 50, 8)]


def test_a_source_stored_by_genes_stays_whole_and_is_not_read(
    adata: ad.AnnData, tmp_path: Path
) -> None:
    adata.X = sp.csc_matrix(adata.X)
    path, said = tmp_path / "a.h5ad", []
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        # a header does not need them
        del file["X/data"], file["X/indices"], file["X/indptr"]
    assert rows(path, 20, said) == [None]
    assert said == [f"{path} is stored by genes and stays whole (50 cells)"]


@pytest.mark.parametrize("kind", [k for k in WRITERS if not k.startswith(("memory", "backed"))])
def test_headers_agree_with_what_is_read(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](some_counts(12), tmp_path, real_genes)
    assert isinstance(path, Path)
    header = read_header(path)
    if header is None:
        assert path.name.endswith((".csv", ".tsv", ".parquet", ".tar.gz", ".zip"))
        return
    with open_counts(path, log=lambda line: None) as counts:
        assert (header.n_cells, header.by_rows) == (counts.n_cells, counts.by_rows)


def test_a_header_is_of_the_layer_that_is_named(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.layers["csc"] = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert read_header(tmp_path / "a.h5ad").by_rows
    assert not read_header(tmp_path / "a.h5ad", InputOptions(layer="csc")).by_rows
    with pytest.raises(InputError, match="has no layer 'other'"):
        read_header(tmp_path / "a.h5ad", InputOptions(layer="other"))


def test_bad_sources_are_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "bad.h5ad").write_bytes(b"no cells")
    shards = find_shards([tmp_path / "bad.h5ad", tmp_path / "none.h5ad", tmp_path / "no.csv"])
    assert cut_shards(shards, 5, OPTIONS, lambda line: None) == shards
    reasons = [look.reason for look in look_at(shards, OPTIONS, 10)]
    assert "not an HDF5 file" in reasons[0]
    assert all("no such file" in reason.lower() for reason in reasons[1:])


def test_a_part_with_the_name_of_a_source_is_refused(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata[:3].copy().write_h5ad(tmp_path / "a.00001.h5ad")
    with pytest.raises(InputError, match=r"two sources would give one file a\.00001"):
        cut_shards(find_shards([tmp_path]), 20, OPTIONS, lambda line: None)


def test_a_soma_experiment_is_cut_by_its_rows(
    adata: ad.AnnData, tmp_path: Path, tiny_model: Path
) -> None:
    soma_io = pytest.importorskip("tiledbsoma.io")
    from support.soma_store import context

    adata.X = sp.csr_matrix(adata.X.astype(np.float32))
    path, out = tmp_path / "mine", tmp_path / "out"
    soma_io.from_anndata(str(path), adata, "RNA", context=context())
    assert rows(path, 20) == [(0, 20), (20, 40), (40, 50)]
    found = cellscribe.embed_files(
        path,
        out,
        EmbedOptions(device="cpu", precision="float32", obs=("batch",)),
        model=tiny_model,
        sharing=ShardOptions(rows_per_shard=20),
        log=lambda line: None,
    )
    assert found.failures == {}
    cellscribe.collect(out, tmp_path / "all.parquet")
    joined = pd.read_parquet(tmp_path / "all.parquet")
    alone = cellscribe.embed(adata, model=tiny_model, device="cpu", precision="float32", copy=True)
    assert list(joined["cell_id"]) == list(adata.obs_names)
    np.testing.assert_array_equal(np.stack(joined["embedding"]), alone.obsm["X_cellscribe"])
