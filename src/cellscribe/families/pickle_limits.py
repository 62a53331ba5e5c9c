"""Limits on what a pickle may build: keys that hash quickly, and results of bounded extent.

Hash, comparison and copies of nested values recurse in C, or take time without end where parts are
shared; nothing here does.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

KEY_BITS = 64
KEY_PARTS = 32
"""Values in a tuple that is a key, at most."""
KEY_DEPTH = 3
DEPTH = 64
"""Containers within each other, at most."""
VALUES = 50_000_000
"""Values of a result, at most, a shared part counted as often as it stands there."""
_LEAVES = frozenset({str, bytes, float, bool, type(None)})


class Damaged(pickle.UnpicklingError):
    """A pickle that no program wrote as it stands."""


@dataclass(eq=False)
class Record:
    """An object of a class that is not built: the class's name, and its state once it is there."""

    kind: str
    fields: Any = None


def check(fine: bool, what: str) -> None:
    """Raise `Damaged` unless something holds."""
    if not fine:
        raise Damaged(what)


_CONTAINERS = (list, tuple, dict, set, frozenset, Record)


def check_extent(value: Any) -> None:
    """Refuse values that are nested too deep, hold themselves, or multiply by shared parts."""
    # size and depth of finished containers; None while one is being gone through
    known: dict[int, tuple[int, int] | None] = {}
    trail: list[tuple[Any, Iterator[Any], int, int]] = []
    if isinstance(value, _CONTAINERS):
        known[id(value)] = None
        trail.append((value, _parts(value), 1, 0))
    while trail:
        owner, parts, size, depth = trail.pop()
        for part in parts:
            if not isinstance(part, _CONTAINERS):
                size += 1
                continue
            if id(part) not in known:
                known[id(part)] = None
                check(len(trail) < DEPTH, f"values nested more than {DEPTH} deep")
                # the owner goes on with this part, then seen, and after it
                trail.append((owner, _before(part, parts), size, depth))
                trail.append((part, _parts(part), 1, 0))
                break
            seen = known[id(part)]
            if seen is None:
                raise Damaged("a value that holds itself")
            size, depth = size + seen[0], max(depth, seen[1])
            check(size <= VALUES, "shared parts that make more values than fit")
        else:
            check(depth < DEPTH, f"values nested more than {DEPTH} deep")
            known[id(owner)] = (size, depth + 1)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Record):
        return iter((value.fields,))
    # keys are short, see `_check_key`
    return iter(value.values()) if isinstance(value, dict) else iter(value)


def _before(part: Any, parts: Iterator[Any]) -> Iterator[Any]:
    yield part
    yield from parts


def distinct(values: list[Any]) -> list[Any]:
    """Values that may be members of a set."""
    for value in values:
        _check_key(value)
    return values


def put_pairs(table: Any, pairs: Iterable[tuple[Any, Any]], n: int) -> None:
    """Put ``n`` pairs into a dictionary that has none of their keys."""
    before = len(table)
    for key, value in pairs:
        if type(key) is not str:
            _check_key(key)
        table[key] = value
    check(len(table) == before + n, "a key that stands twice")


def _check_key(key: Any, depth: int = 0) -> None:
    """Refuse keys that take long to hash, or that a file can make alike by the thousand."""
    kind = type(key)
    if kind in _LEAVES:
        return
    if kind is int:
        check(key.bit_length() <= KEY_BITS, "a key of too many digits")
    elif kind is tuple:
        check(len(key) <= KEY_PARTS and depth < KEY_DEPTH, "a key of too many parts")
        for part in key:
            _check_key(part, depth + 1)
    else:
        check(isinstance(key, np.generic) and key.dtype.kind in "biufSU", "a key of a strange kind")
