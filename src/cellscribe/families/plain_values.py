"""Plain values that a pickle may name: Python's own, and NumPy's of a closed list of kinds."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from cellscribe.families.pickle_limits import check, distinct, put_pairs
from cellscribe.families.pickle_machine import Builder, Name, Named, Unfinished

DIMENSIONS = 16
TEXT = 1 << 16
"""Bytes of one value of a text array, at most."""
_KIND = re.compile(r"[<>=|]?(?:b1|i[1248]|u[1248]|f[248]|c8|c16|[SU]\d{1,6})")
_NDARRAY = Named("numpy.ndarray")


def encode(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Bytes that old protocols write as text."""
    check(type(text) is str and encoding in ("latin1", "latin-1"), "bytes in a strange encoding")
    return bytes(text, "latin-1")


def ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """OrderedDict, of pairs as Python 2 wrote them."""
    table: OrderedDict[Any, Any] = OrderedDict()
    if isinstance(pairs, dict):
        pairs = tuple(pairs.items())
    check(
        type(pairs) in (list, tuple)
        and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs),
        "a table of something else than pairs",
    )
    put_pairs(table, pairs, len(pairs))
    return table


def _set(kind: type, values: Any = ()) -> Any:
    check(type(values) in (list, tuple), "a set of something else than values")
    return kind(distinct(list(values)))


def _bytes(kind: type, values: Any = b"", encoding: Any = "latin1") -> Any:
    return kind(raw_bytes(values) if encoding == "latin1" else encode(values, encoding))


def _complex(real: Any, imaginary: Any) -> complex:
    check(type(real) is float and type(imaginary) is float, "a complex number of something else")
    return complex(real, imaginary)


def raw_bytes(raw: Any) -> bytes:
    """Bytes of numbers, as bytes or as the text that Python 2 wrote."""
    check(type(raw) in (bytes, bytearray, str), "numbers that are no bytes")
    return bytes(raw, "latin-1") if type(raw) is str else bytes(raw)


def dtype(kind: Any, align: Any = False, copy: Any = True) -> Unfinished:
    """Kind of numbers or texts, by its name; the state that follows may only say its byte order."""
    check(type(kind) is str and _KIND.fullmatch(kind) is not None, f"an array of kind {kind!r:.40}")
    made = np.dtype(kind)
    check(made.itemsize <= TEXT, "an array of texts that are too long")

    def finish(state: Any) -> np.dtype[Any]:
        # (version, byte order, sub-array, names, fields, bytes, alignment, flags[, metadata])
        check(type(state) is tuple and len(state) in (8, 9), "a kind of array with strange state")
        order, *nested = state[1:5]
        check(state[0] in (3, 4) and type(order) is str, "a kind of array with strange state")
        check(order in ("<", ">", "=", "|") and nested == [None] * 3, "an array of records")
        check(state[8:] in ((), (None,)), "a kind of array with data of its own")
        is_text = made.kind in "SU"
        sizes = (made.itemsize, made.alignment) if is_text else (-1, -1)
        check(state[5:7] == sizes, "a kind of array of a strange size")
        # NumPy's flags: 8 is text's, all others speak of Python objects
        check(state[7] == 0 or (is_text and state[7] == 8), "an array of Python objects")
        return made.newbyteorder("=" if order == "|" else order)

    return Unfinished(finish)


def array(raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    """Array of bytes, a kind and a shape that fit each other; it cannot be written to."""
    check(isinstance(kind, np.dtype), "an array without a kind")
    if type(shape) is int:
        shape = (shape,)
    check(
        type(shape) is tuple
        and len(shape) <= DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape),
        "an array of a strange shape",
    )
    raw = raw_bytes(raw)
    n_bytes = math.prod(shape) * kind.itemsize
    check(n_bytes == len(raw), f"an array of {n_bytes:,} bytes, of which {len(raw):,} are there")
    if kind.kind == "b":
        check(not raw.strip(b"\0\1"), "a truth value of something else than 0 and 1")
    if kind.kind == "U" and raw:
        points = np.frombuffer(raw, np.dtype("u4").newbyteorder(kind.byteorder))
        check(int(points.max()) < 0x110000, "letters that are none")
    if not kind.itemsize:
        return np.zeros(shape, kind)
    return np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any = (0,), code: Any = b"b") -> Unfinished:
    check(kind is _NDARRAY, "an array of a strange class")

    def finish(state: Any) -> np.ndarray[Any, Any]:
        check(type(state) is tuple and len(state) in (4, 5), "an array with strange state")
        shape, kind, is_fortran, raw = state[-4:]
        return array(raw, kind, shape, "F" if is_fortran is True or is_fortran == 1 else "C")

    return Unfinished(finish)


def _frombuffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    check(order in ("C", "F"), "an array in a strange order")
    return array(raw, kind, shape, order)


def _scalar(kind: Any, raw: Any = b"") -> Any:
    return array(raw, kind, (1,), "C")[0]


_NUMPY: Mapping[str, Any] = {
    "multiarray._reconstruct": Builder(_reconstruct),
    "multiarray.scalar": Builder(_scalar),
    "numeric._frombuffer": Builder(_frombuffer),
}
PLAIN: Mapping[Name, Any] = {
    ("_codecs", "encode"): Builder(encode),
    ("builtins", "bytearray"): Builder(lambda *given: _bytes(bytearray, *given)),
    ("builtins", "bytes"): Builder(lambda *given: _bytes(bytes, *given)),
    ("builtins", "complex"): Builder(_complex),
    ("builtins", "frozenset"): Builder(lambda *given: _set(frozenset, *given)),
    ("builtins", "set"): Builder(lambda *given: _set(set, *given)),
    ("collections", "Counter"): Builder(ordered),
    ("collections", "OrderedDict"): Builder(ordered),
    ("numpy", "dtype"): Builder(dtype),
    ("numpy", "ndarray"): _NDARRAY,
    **{
        (f"numpy.{core}.{name.partition('.')[0]}", name.partition(".")[2]): builder
        for core in ("core", "_core")
        for name, builder in _NUMPY.items()
    },
}
"""Names that a pickle of plain values may use, and what each stands for."""
