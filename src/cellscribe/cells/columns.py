"""Columns of obs, read as text."""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.errors import InputError

NAMES_SHOWN = 8


def text_column(obs: pd.DataFrame, name: str, flag: str, source: str) -> npt.NDArray[np.object_]:
    """Texts of a column, "" where missing.

    Parameters
    ----------
    obs
        Of the cells.
    name
        Of the column.
    flag
        Of the command line, that named it.
    source
        What to call the cells in a refusal.

    Raises
    ------
    InputError
        There is no such column, or more than one.
    """
    there = [str(column) for column in obs.columns]
    if name not in there:
        near = (
            difflib.get_close_matches(name, there, NAMES_SHOWN, cutoff=0.4) or there[:NAMES_SHOWN]
        )
        more = f"; near it: {', '.join(near)}" if near else "; it has no columns"
        raise InputError(f"{source}: obs has no column {name!r} ({flag}){more}")
    values = obs[name]
    if isinstance(values, pd.DataFrame):
        raise InputError(f"{source}: obs has several columns {name!r} ({flag}); rename one")
    texts = values.astype(object).where(values.notna(), "")
    return np.array([str(text).strip() for text in texts], dtype=object)
