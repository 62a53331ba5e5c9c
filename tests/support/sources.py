"""Small files of counts with labels: what a corpus is built from in tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from support.tiny import N_GENES, real_genes, some_counts


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file and what is in it, as one would type it down.

    Attributes
    ----------
    dense
        ``[cells, genes]``; `ids` are the Ensembl ids of its columns.
    """

    path: Path
    dense: np.ndarray
    ids: list[str]
    obs: pd.DataFrame = field(repr=False)


def made(
    folder: Path,
    name: str,
    n_cells: int,
    *,
    seed: int,
    genes: slice = slice(None),
    symbols: bool = False,
    **labels: str,
) -> Made:
    """Write ``name.h5ad`` with some of the tiny model's genes, and a gene that no one knows."""
    ids, names = (column[genes] for column in real_genes(N_GENES))
    # no cell shares its counts with one of another seed, and none is empty
    dense = (
        some_counts(n_cells, seed=seed)[:, genes] + np.eye(n_cells, len(ids), dtype=int)[:, ::-1]
    )
    dense[:, :8] += 1 + seed
    unknown = np.arange(n_cells)[:, None] % 5
    obs = pd.DataFrame(index=[f"{name}-{i}" for i in range(n_cells)]).assign(**labels)
    var = pd.DataFrame(index=[*(names if symbols else ids), "no-such-gene"])
    x = sp.csr_matrix(np.hstack([dense, unknown]).astype(np.float32))
    path = folder / f"{name}.h5ad"
    ad.AnnData(X=x, obs=obs, var=var).write_h5ad(path)
    return Made(path=path, dense=dense, ids=list(ids), obs=obs.assign(total=x.sum(1).A1))


def some_sources(folder: Path) -> list[Made]:
    """Six files: three assays, two tissues, other genes in some, one with symbols only."""
    folder.mkdir(exist_ok=True)
    return [
        made(folder, "a", 90, seed=1, dataset_id="A", assay="10x", tissue_general="blood"),
        made(folder, "b", 70, seed=2, dataset_id="B", assay="10x", tissue_general="lung"),
        made(
            folder,
            "c",
            60,
            seed=3,
            genes=slice(60, None),
            dataset_id="C",
            assay="Smart-seq2",
            tissue_general="lung",
        ),
        made(folder, "d", 16, seed=4, symbols=True, assay="10x", tissue_general="blood"),
        made(
            folder,
            "e",
            12,
            seed=5,
            genes=slice(None, None, -1),
            dataset_id="E",
            assay="Smart-seq2",
            tissue_general="blood",
        ),
        made(folder, "f", 50, seed=6, dataset_id="F", assay="Smart-seq2", tissue_general="lung"),
    ]
