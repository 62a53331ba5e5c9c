"""Numbers in text, parsed by compiled loops.

`parse_entries` reads lines of row, column and value, `parse_table` lines of a table of which only
the values that are not zero are kept. A number of up to 15 digits is computed exactly as Python's
`float` does (Clinger, PLDI 1990: a whole number below 2**53, times or over a power of ten up to
10**22, is rounded once); the places of all others are handed back for `read_odd`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

WHOLE, N_FIELDS, BAD_INDEX, OUTSIDE = 0, 1, 2, 3
"""How `parse_entries` and `parse_table` end: well, or why not."""
_POWERS = np.array([10.0**k for k in range(23)])
_NUMBER = re.compile(
    rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)
_EXACT = 9_007_199_254_740_992


def read_odd(field: bytes) -> float | None:
    """Read a number that the loops left; None for what is no number."""
    field = field.strip(b' "')
    return float(field) if len(field) < 400 and _NUMBER.fullmatch(field) else None


@njit(cache=True, nogil=True)
def _number(text: Array, start: int, end: int) -> tuple[bool, float]:
    """Parse a field; False where it must be left to `read_odd`."""
    at, minus = start, False
    if at < end and (text[at] == 45 or text[at] == 43):
        minus = text[at] == 45
        at += 1
    whole, digits, significant, exponent, zeros, after_point = 0, 0, 0, 0, 0, False
    while at < end:
        byte = text[at]
        if byte == 46 and not after_point:
            after_point = True
        elif byte == 48 and after_point:
            # SciPy writes 3.000000000000000e+00: zeros count when another digit follows them
            zeros, digits = zeros + 1, digits + 1
        elif 48 <= byte <= 57:
            significant += zeros + 1 if whole or byte != 48 else 0
            if significant > 18:
                return False, 0.0
            exponent -= zeros + after_point
            for _ in range(zeros if whole else 0):
                whole *= 10
            whole = whole * 10 + (byte - 48)
            zeros, digits = 0, digits + 1
        else:
            break
        at += 1
    if digits == 0 or whole > _EXACT:
        return False, 0.0
    if at < end:
        if text[at] != 101 and text[at] != 69:
            return False, 0.0
        at += 1
        below = False
        if at < end and (text[at] == 45 or text[at] == 43):
            below = text[at] == 45
            at += 1
        power, first = 0, at
        while at < end and 48 <= text[at] <= 57 and at - first < 4:
            power = power * 10 + (text[at] - 48)
            at += 1
        if at < end or at == first:
            return False, 0.0
        exponent += -power if below else power
    if exponent < -22 or exponent > 22:
        return False, 0.0
    value = float(whole)
    if exponent > 0:
        value *= _POWERS[exponent]
    elif exponent < 0:
        value /= _POWERS[-exponent]
    return True, -value if minus else value


@njit(cache=True, nogil=True)
def _index(text: Array, start: int, end: int) -> int:
    """Parse a whole number of up to 18 digits; -1 for anything else."""
    if end - start > 18 or end == start:
        return -1
    value = 0
    for at in range(start, end):
        byte = text[at]
        if byte < 48 or byte > 57:
            return -1
        value = value * 10 + (byte - 48)
    return value


@njit(cache=True, nogil=True)
def parse_entries(
    text: Array,
    n_rows: int,
    n_columns: int,
    rows: Array,
    columns: Array,
    values: Array,
    odd: Array,
) -> tuple[int, int, int, int, int]:
    """Parse lines of row, column (both from 1) and value, divided by any white space.

    Parameters
    ----------
    text
        uint8, whole lines.
    rows, columns, values
        Filled: int32 (from 0), int32, float64; one place for each line.
    odd
        Filled: ``[lines, 3]`` int64, the entry, start and end of values for `read_odd`.

    Returns
    -------
    How it ended; entries; odd values; line of the fault, from 0; its number of fields.
    """
    at, size, n_entries, n_odd, line = 0, text.size, 0, 0, 0
    starts, ends = np.zeros(3, np.int64), np.zeros(3, np.int64)
    while at < size:
        n_fields = 0
        while at < size and text[at] != 10 and text[at] != 13:
            if text[at] == 32 or text[at] == 9:
                at += 1
                continue
            start = at
            while at < size and text[at] > 32:
                at += 1
            if at == start:
                at += 1
            if n_fields < 3:
                starts[n_fields], ends[n_fields] = start, at
            n_fields += 1
        if n_fields == 3:
            row = _index(text, starts[0], ends[0])
            column = _index(text, starts[1], ends[1])
            if row < 0 or column < 0:
                return BAD_INDEX, n_entries, n_odd, line, n_fields
            if row < 1 or row > n_rows or column < 1 or column > n_columns:
                return OUTSIDE, n_entries, n_odd, line, n_fields
            rows[n_entries], columns[n_entries] = row - 1, column - 1
            right, value = _number(text, starts[2], ends[2])
            values[n_entries] = value
            if not right:
                odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = n_entries, starts[2], ends[2]
                n_odd += 1
            n_entries += 1
        elif n_fields:
            return N_FIELDS, n_entries, n_odd, line, n_fields
        if at + 1 < size and text[at] == 13 and text[at + 1] == 10:
            at += 1
        at += 1
        line += 1
    return WHOLE, n_entries, n_odd, line, 0


@njit(cache=True, nogil=True)
def count_lines(text: Array) -> int:
    """Count the line ends of a block, and one more."""
    n = 1
    for at in range(text.size):
        n += text[at] == 10 or (text[at] == 13 and (at + 1 == text.size or text[at + 1] != 10))
    return n


@njit(cache=True, nogil=True)
def count_filled(text: Array, delimiter: int) -> int:
    """Bound the fields of a block that are not just "0"."""
    n, start = 1, 0
    for at in range(text.size):
        byte = text[at]
        if byte == delimiter or byte == 10 or byte == 13:
            n += not (at - start == 1 and text[start] == 48)
            start = at + 1
    return n


@njit(cache=True, nogil=True)
def parse_table(
    text: Array,
    delimiter: int,
    place: Array,
    lines: Array,
    columns: Array,
    values: Array,
    names: Array,
    odd: Array,
) -> tuple[int, int, int, int, int]:
    """Parse lines of a table.

    Parameters
    ----------
    text
        uint8, whole lines.
    place
        ``[fields of a line]`` int64: the column of a number, -1 for a field that is left out,
        ``-2 - k`` for the k-th name.
    lines, columns, values
        Filled with the values that are not zero: int32 (from 0), int32, float64.
    names
        Filled: ``[lines, names of a line, 2]`` int64, start and end of each name.
    odd
        Filled: ``[values, 4]`` int64, the value, start, end and field of those for `read_odd`.

    Returns
    -------
    How it ended; values; odd values; lines; fields of the last line.
    """
    at, size, n_values, n_odd, line = 0, text.size, 0, 0, 0
    while at < size:
        if text[at] == 10 or text[at] == 13:
            at += 1
            continue
        n_fields, more = 0, True
        while more:
            start = at
            quoted = at < size and text[at] == 34
            if quoted:
                at += 1
                while at < size and not (text[at] == 34 and (at + 1 == size or text[at + 1] != 34)):
                    # a quote within quotes is written twice
                    at += 2 if text[at] == 34 else 1
            while at < size and text[at] != delimiter and text[at] != 10 and text[at] != 13:
                at += 1
            if n_fields >= place.size:
                return N_FIELDS, n_values, n_odd, line, n_fields + 1
            to = place[n_fields]
            if to >= 0:
                if quoted and at - start >= 2 and text[at - 1] == 34:
                    right, value = _number(text, start + 1, at - 1)
                else:
                    right, value = _number(text, start, at)
                if not right:
                    odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = n_values, start, at
                    odd[n_odd, 3] = n_fields
                    n_odd += 1
                if value != 0 or not right:
                    lines[n_values], columns[n_values] = line, to
                    values[n_values] = value
                    n_values += 1
            elif to <= -2:
                names[line, -2 - to, 0], names[line, -2 - to, 1] = start, at
            n_fields += 1
            more = at < size and text[at] == delimiter
            if more:
                at += 1
        if n_fields != place.size:
            return N_FIELDS, n_values, n_odd, line, n_fields
        line += 1
    return WHOLE, n_values, n_odd, line, 0
