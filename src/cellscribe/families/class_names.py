"""Names of a published classifier's classes: of its configuration, or of a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellscribe.errors import InputError
from cellscribe.families.source import Source, first_line
from cellscribe.families.unpickle import read_pickle

FIX = (
    "give --labels FILE, a list of names in the order of the classes or a table of number and name"
)
MOST = 1 << 16
"""Classes."""


def class_names(
    n_classes: int, stated: Any, path: Path | None, where: str
) -> tuple[list[str], list[str]]:
    """Find the names of classes, and what a user must know of them.

    Parameters
    ----------
    n_classes
        How many there are.
    stated
        What a configuration says, as ``id2label``; None if it says nothing.
    path
        A file, ``.json`` or ``.pkl``, which wins.
    where
        Name of the configuration in messages.

    Returns
    -------
    names
        In the order of the classes.
    notes
        Of names that are numbers only.

    Raises
    ------
    InputError
        The names are not those of so many classes, or two are the same.
    """
    notes: list[str] = []
    if path is not None:
        is_pickle = Path(path).suffix in (".pkl", ".pickle")
        stated = read_pickle(path) if is_pickle else Source(Path(path)).json(Path(path))
        where = str(path)
    names = None if stated is None else _names(stated, where)
    if names is None:
        names = [f"LABEL_{number}" for number in range(n_classes)]
    if len(names) != n_classes:
        raise InputError(
            f"{where}: names {len(names):,} classes, the weights have {n_classes:,}; {FIX}"
        )
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise InputError(f"{where}: a class has no name, or two have the same; {FIX}")
    if names == [f"LABEL_{number}" for number in range(n_classes)]:
        notes.append(f"the files do not name the classes: they are LABEL_0, LABEL_1, ...; {FIX}")
    return names, notes


def uncalibrated(of: str, labels: list[str]) -> str:
    """What a user must know of the probabilities of an imported classifier."""
    return (
        f"a classifier of {of} with {len(labels):,} labels; its probabilities are as trained, "
        "nothing was held out to calibrate them, and no threshold makes any unknown"
    )


def _names(stated: Any, where: str) -> list[str]:
    """Names in order, of a list, of number -> name, or of name -> number."""
    if isinstance(stated, np.ndarray) and stated.ndim == 1:
        stated = stated.tolist()
    if isinstance(stated, list | tuple):
        return [_text(name, where) for name in stated]
    if not isinstance(stated, Mapping) or len(stated) > MOST:
        raise InputError(f"{where}: holds a {type(stated).__name__}; {FIX}")
    pairs = [(_number(key), value) for key, value in stated.items()]
    if any(number is None for number, _ in pairs):
        pairs = [(_number(value), key) for key, value in stated.items()]
    numbered = {number: name for number, name in pairs if number is not None}
    if sorted(numbered) != list(range(len(stated))):
        raise InputError(f"{where}: its classes are not numbered from 0 on, each once; {FIX}")
    return [_text(numbered[number], where) for number in range(len(numbered))]


def _number(value: Any) -> int | None:
    """A class's number, also as JSON's keys write it."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 7 else None
    return int(value) if isinstance(value, int | np.integer) and value is not True else None


def _text(name: Any, where: str) -> str:
    if not isinstance(name, str | int | np.integer) or isinstance(name, bool):
        raise InputError(f"{where}: {first_line(repr(name))} is no name of a class; {FIX}")
    return str(name).strip()
