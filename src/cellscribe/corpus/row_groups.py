"""Decode row groups of token files, the unit that a reader loads.

Several threads can read at a time, the number of open files is bounded, and an error says in one
line why a file cannot be read. Files are read, not memory-mapped: a file that is cut short while it
is read is then an error, not the end of the process.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMNS = ["cell", "input_ids"]
OPEN_FILES = 64
"""Largest number of open token files; to open one takes a tenth of decoding a row group."""


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Decoded cells: ``[N]`` tokens, ``[B + 1]`` offsets of the cells, ``[B]`` cell numbers."""

    tokens: npt.NDArray[np.uint16]
    offsets: npt.NDArray[np.int32]
    cells: npt.NDArray[np.int64]

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``[B]`` number of tokens of each cell."""
        return np.diff(self.offsets)


class TokenFiles:
    """Token files, opened when needed; one thread at a time uses an open file."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._idle: deque[tuple[int, pq.ParquetFile]] = deque()
        self._lock = threading.Lock()

    def read(self, file: int, place: int, rows: int) -> RowGroup:
        """Decode row group `place` of a file, which should have `rows` cells.

        Raises
        ------
        InputError
            The file is missing, damaged, or was replaced.
        """
        with readable(self._paths[file]), self._open(file) as opened:
            table = opened.read_row_group(place, columns=COLUMNS, use_threads=False)
            if table.num_rows != rows:
                raise OSError("its row groups have changed since it was opened")
            table.validate(full=True)
            ranked = whole(table["input_ids"])
            return RowGroup(
                tokens=ranked.values.to_numpy(zero_copy_only=True),
                offsets=ranked.offsets.to_numpy(zero_copy_only=True),
                cells=whole(table["cell"]).to_numpy(zero_copy_only=True),
            )

    @contextmanager
    def _open(self, file: int) -> Iterator[pq.ParquetFile]:
        import pyarrow.parquet as pq

        with self._lock:
            found = next((entry for entry in self._idle if entry[0] == file), None)
            if found:
                self._idle.remove(found)
        opened = found[1] if found else pq.ParquetFile(self._paths[file])
        try:
            yield opened
        except BaseException:
            opened.close()
            raise
        with self._lock:
            self._idle.append((file, opened))
            oldest = self._idle.popleft()[1] if len(self._idle) > OPEN_FILES else None
        if oldest:
            oldest.close()

    def close(self) -> None:
        """Close all files; no thread may be reading."""
        while self._idle:
            self._idle.pop()[1].close()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; `combine_chunks` would copy even a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def row_groups(paths: list[Path]) -> list[tuple[int, int, int]]:
    """Return file, place in the file and number of cells of each row group."""
    import pyarrow.parquet as pq

    groups = []
    for file, path in enumerate(paths):
        with readable(path):
            footer = pq.read_metadata(path)
        groups += [
            (file, place, footer.row_group(place).num_rows)
            for place in range(footer.num_row_groups)
        ]
    return groups


def check_tokens(tokens: npt.NDArray[np.integer], vocabulary: GeneTable, path: Path) -> None:
    """Refuse tokens that are no genes of a table; kernels index with them.

    Raises
    ------
    InputError
        There is one; the line names it.
    """
    if not len(tokens):
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < vocabulary.n_special or high >= len(vocabulary):
        token = high if high >= len(vocabulary) else low
        raise InputError(
            f"{path} has token {token}, and the genes of the table are {vocabulary.n_special} to "
            f"{len(vocabulary) - 1:,}; it is damaged or was replaced: copy the corpus anew, or "
            "build it again"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading a token file into an `InputError` of one line."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} has vanished; put it back, or copy the whole corpus") from None
    except (OSError, MemoryError, UnicodeError, pa.ArrowException, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error) or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason}); it is damaged or was replaced: copy the corpus "
            "anew, or build it again"
        ) from error
