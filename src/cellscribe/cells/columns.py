"""Columns of obs, found by their names and read as text."""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.errors import InputError

NAMES_SHOWN = 8
"""Columns that a message lists."""
NO_LABEL_WORDS = ("", "na", "n/a", "nan", "none", "unknown", "unassigned")
"""Texts that mean "this cell has no label", in lower case; upper case means the same."""


def find_column(obs: pd.DataFrame, name: str, flag: str, source: str) -> pd.Series:
    """Find a column by its name.

    Parameters
    ----------
    obs
        Table of the cells.
    name
        Name of the column.
    flag
        Command-line flag that named the column.
    source
        Name of the cells in messages.

    Raises
    ------
    InputError
        There is no such column, or more than one.
    """
    columns = [str(column) for column in obs.columns]
    if name not in columns:
        near = difflib.get_close_matches(name, columns, NAMES_SHOWN, cutoff=0.4)
        near = near or columns[:NAMES_SHOWN]
        more = f"; near it: {', '.join(near)}" if near else "; it has no columns"
        raise InputError(f"{source}: obs has no column {name!r} ({flag}){more}")
    if columns.count(name) > 1:
        raise InputError(f"{source}: obs has several columns {name!r} ({flag}); rename one")
    # by place: a column's own name need not be a text
    return obs.iloc[:, columns.index(name)]


def text_column(obs: pd.DataFrame, name: str, flag: str, source: str) -> npt.NDArray[np.object_]:
    """Read a column as texts, "" where a value is missing.

    Numbers that are all whole come out as whole numbers, also where they are stored as floats.

    Parameters
    ----------
    obs, name, flag, source
        As for `find_column`.

    Raises
    ------
    InputError
        As `find_column`.
    """
    values = find_column(obs, name, flag, source)
    found = list(values.astype(object).where(values.notna(), ""))
    # a missing value turns a column of whole numbers into one of floats
    floats = [value for value in found if isinstance(value, float | np.floating)]
    if floats and all(value.is_integer() for value in floats):
        found = [int(value) if isinstance(value, float | np.floating) else value for value in found]
    return np.array([str(text).strip() for text in found], dtype=object)


def has_label(texts: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Find the cells that have a label, ``[B]``.

    Parameters
    ----------
    texts
        ``[B]`` from `text_column`.
    """
    return ~np.isin([text.lower() for text in texts], NO_LABEL_WORDS)
