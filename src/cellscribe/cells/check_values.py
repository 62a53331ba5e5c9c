"""The check of every block: whether its values are what the user says they are.

A log-normalised matrix gives plausible and wrong embeddings. So by default only whole numbers from
0 to 2**31 - 1 pass, in any numeric type; ``counts="fractional"`` and ``"tpm"`` let others through,
and still refuse what `value_kinds` tells to be something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import csr_matrix

from cellscribe.cells.value_kinds import SENTENCES, Kind, Sample, sample_cells, tell_kind
from cellscribe.config import CountsKind
from cellscribe.errors import InputError

Array = npt.NDArray[Any]
Advise = Callable[[], str]

LARGEST = 2**31 - 1
"""Real counts are far smaller; a larger value is an overflow or a fill value."""
BLOCK_CELLS = 64
"""Cells of each block whose values are judged, where they need not be whole."""
GIVE = "give the raw counts, in X or in a layer named with --layer"
FRACTIONAL = "corrected or estimated counts (SoupX, alevin, RSEM) as they are: --counts fractional"
TPM = "bulk or TPM values that have no counts: --counts tpm"
WANTED: dict[CountsKind, str] = {
    "raw": "raw counts",
    "fractional": "fractional counts",
    "tpm": "TPM or the like",
}
"""What a matrix has to hold."""
REFUSED: dict[CountsKind, tuple[Kind, ...]] = {
    "raw": ("fractional", "normalised", "logarithms", "roots"),
    "fractional": ("normalised", "logarithms", "roots"),
    "tpm": ("logarithms", "roots"),
}


@njit(cache=True, nogil=True)
def _all_within(values: Array, largest: float, whole: bool) -> bool:
    bad = 0
    for at in range(values.size):
        value = values[at]
        # written so that NaN fails
        good = value >= 0 and value <= largest
        bad += not (good and (not whole or value == np.floor(value)))
    return bad == 0


def are_counts(values: Array, *, whole: bool = True) -> bool:
    """Tell whether all values are from 0 to `LARGEST`, and whole numbers where `whole` says so."""
    if values.size == 0 or values.dtype.kind == "b":
        return True
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "f":
        return bool(_all_within(values, float(LARGEST), whole))
    # one pass over signed integers: negative ones are the largest when read as unsigned
    unsigned = values.view(f"u{values.dtype.itemsize}")
    return int(unsigned.max()) <= min(LARGEST, int(np.iinfo(values.dtype).max))


def check_counts(
    block: csr_matrix,
    *,
    name: str,
    layer: str,
    first_row: int,
    kind: CountsKind = "raw",
    judge: bool = True,
    advise: Advise = str,
) -> None:
    """Raise unless the values of a block are what `kind` says.

    Parameters
    ----------
    block
        Cells x genes.
    name, layer
        Names of the file and the matrix, for the message.
    first_row
        Row of the file that is the block's first.
    kind
        What the user says that the values are.
    judge
        Look whether values that need not be whole are normalised.
    advise
        Makes a sentence on another layer that looks right, or "".

    Raises
    ------
    InputError
        A value is NaN or infinite, negative, above 2**31 - 1, or, of raw counts, fractional. The
        message names it, its cell, and what the matrix seems to hold. Of other kinds: the values
        are normalised or logarithms.
    """
    values = block.data
    if not are_counts(values, whole=kind == "raw"):
        bad, what, fix = _judge(block, advise())
        at = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(block.indptr, at, side="right")) - 1
        raise InputError(
            f"{name}: {layer} holds {what}, not {WANTED[kind]} ({values[at]:.6g} in cell "
            f"{first_row + row}, gene {block.indices[at]}, counted from 0); {fix}"
        )
    if judge and kind != "raw" and values.dtype.kind == "f":
        check_kind(
            sample_cells(block.indptr, values, BLOCK_CELLS),
            kind,
            name=name,
            layer=layer,
            advise=advise,
            spread=False,
        )


def check_kind(
    sample: Sample,
    kind: CountsKind,
    *,
    name: str,
    layer: str,
    advise: Advise = str,
    spread: bool = True,
) -> None:
    """Raise if values that need not be whole are another kind than `kind` says.

    Parameters
    ----------
    sample, kind, name, layer, advise
        As for `check_counts`; the sample has some of the cells.
    spread
        The cells are from all over the matrix, so that all rules hold.

    Raises
    ------
    InputError
        They are normalised, logarithms or square roots.
    """
    found = tell_kind(sample, whole_sample=spread) if sample.cells else "counts"
    if found not in REFUSED[kind]:
        return
    fix = advise() or GIVE.replace(
        "raw counts", "values before that" if kind == "tpm" else "counts"
    )
    if found == "normalised":
        fix += f"; {TPM}"
    raise InputError(
        f"{name}: {layer} holds {SENTENCES[found]}, not {WANTED[kind]} (the largest of a sample is "
        f"{sample.values.max():.6g}); {fix}"
    )


def _judge(block: csr_matrix, suggestion: str) -> tuple[Array, str, str]:
    """Which values are none that any kind of counts has, what they seem to be, and what to do."""
    values = block.data
    if not (finite := np.isfinite(values)).all():
        fix = "set them to 0 if they mean no counts, or give the raw counts with --layer"
        return ~finite, "missing or infinite values", suggestion or fix
    if (bad := values < 0).any():
        return bad, "values below zero, as after scaling", suggestion or GIVE
    if (bad := values > LARGEST).any():
        return bad, "values above 2147483647, as after an overflow", suggestion or GIVE
    found = tell_kind(sample_cells(block.indptr, values))
    # a sample of the cells may be whole where others are not
    found = "fractional" if found == "counts" else found
    fix = suggestion or GIVE
    if found == "fractional":
        fix += f"; {FRACTIONAL}"
    elif found == "normalised" and not suggestion:
        fix += f"; {TPM}"
    return values != np.floor(values), SENTENCES[found], fix
