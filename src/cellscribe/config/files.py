"""Small text files, read within bounds: regular files only, of a bounded size, UTF-8, JSON.

What is read back from a disk may be damaged, or made by somebody else. A pipe or a device in a
file's place would be waited for without end, and JSON may nest until Python's stack is full, hold
numbers that are none (NaN, 1e999) or two values under one key: all of that is refused in one line.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError

MOST_BYTES = 64 << 20
"""Of a text file; 65,536 genes take 4 MB, the manifest of a corpus of 100 million cells 3 MB."""
MOST_DEPTH = 32
"""Of tables and lists within each other."""


def check_file(path: Path, *, fix: str, most: int | None = None) -> int:
    """Refuse what is not a regular file, without opening it; return its size in bytes.

    Parameters
    ----------
    path
        The file, or a link to one.
    fix
        End of the message: what to do.
    most
        Largest size in bytes.

    Raises
    ------
    InputError
        There is nothing, a folder, a pipe, a link that leads nowhere or in a circle, or the file
        is too large.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {fix}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); {fix}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise InputError(f"{path}: cannot be read (it is {what}); {fix}")
    if most is not None and found.st_size > most:
        raise InputError(
            f"{path}: {found.st_size:,} bytes where at most {most:,} are expected, so it is not "
            f"such a file; {fix}"
        )
    return found.st_size


def read_bytes(path: Path, *, fix: str, most: int = MOST_BYTES) -> bytes:
    """Read a whole file, see `check_file`.

    Raises
    ------
    InputError
        It is no regular file, too large, or cannot be read.
    """
    size = check_file(path, fix=fix, most=most)
    try:
        with path.open("rb") as file:
            return file.read(size)  # of a bound it would hold all at once, whatever is there
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {fix}") from None


def read_text(path: Path, *, fix: str, most: int = MOST_BYTES) -> str:
    """Read a whole text file, see `read_bytes`.

    Raises
    ------
    InputError
        See `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, fix=fix, most=most).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file (UTF-8); {fix}") from None


def read_json(path: Path, *, fix: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a file that is one JSON table.

    Raises
    ------
    InputError
        See `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, fix=fix, most=most), str(path), fix=fix)


def parse_json(text: str | bytes, where: str, *, fix: str) -> dict[str, Any]:
    """Parse a JSON table.

    Raises
    ------
    InputError
        It is not JSON, no table, names a key twice, nests too deep, or holds a number or a text
        that is none (NaN, infinity, half a surrogate pair).
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
        if not isinstance(value, dict):
            raise ValueError("not a table")
        for each in _leaves(value):
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"{each} is no number")
            if isinstance(each, str) and not each.isascii():
                each.encode()
    except RecursionError:
        raise InputError(f"{where}: damaged (tables nest too deep); {fix}") from None
    except UnicodeError:
        raise InputError(f"{where}: damaged (a text is not Unicode); {fix}") from None
    except ValueError as error:
        raise InputError(f"{where}: damaged JSON ({error}); {fix}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return table


def _leaves(value: Any) -> Iterator[Any]:
    """Yield keys and values that hold no others; without recursion.

    Raises
    ------
    RecursionError
        Tables or lists nest deeper than `MOST_DEPTH`.
    """
    waiting = [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if not isinstance(each, dict | list):
            yield each
            continue
        if depth > MOST_DEPTH:
            raise RecursionError
        if isinstance(each, dict):
            yield from each
        parts = each.values() if isinstance(each, dict) else each
        waiting += [(part, depth + 1) for part in parts]
