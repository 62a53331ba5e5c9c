"""Damage to bytes, from a seed: what disks, networks and editors do to files of any format."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

Mutate = Callable[[bytearray, random.Random, bytes], bytearray]
"""``(bytes, generator, bytes of another file)`` to damaged bytes."""


def flip(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Flip one to eight bits."""
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return data


def overwrite(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Put a byte that breaks numbers and lengths in one place."""
    at = rng.randrange(len(data))
    data[at] = rng.choice((0x00, 0xFF, 0x7F, 0x80, 0x0A, 0x1B, 0x22))
    return data


def truncate(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def zero(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Zero a span, as a hole in a file."""
    at, size = _span(data, rng)
    data[at : at + size] = bytes(len(data[at : at + size]))
    return data


def splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Put a span of the file itself in another place of it."""
    at, size = _span(data, rng)
    to = rng.randrange(len(data))
    data[to : to + size] = data[at : at + size]
    return data


def graft(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Put a span of another file in."""
    at, size = _span(data, rng)
    start = rng.randrange(max(len(other), 1))
    piece = other[start : start + size]
    data[at : at + len(piece)] = piece
    return data


def insert(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Insert random bytes."""
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 7, 64, 1000)))
    return data


def duplicate(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Repeat a span."""
    at, size = _span(data, rng)
    data[at:at] = data[at : at + size]
    return data


def remove(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Take a span out."""
    at, size = _span(data, rng)
    del data[at : at + size]
    return data


MUTATORS: dict[str, Mutate] = {
    each.__name__: each
    for each in (flip, overwrite, truncate, zero, splice, graft, insert, duplicate, remove)
}


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    size = rng.choice((1, 4, 8, 32, 128, 512, 4096))
    return rng.randrange(len(data)), min(size, len(data))


def files_of(path: Path) -> list[Path]:
    """All files of an input, by name."""
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and each.stat().st_size)


def damage(path: Path, name: str, rng: random.Random, others: list[Path]) -> str:
    """Damage one file of an input in place; says which and how."""
    file = rng.choice(files_of(path))
    other = rng.choice(others).read_bytes() if others else b"\0"
    data = MUTATORS[name](bytearray(file.read_bytes()), rng, other)
    file.write_bytes(bytes(data))
    return f"{name} in {file.name}"
