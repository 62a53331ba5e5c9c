"""Whether two AnnData hold the same, part by part.

anndata's own helper for this imports what its own tests need, which a user's environment lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import issparse

PARTS = ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns")


def assert_same(one: ad.AnnData, other: ad.AnnData) -> None:
    """Equal values and types in every part, names and order included."""
    _same(one.X, other.X, "X")
    for part in PARTS:
        _same(getattr(one, part), getattr(other, part), part)
    assert (one.raw is None) == (other.raw is None)
    if one.raw is not None and other.raw is not None:
        for part in ("X", "var", "varm"):
            _same(getattr(one.raw, part), getattr(other.raw, part), f"raw {part}")


def _same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, obj=where, check_exact=True)
    elif isinstance(one, Mapping):
        assert set(one) == set(other), where
        for key in one:
            _same(one[key], other[key], f"{where} {key}")
    elif issparse(one):
        assert type(one) is type(other), where
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert (one != other).nnz == 0, where
    elif isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray), where
        np.testing.assert_array_equal(one, other, strict=True, err_msg=where)
    else:
        assert type(one) is type(other) and np.all(one == other), where
