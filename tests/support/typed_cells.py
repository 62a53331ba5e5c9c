"""Cells of known types from several donors, that the tiny model can tell apart."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from support.tiny import N_GENES, real_genes


def typed_cells(n: int = 180, *, types: int = 3, donors: int = 3, seed: int = 0) -> ad.AnnData:
    """Each type has sixty genes of its own; each donor changes every gene a little."""
    rng = np.random.default_rng(seed)
    kind, donor = np.arange(n) % types, np.arange(n) // types % donors
    level = np.full((types, N_GENES), 0.01)
    for number in range(types):
        level[number, number * 60 : number * 60 + 60] = 2.0
    shift = np.random.default_rng(99).gamma(20, 1 / 20, (donors, N_GENES))
    ids, symbols = real_genes(N_GENES)
    return ad.AnnData(
        X=sp.csr_matrix(rng.poisson(level[kind] * shift[donor]).astype(np.float32)),
        obs=pd.DataFrame(
            {"cell_type": [f"type {k}" for k in kind], "donor": [f"d{d}" for d in donor]},
            index=[f"cell{i}" for i in range(n)],
        ),
        var=pd.DataFrame({"gene_ids": ids}, index=symbols),
    )


def saved(path: Path, adata: ad.AnnData) -> Path:
    adata.write_h5ad(path)
    return path
