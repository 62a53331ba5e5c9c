"""Real files come out as anndata, and the counts of their publishers, have them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellscribe.cells.counts import open_counts
from cellscribe.cells.value_kinds import sample_cells, tell_kind


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


@pytest.mark.parametrize(
    "name",
    [
        "pbmc3k_10x",
        "celllines_scmixology_sc_celseq2",
        "perturb_papalexi2021_thp1_299genes",
        "lung_hlca_query_delorey",
    ],
)
def test_kinds_of_values_of_real_cells(name: str, shared_data: Path) -> None:
    """What SoupX and RSEM leave is told from what normalisation leaves, in whole and in part."""
    with open_counts(shared_data / f"{name}.h5ad") as counts:
        x = next(counts.blocks(200)).astype(np.float64)
    totals = np.asarray(x.sum(axis=1)).ravel()
    share = np.asarray(x.sum(axis=0)).ravel()[x.indices] / x.sum()
    by_cell = np.repeat(totals, np.diff(x.indptr))
    moved = np.random.default_rng(0).uniform(-0.9, 0.9, x.nnz)
    moved[::3] = 0
    log = np.log1p(x.data / by_cell * 1e4)
    made = {
        "fractional": [
            np.maximum(x.data - 0.1 * by_cell * share, 0),
            np.maximum(np.round(x.data + moved, 2), 0.01),
        ],
        "normalised": [x.data / by_cell * 1e6, x.data / by_cell * np.median(totals)],
        "logarithms": [log, log / np.log(2), np.log1p(x.data), np.round(log, 3)],
        "roots": [np.sqrt(x.data), np.sqrt(x.data / by_cell * 1e4)],
    }
    for kind, each in made.items():
        for values in each:
            for dtype in (np.float32,):
                y = sp.csr_matrix((values.astype(dtype), x.indices, x.indptr), shape=x.shape)
                assert tell_kind(sample_cells(y.indptr, y.data)) == kind
                part = sp.csr_matrix(y[:, ::2])
                if kind != "fractional":
                    found = tell_kind(sample_cells(part.indptr, part.data))
                    assert found not in ("counts", "fractional")
