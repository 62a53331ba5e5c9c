"""Columns of obs as a page has them: classes with their names, or numbers.

Texts, bytes, booleans, dates and whole numbers of few values are classes; the most frequent come
first, and the page gives colours to those. Other numbers are numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import (
    is_bool_dtype,
    is_complex_dtype,
    is_integer_dtype,
    is_numeric_dtype,
)

from cellscribe.cells.readers.frames import text
from cellscribe.explorer.packing import Packing, codes_of

MOST_LEVELS = 65_535
"""Different values of a column of classes."""
FEW = 20
"""Whole numbers of no more different values are names, such as those of clusters and batches."""
TAILS = (0.01, 0.99)
"""Quantiles between which the colours of numbers run, so that a few large ones do not take all."""


def pack_column(name: str, values: pd.Series, packing: Packing) -> dict[str, Any] | None:
    """Pack a column.

    Parameters
    ----------
    name
        Name on the page.
    values
        One value a cell.
    packing
        Takes the numbers.

    Returns
    -------
    dict or None
        What the page needs to know of it; None if it has more than `MOST_LEVELS` classes.
    """
    kind = values.dtype
    if is_numeric_dtype(kind) and not (is_bool_dtype(kind) or is_complex_dtype(kind)):
        whole = is_integer_dtype(kind)
        if not (whole and values.nunique() <= FEW):
            return _pack_numbers(name, values, packing, whole=whole)
    return _pack_classes(name, values, packing)


def _pack_classes(name: str, values: pd.Series, packing: Packing) -> dict[str, Any] | None:
    texts = values.astype(object).map(_label, na_action="ignore")
    found, levels = pd.factorize(texts, use_na_sentinel=True)
    if len(levels) > MOST_LEVELS:
        return None
    counts = np.bincount(found[found >= 0], minlength=len(levels))
    order = sorted(range(len(levels)), key=lambda i: (-counts[i], str(levels[i])))
    place = np.empty(len(levels) + 1, np.int64)
    place[order] = np.arange(len(levels))
    place[-1] = len(levels)  # code -1: no value
    codes = place[found]
    return {
        "name": name,
        "kind": "classes",
        "levels": [str(levels[i]) for i in order],
        "data": packing.add(codes_of(codes, len(levels))),
    }


def _label(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return value.isoformat(sep=" ").removesuffix(" 00:00:00")
    return text(value)


def _pack_numbers(name: str, values: pd.Series, packing: Packing, *, whole: bool) -> dict[str, Any]:
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    return {
        "name": name,
        "kind": "numbers",
        "whole": whole,
        **scale_of(numbers),
        "data": packing.add(_stored(numbers)),
    }


def _stored(numbers: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Whole numbers as such where 32 bits hold them, others in single precision."""
    if np.isfinite(numbers).all() and len(numbers) and (numbers == np.floor(numbers)).all():
        low, high = numbers.min(), numbers.max()
        for kind in (np.uint8, np.uint16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return numbers.astype(kind)
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def scale_of(numbers: npt.NDArray[np.floating]) -> dict[str, float]:
    """Least and largest value, and the two between which colours run; zeros if there is none."""
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return dict.fromkeys(("low", "high", "from", "to"), 0.0)
    start, end = np.quantile(finite, TAILS)
    if start == end:
        start, end = finite.min(), finite.max()
    return {
        "low": float(finite.min()),
        "high": float(finite.max()),
        "from": float(start),
        "to": float(end),
    }
