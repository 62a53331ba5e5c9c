"""Matrix Market files: the header as NIST defines it, and the entries as a stream.

`matrix_folders` finds the tables of genes and cells that belong to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cellscribe.cells.readers import number_text
from cellscribe.cells.readers.matrices import SAMPLE, Entries
from cellscribe.cells.readers.storage import DAMAGED, Array
from cellscribe.cells.readers.text_files import (
    TEXT_ERRORS,
    line_blocks,
    most_bytes,
    open_text,
    shown,
    unreadable,
)
from cellscribe.errors import InputError

SHORTEST = 6
"""Bytes of the shortest entry, "1 1 1" and its line end."""
LONGEST = 1 << 20
"""Bytes that a line may have."""
TOO_LARGE = float(2**62)
LARGEST = 2**31 - 1
"""Rows or columns that a matrix may have."""
VELOCYTO = (
    "has three values in each line: spliced, unspliced and ambiguous counts of STARsolo's "
    "Velocyto; give the matrix of Solo.out/Gene of the same run, or write one of the three "
    "to a matrix.mtx of its own"
)


@dataclass(frozen=True, kw_only=True)
class MatrixMarket:
    """A Matrix Market file of which the header was read.

    Attributes
    ----------
    name
        Name in messages.
    shape
        Rows and columns as written.
    is_integer
        Whether the header promises whole numbers.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    n_entries: int
    is_integer: bool

    def entries(self, *, cells_first: bool, sizes: tuple[int, int]) -> Entries:
        """Open the matrix as a stream of entries.

        Parameters
        ----------
        cells_first
            Whether rows are cells; they are genes otherwise.
        sizes
            Cells and genes.
        """

        def chunks(with_values: bool) -> Iterator[tuple[Array, Array, Array]]:
            for rows, columns, values in self.triplets():
                cells, genes = (rows, columns) if cells_first else (columns, rows)
                yield cells, genes, values

        return Entries(
            shape=sizes,
            n_entries=self.n_entries,
            dtype=np.dtype(np.int64 if self.is_integer else np.float64),
            where=f"{self.name}: X",
            chunks=chunks,
            sample=lambda: next(self.triplets())[2][:SAMPLE] if self.n_entries else np.empty(0),
        )

    def triplets(self) -> Iterator[tuple[Array, Array, Array]]:
        """Parse the entries in chunks: row, column (int32, from 0), value.

        Raises
        ------
        InputError
            A line is no entry, there are more or fewer than the header says, or the file cannot
            be read.
        """
        done = 0
        try:
            file = open_text(self.path)
        except OSError as error:
            raise unreadable(self.name, error) from error
        with file:
            line = _read_head(file, self.name)[2]
            with closing(line_blocks(file, self.name, LONGEST)) as blocks:
                for block in blocks:
                    rows, columns, values, n_lines = self._parse(block, line)
                    done, line = done + len(rows), line + n_lines
                    if done > self.n_entries:
                        raise InputError(
                            f"{self.name}: more entries than the {self.n_entries:,} of its "
                            f"header; {DAMAGED}"
                        )
                    if len(rows):
                        yield rows, columns, values
        if done != self.n_entries:
            raise InputError(
                f"{self.name}: {done:,} entries, but its header says {self.n_entries:,}; {DAMAGED}"
            )

    def _parse(self, block: bytes, line: int) -> tuple[Array, Array, Array, int]:
        text = np.frombuffer(block, np.uint8)
        n_lines = number_text.count_lines(text)
        rows, columns = np.empty(n_lines, np.int32), np.empty(n_lines, np.int32)
        values, odd = np.empty(n_lines), np.empty((n_lines, 3), np.int64)
        end, n, n_odd, at, n_fields = number_text.parse_entries(
            text, *self.shape, rows, columns, values, odd
        )
        if end != number_text.WHOLE:
            raise self._fault(block, end, at, line + at, n_fields)
        for place, start, stop in odd[:n_odd]:
            value = number_text.read_odd(block[start:stop])
            if value is None:
                raise InputError(
                    f"{self.name} cannot be read: {shown(block[start:stop])!r}, a value after "
                    f"line {line:,}, is no number; {DAMAGED}"
                )
            values[place] = value
        found: Array = values[:n]
        if self.is_integer:
            if not (np.isfinite(found) & (found == np.floor(found))).all():
                raise InputError(
                    f"{self.name} holds values that are not whole numbers, though its first line "
                    "says integer; write real in that line if this is meant"
                )
            # too large for a count in any case, and told as such when blocks are checked
            found = np.clip(found, -TOO_LARGE, TOO_LARGE).astype(np.int64)
        return rows[:n], columns[:n], found, at

    def _fault(self, block: bytes, end: int, at: int, line: int, n_fields: int) -> InputError:
        lines = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n", at + 1)
        found = shown(lines[at].strip())
        if end == number_text.N_FIELDS and n_fields == 5:
            return InputError(f"{self.name} {VELOCYTO}")
        if end == number_text.OUTSIDE:
            return InputError(
                f"{self.name}: an index lies outside the {self.shape[0]:,} x {self.shape[1]:,} "
                f"of its header, counted from 1 (line {line + 1:,}: {found}); {DAMAGED}"
            )
        what = (
            f"{n_fields} fields where row, column and value are expected"
            if end == number_text.N_FIELDS
            else "a row or column that is no whole number"
        )
        return InputError(
            f"{self.name} cannot be read: line {line + 1:,} has {what} ({found}); {DAMAGED}"
        )


def read_header(path: Path, name: str) -> MatrixMarket:
    """Read the header of a Matrix Market file.

    Raises
    ------
    InputError
        It is none, is of a kind that cannot hold counts, or its sizes cannot be true.
    """
    try:
        with open_text(path) as file:
            words, sizes, _ = _read_head(file, name)
        room = most_bytes(path)
    except TEXT_ERRORS as error:
        raise unreadable(name, error) from error
    first = f"%%MatrixMarket matrix coordinate {'real' if words[3:4] == ['float'] else 'integer'}"
    if words[:2] != ["%%matrixmarket", "matrix"] or len(words) != 5:
        raise InputError(
            f"{name} is not a Matrix Market file of counts; its first line must be "
            f"'{first} general'"
        )
    _check_kind(name, *words[2:])
    if len(sizes) != 3 or not all(size.isdecimal() and len(size) < 19 for size in sizes):
        raise InputError(
            f"{name}: the line of sizes holds {shown(' '.join(sizes)) or 'nothing'!r}; "
            f"rows, columns and entries are expected; {DAMAGED}"
        )
    n_rows, n_columns, n_entries = map(int, sizes)
    if n_entries * SHORTEST - 1 > room:
        raise InputError(
            f"{name}: the header says {n_entries:,} entries, more than the file can hold; {DAMAGED}"
        )
    if max(n_rows, n_columns) > LARGEST:
        raise InputError(
            f"{name}: {n_rows:,} x {n_columns:,} is larger than any matrix of cells; {DAMAGED}"
        )
    return MatrixMarket(
        path=path,
        name=name,
        shape=(n_rows, n_columns),
        n_entries=n_entries,
        # STAR wrote float, older tools double; NIST's word is real
        is_integer=words[3] in ("integer", "unsigned-integer"),
    )


def _check_kind(name: str, layout: str, field: str, symmetry: str) -> None:
    if layout != "coordinate":
        why = "is in the dense (array) layout; write it in the coordinate layout"
    elif field == "pattern":
        why = "says where counts are but not what they are (pattern); write it with its values"
    elif field not in ("integer", "unsigned-integer", "real", "double", "float"):
        why = f"holds {shown(field)} values; counts are integer or real"
    elif symmetry != "general":
        why = (
            f"is {shown(symmetry)}, so it holds one half of a square matrix such as distances; "
            "counts of cells x genes are general"
        )
    else:
        return
    raise InputError(f"{name} {why}")


def _read_head(file: IO[bytes], name: str) -> tuple[list[str], list[str], int]:
    """Read the words of the first line and of the line of sizes, and how many lines those are."""

    def line() -> bytes:
        try:
            return file.readline(1 << 16)
        except TEXT_ERRORS as error:
            raise unreadable(name, error) from error

    words, sizes, n_lines = line().decode("latin-1").lower().split(), line(), 2
    while sizes.startswith(b"%") or sizes.isspace():
        sizes, n_lines = line(), n_lines + (sizes.endswith(b"\n"))
    return words, sizes.decode("latin-1").split(), n_lines
