"""Hashes of the cells that a model was trained on, stored next to its weights.

A hash depends on a cell's genes and their counts only (`corpus.build.packing`), so an evaluation
finds a cell again in a file of another name, with other columns or in another order. A cell cannot
be read from its hash. The file is a plain array, ``training_cells.npy``: sorted, each hash once,
never pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.config.files import check_file
from cellscribe.errors import InputError
from cellscribe.model.checksums import check_sum
from cellscribe.writing import writing

if TYPE_CHECKING:
    from cellscribe.corpus.store import Corpus

TRAINED_CELLS = "training_cells.npy"
"""Name of the file in a model directory."""
MOST = 5_000_000
"""Largest number of hashes that is stored, 8 bytes each; datasets' names are always stored."""

Hashes = npt.NDArray[np.uint64]


def trained_cells(corpus: Corpus) -> Hashes | None:
    """Read the hashes of a corpus's training cells, sorted; None for more than `MOST` cells."""
    if corpus.splits["train"]["cells"] > MOST:
        return None
    columns = [table["cell_hash"].to_numpy() for table in corpus.cells("train", ["cell_hash"])]
    return np.unique(np.concatenate(columns)).astype("<u8", copy=False)


def with_earlier(hashes: Hashes | None, directory: Path) -> Hashes | None:
    """Add the cells of the model that training started from; None if there are more than `MOST`.

    A model without hashes adds none.
    """
    earlier = read_trained_cells(directory)
    if hashes is None or earlier is None:
        return hashes
    both = np.union1d(hashes, earlier)
    return None if len(both) > MOST else both


def write_trained_cells(directory: Path, hashes: Hashes) -> Path:
    """Write the file into a model directory; it appears whole."""
    path = directory / TRAINED_CELLS
    with writing(path) as partial, partial.open("wb") as file:
        np.save(file, np.unique(hashes).astype("<u8"), allow_pickle=False)
    return path


def read_trained_cells(directory: Path) -> Hashes | None:
    """Read the hashes of a model's training cells, sorted; None if the model has none.

    The array is memory-mapped.

    Raises
    ------
    InputError
        The file is damaged.
    """
    path = directory / TRAINED_CELLS
    if not path.is_symlink() and not path.exists():
        return None
    check_file(path, fix="copy the whole model folder again")
    try:
        hashes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, OverflowError) as error:
        raise InputError(f"{path}: damaged ({error}); copy the whole model folder again") from None
    if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise InputError(f"{path}: not hashes of cells; copy the whole model folder again")
    if (hashes[1:] <= hashes[:-1]).any():
        raise InputError(f"{path}: damaged (out of order); copy the whole model folder again")
    check_sum(path)
    return hashes
