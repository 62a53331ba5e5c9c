"""Vectors of all cells of a file, kept on the disk where they are many, and read block by block.

Letters: ``B`` cells, ``D`` width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Progress
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells
from cellscribe.writing import disk_errors

if TYPE_CHECKING:
    from cellscribe.inference.embedder import Embedder

IN_MEMORY = 1 << 28
"""Bytes of vectors above which they lie on the disk."""
SAMPLE = 2_000
"""Cells by which it is measured how a file lies next to a reference."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedCells:
    """The vectors of a file's cells; from `embed_cells`."""

    spool: IO[bytes]
    filled: npt.NDArray[np.bool_]
    """``[B]`` cells with a count on a gene that the model knows."""
    width: int
    """``D``."""

    def blocks(
        self, cells: int = 1 << 14
    ) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
        """Rows of cells that are not empty, and their vectors, block by block."""
        self.spool.seek(0)
        for start in range(0, len(self.filled), cells):
            here = self.filled[start : start + cells]
            vectors = np.frombuffer(self.spool.read(4 * self.width * len(here)), np.float32)
            if here.any():
                yield start + np.flatnonzero(here), vectors.reshape(-1, self.width)[here]

    def sample(self, seed: int) -> npt.NDArray[np.float32]:
        """Vectors of some cells that are not empty, drawn at random."""
        rows = np.flatnonzero(self.filled)
        if len(rows) > SAMPLE:
            rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
        parts = []
        for row in rows:
            self.spool.seek(4 * self.width * int(row))
            parts.append(np.frombuffer(self.spool.read(4 * self.width), np.float32))
        return np.stack(parts)


@contextmanager
def embed_cells(
    source: Cells, embedder: Embedder, progress: Progress | None
) -> Iterator[EmbeddedCells]:
    """Embed all cells of a source; the vectors are gone at the end.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows, or the counts are bad.
    """
    blocks = embedder.blocks(source.counts, source.genes, progress=progress)
    parts = ((block.vectors, np.asarray(block.cells.lengths) > 0) for block in blocks)
    with keep_vectors(parts, source.counts.name) as kept:
        yield kept


@contextmanager
def keep_vectors(
    parts: Iterable[tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]], name: str
) -> Iterator[EmbeddedCells]:
    """Keep vectors that come block by block; they are gone at the end.

    Parameters
    ----------
    parts
        ``[b, D]`` vectors of a block, and ``[b]`` which of its cells are not empty.
    name
        Of the source, in messages.

    Raises
    ------
    InputError
        No cell has a count on a gene that the model knows.
    """
    filled, width = [np.zeros(0, bool)], 0
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        for vectors, here in parts:
            filled.append(here)
            width = vectors.shape[1]
            fix = "free some space, or set TMPDIR to another folder"
            with disk_errors(tempfile.gettempdir(), fix):
                spool.write(np.asarray(vectors, np.float32).tobytes())
        all_filled = np.concatenate(filled)
        if not all_filled.any():
            raise InputError(f"{name}: no cell has a count on a gene that the model knows")
        yield EmbeddedCells(spool=spool, filled=all_filled, width=width)
