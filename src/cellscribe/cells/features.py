"""Which features of a file are genes: antibodies, guides and peaks stand in the same tables.

An antibody may bear the name of a gene, and must never be counted as one. Features that are not
gene expression are left out, and a log line says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.cells.symbols import as_text
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

GENE_EXPRESSION = "Gene Expression"


def genes_only(var: pd.DataFrame, name: str, log: Log) -> npt.NDArray[np.bool_] | None:
    """Mark the gene-expression features; None if there is nothing else.

    Raises
    ------
    InputError
        Not one feature is gene expression.
    """
    if "feature_types" not in var:
        return None
    keep = (var["feature_types"] == GENE_EXPRESSION).to_numpy()
    if keep.all():
        return None
    kinds = ", ".join(sorted(set(var["feature_types"][~keep])))
    if not keep.any():
        raise InputError(
            f"{name} has no features of type {GENE_EXPRESSION!r}, only {kinds}; "
            "give the gene-expression matrix"
        )
    log(f"{name}: {int((~keep).sum()):,} features left out that are not genes ({kinds})")
    return keep


def not_genes(var: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Mark antibodies, guides and peaks of 10x: an antibody may bear a gene's name."""
    for key in ("feature_types", "feature_type"):
        if key in var.columns:
            types = np.array([as_text(value) for value in var[key]], dtype=object)
            if (types == "Gene Expression").any():
                return np.asarray(types != "Gene Expression", dtype=np.bool_)
    return np.zeros(len(var), dtype=np.bool_)
