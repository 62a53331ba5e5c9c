"""Columns of numbers as one compressed text, for a browser to unpack.

The arrays lie one after the other, little-endian, each at a multiple of four bytes, deflated (zlib)
and in base64: a page may hold nothing but text. Browsers inflate by themselves
(``DecompressionStream``), so that no code is needed for it.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "f4"}
"""Types that the page reads: a letter of NumPy's and the bytes."""
LEVEL = 9
"""Of zlib: the slowest costs seconds where the map costs minutes."""


class Packing:
    """Arrays that are collected for a page."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: npt.NDArray[Any]) -> dict[str, Any]:
        """Add an array, flattened; the result says where it lies."""
        flat = np.ascontiguousarray(values).ravel()
        kind = f"{flat.dtype.kind}{flat.dtype.itemsize}"
        if kind not in KINDS:
            raise ValueError(f"no type of the page: {flat.dtype}")
        found = {"at": self._size, "n": len(flat), "type": kind}
        self._append(flat.astype(flat.dtype.newbyteorder("<")).tobytes())
        return found

    def add_texts(self, texts: list[str]) -> dict[str, Any]:
        """Add texts, as JSON."""
        content = json.dumps(texts, ensure_ascii=False).encode("utf-8", "replace")
        found = {"at": self._size, "n": len(content), "type": "json"}
        self._append(content)
        return found

    def _append(self, content: bytes) -> None:
        content += b"\0" * (-len(content) % 4)
        self._parts.append(content)
        self._size += len(content)

    def text(self) -> str:
        """Everything that was added."""
        return base64.b64encode(zlib.compress(b"".join(self._parts), LEVEL)).decode()


def codes_of(codes: npt.NDArray[np.integer], largest: int) -> npt.NDArray[np.unsignedinteger]:
    """Small whole numbers in as few bytes as the largest takes."""
    for kind in (np.uint8, np.uint16):
        if largest <= np.iinfo(kind).max:
            return codes.astype(kind)
    return codes.astype(np.uint32)
