"""Real files come out as anndata, and the counts of their publishers, have them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import pandas as pd
import scipy.sparse as sp

from cellscribe.cells.counts import open_counts


def test_real_10x_files(shared_data: Path) -> None:
    with open_counts(shared_data / "hgmm_200cells_filtered_feature_bc_matrix.h5") as counts:
        assert (counts.form, counts.n_cells, counts.n_genes) == ("10x-h5", 200, 112_137)
        assert set(counts.var["genome"]) == {"hg19", "mm10"}
        assert sum(block.nnz for block in counts.blocks(64)) == 934_481
    name = "pbmc_1k_v3_300cells_filtered_feature_bc_matrix.tar.gz"
    with open_counts(shared_data / name) as counts:
        found = sp.vstack(list(counts.blocks(100)))
        whole = ad.read_h5ad(shared_data / "pbmc1k_v3_10x.h5ad")
        assert list(counts.var.index) == list(whole.var["original_id"])
        assert (found != whole[counts.obs.index].X).nnz == 0


def test_real_h5ad_equals_anndata(shared_data: Path) -> None:
    path = shared_data / "pbmc3k_10x.h5ad"
    adata = ad.read_h5ad(path)
    with open_counts(path) as counts:
        for first, block in zip(range(0, adata.n_obs, 700), counts.blocks(700), strict=True):
            assert (block != adata.X[first : first + 700]).nnz == 0
        pd.testing.assert_frame_equal(counts.obs, adata.obs, check_index_type=False)
