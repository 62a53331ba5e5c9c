"""A small published checkpoint of each family, and cells over its genes."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from families import (
    published_bionemo,
    published_geneformer,
    published_scbert,
    published_scfoundation,
    published_scgpt,
)
from scipy.sparse import csr_matrix

from cellscribe.families.registry import read_model
from cellscribe.model.metadata import BERTS

FAMILIES = ("geneformer", "bionemo", "scgpt", "scbert", "scfoundation")


def write(family: str, folder: Path, version: str = "V2") -> tuple[Path, Path | None]:
    """Publish a small checkpoint; what to import, and what to give as ``--genes``."""
    if family == "geneformer":
        return published_geneformer.write_published(folder, version), None
    if family == "bionemo":
        folder.mkdir(parents=True)
        return published_bionemo.write_nemo(folder / "10M.nemo"), None
    if family == "scgpt":
        return published_scgpt.write_published(folder), None
    if family == "scbert":
        return published_scbert.write_published(folder)
    return published_scfoundation.write_published(folder), None


def cells_of(model: Path, n_cells: int = 9) -> ad.AnnData:
    """Cells over the genes of an imported model, the last one empty."""
    header = read_model(model)
    names = header.table.ids if header.family in BERTS else header.table.symbols
    names = tuple(name for name in names if name[0] not in "[<")
    rng = np.random.default_rng(3)
    counts = rng.poisson(rng.gamma(0.3, 4.0, (n_cells, len(names))))
    counts[-1] = 0
    obs = pd.DataFrame(
        {"kind": list("ab" * n_cells)[:n_cells]}, index=[f"c{i}" for i in range(n_cells)]
    )
    return ad.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(names)))
