"""Where in a folder the checkpoint is: there, or in one of its subfolders.

A clone of a repository has its models one folder down, several at times; a run of `transformers`
has ``checkpoint-500``, ``checkpoint-1000``: of these the newest is taken, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cellscribe.callbacks import Log
from cellscribe.errors import InputError
from cellscribe.families.base import Family
from cellscribe.families.registry import FAMILIES
from cellscribe.families.source import Source
from cellscribe.families.weights import SHOWN

DEEP = 2
"""Number of folders below the given one that are searched."""
MANY = 500
"""Folders that are looked at, at most."""
STEP = re.compile(r"checkpoint-([0-9]{1,12})")


def locate(source: Source, subfolder: str | None, log: Log) -> tuple[Source, Family]:
    """Find the checkpoint of a source, and the family that it belongs to.

    Parameters
    ----------
    source
        As given.
    subfolder
        The folder in it that holds the checkpoint, if a user names one.
    log
        Called with a line where one of several is taken.

    Raises
    ------
    InputError
        There is none, or several of which none is the obvious one.
    """
    if subfolder is not None:
        source = inside(source, subfolder)
    if (family := recognise(source)) is not None:
        return source, family
    if not source.is_folder:
        family = recognise(Source(source.folder))
        hint = f"; give its folder, {source.folder}" if family is not None else ""
        raise InputError(f"{_unknown(source)}{hint}")
    found = {}
    for folder in _folders(source.path, DEEP):
        if (family := recognise(Source(folder))) is not None:
            found[folder] = family
    if not found:
        raise InputError(_unknown(source))
    folders = list(found)
    names = [str(folder.relative_to(source.path)) for folder in folders]
    chosen = 0
    if len(folders) > 1:
        steps = [STEP.fullmatch(folder.name) for folder in folders]
        if not all(steps) or len({folder.parent for folder in folders}) > 1:
            raise InputError(
                f"{source.path}: holds {len(names):,} models, {_listed(names)}; choose one by "
                f"--subfolder {names[0]}"
            )
        chosen = max(range(len(steps)), key=lambda i: int(steps[i][1]))  # type: ignore[index]
        log(
            f"Taking {names[chosen]}, the newest of {len(names):,} checkpoints in {source.path} "
            "(--subfolder takes another)."
        )
    else:
        log(f"Taking {names[0]}, the one model in {source.path}.")
    return Source(folders[chosen]), found[folders[chosen]]


def inside(source: Source, subfolder: str) -> Source:
    """Folder within a source.

    Raises
    ------
    InputError
        There is none of that name, or it would lie outside.
    """
    parts = PurePosixPath(subfolder).parts
    if not parts or ".." in parts or subfolder.startswith("/"):
        raise InputError(f"--subfolder {subfolder}: give a folder within {source.path}")
    folder = source.path / subfolder
    if not source.is_folder or not folder.is_dir():
        there = [path.name for path in _folders(source.folder, 1)]
        raise InputError(
            f"{folder}: no such folder (--subfolder); {source.folder} holds "
            f"{_listed(there) or 'no folders'}"
        )
    return Source(folder)


def recognise(source: Source) -> Family | None:
    """Find the family that a source belongs to; None if to none."""
    return next((family for family in FAMILIES.values() if family.recognise(source)), None)


def _folders(folder: Path, deep: int) -> Iterator[Path]:
    """Folders within another one, the near ones first, hidden ones and links left out."""
    level = [folder]
    n_left = MANY
    for _ in range(deep):
        below = []
        for here in level:
            try:
                inner = sorted(here.iterdir())
            except OSError:
                continue  # a folder that may not be read holds no model for this user
            below += [
                path
                for path in inner
                if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()
            ]
        yield from below[:n_left]
        n_left -= len(below)
        if n_left <= 0:
            return
        level = below


def _unknown(source: Source) -> str:
    wants = "; ".join(family.WANTS for family in FAMILIES.values())
    found = ", ".join(source.names[:SHOWN]) + (", ..." if len(source.names) > SHOWN else "")
    return (
        f"{source.path}: no checkpoint of a known family ({found or 'an empty folder'}); "
        f"looked for {wants}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
