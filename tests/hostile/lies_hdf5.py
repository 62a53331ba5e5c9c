"""Structured lies in HDF5 files: a whole file that says what is not so.

Bytes that are damaged at random mostly fail in HDF5 itself; these get past it, to our own code.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Lie = Callable[[h5py.File, random.Random, Path], str]
"""``(file open for writing, generator, decoy)``; tells the file's lie and says which."""

SIZES = (2**28, 2**31 - 1, 2**31, 2**33, 2**40)
VALUES: tuple[Any, ...] = (
    0, -1, 3, 2**40, 2**63 - 1, 0.5, float("nan"), float("inf"), True, "", "x", "\x1b[31mred",
    "x" * 60_000, b"\xff\xfe", b"csr_matrix", np.zeros(0), np.zeros((2, 2)), np.array([1, 2, 3]),
    np.array([np.nan, np.nan]), np.array([-1, -1]), np.array([2**40, 2**40]),
    np.array([20.5, 200.5]), np.array([b"a", b"b"]), h5py.Empty("f8"),
)  # fmt: skip


def _objects(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return sorted(found)


def _dataset(file: h5py.File, rng: random.Random) -> str:
    return rng.choice([name for name in _objects(file) if isinstance(file[name], h5py.Dataset)])


def _replace(file: h5py.File, name: str, values: Any, **more: Any) -> None:
    """Put another dataset in a dataset's place, its attributes kept."""
    kept = {key: file[name].attrs[key] for key in file[name].attrs}
    del file[name]
    if isinstance(values, np.ndarray) and values.dtype.kind == "O" and "dtype" not in more:
        more["dtype"] = h5py.string_dtype()
    file.create_dataset(name, data=values, **more)
    for key, value in kept.items():
        file[name].attrs[key] = value


def attribute(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Give an attribute another value, of any type; or take it away."""
    places = [(n, key) for n in ["/", *_objects(file)] for key in file[n].attrs]
    if not places:
        return missing(file, rng, decoy)
    name, key = rng.choice(places)
    if rng.random() < 0.2:
        del file[name].attrs[key]
        return f"no attribute {key} of {name}"
    value = rng.choice(VALUES)
    file[name].attrs[key] = value
    return f"attribute {key} of {name} is {str(value)[:20]!r}"


def shape(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Claim another shape of a matrix, where a format stores one."""
    keys = ("shape", "h5sparse_shape")
    places = [(n, key) for n in _objects(file) for key in file[n].attrs if key in keys]
    held = [n for n in _objects(file) if n.endswith("/shape")]
    if not places and not held:
        return dataset_size(file, rng, decoy)
    old = np.asarray(file[held[0]][()] if held else file[places[0][0]].attrs[places[0][1]])
    lies = [
        old + rng.choice((-1, 1, 3)), -old, old[::-1], old * 0, old * 2**30, old + 0.5,
        np.full(2, np.nan), old[:1], np.append(old, 1), np.array([b"20", b"200"]), old[0],
        np.array([rng.choice(SIZES), old[1]]), np.array([old[0], rng.choice(SIZES)]),
    ]  # fmt: skip
    lie = rng.choice(lies)
    if held:
        _replace(file, held[0], lie)
        return f"{held[0]} is {lie}"
    name, key = rng.choice(places)
    file[name].attrs[key] = lie
    return f"{key} of {name} is {lie}"


def missing(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Take something away."""
    name = rng.choice(_objects(file))
    del file[name]
    return f"no {name}"


def other_object(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Put a group where a dataset should be, or the other way round."""
    name = rng.choice(_objects(file))
    group = isinstance(file[name], h5py.Group)
    kept = dict(file[name].attrs)
    del file[name]
    if group:
        file[name] = rng.choice((np.float64(1), np.arange(20), np.array([b"a"] * 20)))
    else:
        file.create_group(name)
    for key, value in kept.items():
        file[name].attrs[key] = value
    return f"{name} is {'a dataset' if group else 'a group'}"


def dataset_type(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Store a dataset in a type that it should not have."""
    name = _dataset(file, rng)
    old = np.asarray(file[name][()])
    size = max(old.size, 1)
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("float of .5", lambda: _numbers(old) + 0.5),
        ("NaN", lambda: _spoilt(old, rng, np.nan)),
        ("infinite", lambda: _spoilt(old, rng, np.inf)),
        ("text", lambda: np.array([b"7"] * size)),
        ("complex", lambda: _numbers(old).astype(np.complex128)),
        ("bool", lambda: _numbers(old).astype(bool)),
        ("int8", lambda: _numbers(old).astype(np.int8)),
        ("big-endian", lambda: _numbers(old).astype(">i4")),
        ("pairs", lambda: np.zeros(size, [("a", "i4"), ("b", "S3")])),
        ("objects", lambda: np.array(["\x1b[2Jx"] * size, dtype=h5py.string_dtype())),
    ]
    told, make = rng.choice(kinds)
    with np.errstate(all="ignore"):
        _replace(file, name, make())
    return f"{name} as {told}"


def dataset_values(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Store one value that cannot be: negative, far too large, out of bounds."""
    name = _dataset(file, rng)
    old = np.atleast_1d(np.asarray(file[name][()])).copy()
    if old.dtype.kind not in "iuf" or not old.size:
        return dataset_type(file, rng, decoy)
    flat = old.reshape(-1)
    value = rng.choice((-1, 200, 201, 2**31 - 1, 2**31, -(2**31), 2**62, 10**6))
    wide = flat.astype(np.float64 if old.dtype.kind == "f" else np.int64)
    wide[rng.randrange(wide.size)] = value
    _replace(file, name, wide.reshape(old.shape))
    return f"a value of {name} is {value}"


def dataset_size(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Claim a size that is not there; nothing of it is stored."""
    name = _dataset(file, rng)
    old = file[name]
    size, kept = rng.choice(SIZES), dict(old.attrs)
    dtype, dims = old.dtype, max(old.ndim, 1)
    del file[name]
    grown = tuple(size if axis == rng.randrange(dims) else 64 for axis in range(dims))
    file.create_dataset(
        name,
        shape=grown,
        dtype=dtype,
        chunks=tuple(min(1024, each) for each in grown),
        compression=rng.choice((None, "gzip")),
    )
    for key, value in kept.items():
        file[name].attrs[key] = value
    return f"{name} claims {grown}"


def dataset_length(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Make a dataset a little shorter or longer, empty, scalar or of two axes."""
    name = _dataset(file, rng)
    old = np.atleast_1d(np.asarray(file[name][()]))
    lies = {
        "shorter": old[: -rng.randint(1, 3)],
        "longer": np.concatenate([old, old[: rng.randint(1, 3)]]),
        "empty": old[:0],
        "a scalar": old.reshape(-1)[0] if old.size else old,
        "of one more axis": old[None],
        "reversed": old[::-1],
    }
    how = rng.choice(sorted(lies))
    _replace(file, name, lies[how])
    return f"{name} is {how}"


def link(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Put a link where an object should be: to nowhere, in a circle, to another file."""
    name = rng.choice(_objects(file))
    parent = name.rpartition("/")[0] or "/"
    above = file[parent]
    lies: dict[str, Any] = {
        "to nowhere": h5py.SoftLink("/nowhere"),
        "to itself": h5py.SoftLink(f"/{name}"),
        "to a file that is none": h5py.ExternalLink(str(decoy), "/X"),
        "to a file that is not there": h5py.ExternalLink("/nowhere/x.h5", "/X"),
        "to its parent": above,
    }
    how = rng.choice(sorted(lies))
    del file[name]
    file[name] = lies[how]
    return f"{name} is a link {how}"


def external_storage(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Keep a dataset's bytes in another file, which lies outside."""
    name = _dataset(file, rng)
    old = np.atleast_1d(np.asarray(file[name][()]))
    if old.dtype.kind not in "iuf":
        return link(file, rng, decoy)
    kept = dict(file[name].attrs)
    del file[name]
    where = [(str(decoy), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(name, shape=old.shape, dtype=old.dtype, external=where)
    for key, value in kept.items():
        file[name].attrs[key] = value
    return f"{name} is kept in another file"


def shuffled(file: h5py.File, rng: random.Random, decoy: Path) -> str:
    """Put the values of a dataset in another order: row pointers that fall, genes unsorted."""
    name = _dataset(file, rng)
    old = np.atleast_1d(np.asarray(file[name][()]))
    order = list(range(len(old)))
    rng.shuffle(order)
    _replace(file, name, old[order])
    return f"{name} in another order"


LIES: dict[str, Lie] = {
    each.__name__: each
    for each in (
        attribute, shape, missing, other_object, dataset_type, dataset_values, dataset_size,
        dataset_length, link, external_storage, shuffled,
    )
}  # fmt: skip


def _numbers(old: np.ndarray) -> np.ndarray:
    return old.astype(np.float64) if old.dtype.kind in "iufb" else np.zeros(max(old.size, 1))


def _spoilt(old: np.ndarray, rng: random.Random, value: float) -> np.ndarray:
    new = np.atleast_1d(_numbers(old)).copy()
    if new.size:
        new.reshape(-1)[rng.randrange(new.size)] = value
    return new


def tell(path: Path, name: str, rng: random.Random, decoy: Path) -> str:
    """Tell one lie in a file, in place; says which."""
    with h5py.File(path, "r+") as file:
        try:
            return f"{name}: {LIES[name](file, rng, decoy)}"
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            # a lie that this file cannot hold: by then a part of it is gone
            return f"{name}: {type(error).__name__} half way"
