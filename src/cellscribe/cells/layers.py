"""Layers of a container: found by the word that a user gives, and advised where X is not counts.

A word that is advised is the one that works when it is typed. A matrix of zeros and ones is no
evidence of counts, and is never advised.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from cellscribe.cells.check_values import are_counts
from cellscribe.cells.readers.matrices import Entries, Rows
from cellscribe.errors import InputError


def resolve_layer(layer: str | None, available: list[str], name: str) -> str:
    """Find the address ("X", "layers/...", "raw/X") of the layer that a user names.

    Raises
    ------
    InputError
        There is no such layer; the message names those that there are.
    """
    words = [layer_word(address, available) for address in available]
    if layer is None or layer == "X":
        if "X" not in available:
            fix = f"name one with --layer: {', '.join(words)}" if words else "write it with counts"
            raise InputError(f"{name} has no matrix X; {fix}")
        return "X"
    if (address := _address(layer, available)) is not None:
        return address
    raise InputError(f"{name} has no layer {layer!r}; there are {', '.join(words) or 'none'}")


def _address(word: str, available: list[str]) -> str | None:
    for candidate in (word, "raw/X" if word == "raw" else word, f"layers/{word}"):
        if candidate in available:
            return candidate
    return None


def layer_word(address: str, available: list[str]) -> str:
    """Shortest word that finds an address: "counts", or "layers/raw" next to a "raw/X"."""
    word = "raw" if address == "raw/X" else address.removeprefix("layers/")
    return word if _address(word, available) == address and word != "X" else address


def advise_layer(matrices: Mapping[str, Callable[[], Rows | Entries]], layer: str) -> str:
    """Sentence that names another layer with raw counts; "" if there is none.

    Parameters
    ----------
    matrices
        Address -> opens that matrix.
    layer
        Address of the matrix that was read.
    """
    for address in sorted((each for each in matrices if each != layer), key=_by_name):
        try:
            values = matrices[address]().sample()
        # a matrix that cannot be read is no suggestion; the error to report is another one
        except InputError:
            continue
        if values.size and values.max() > 1 and are_counts(values):
            word = shlex.quote(layer_word(address, list(matrices)))
            return f"{address} looks like raw counts: use --layer {word}"
    return ""


def _by_name(address: str) -> tuple[int, str]:
    """Order of layers that hold counts: those first whose name says that these are the raw ones."""
    name = "raw" if address == "raw/X" else address.removeprefix("layers/").lower()
    words = set(re.split(r"[^a-z0-9]+", name))
    if name == "counts":
        place = 0
    elif "raw" in words or "rawcounts" in words:
        place = 1
    elif words & {"count", "counts", "umi", "umis", "matrix"}:
        place = 2
    else:
        place = 3
    return place, address
