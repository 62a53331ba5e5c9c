"""A few hundred real cells to try everything on."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def sample() -> AnnData:
    """Read 700 labelled cells of 10x PBMC 3k, raw counts.

    Returns
    -------
    AnnData
        ``X`` ``[700, 14167]`` CSR uint16, ``obs["cell_type"]``; source and licence (CC BY 4.0) in
        ``uns["source"]`` and the package's NOTICE.
    """
    import anndata

    with resources.as_file(resources.files("cellscribe") / "bundled/pbmc3k_sample.h5ad") as path:
        return anndata.read_h5ad(path)
