"""The one matrix that a folder stands for: its own, or that of a run's filtered cells below it.

Pipelines put a matrix some folders down, next to others of the same run: 10x (``outs/``),
STARsolo (``Solo.out/``), kallisto|bustools (``counts_unfiltered/``), Parse (``DGE_filtered/``) and
alevin-fry (``alevin/``). If one of them is of filtered cells it is read and a log line says so; of
others the user must name one.
"""

from __future__ import annotations

import os
from pathlib import Path

from cellscribe.callbacks import Log
from cellscribe.cells.readers import matrix_folders
from cellscribe.cells.readers.foreign_files import FORMATS
from cellscribe.cells.readers.text_files import listed, plain_name
from cellscribe.errors import InputError

DEEPEST = 4
"""Folders below the one that is given that are looked into."""
MOST_ENTRIES = 20_000
"""Files and folders looked at."""
ASIDE = ("raw", "unfiltered", "velocyto", "sj")
"""Beginnings of folders whose matrix is not of cells, or not of genes."""
FILES = (".h5ad", ".h5", ".loom", ".parquet", ".csv", ".tsv", "quants_mat")
"""Endings of other files of cells."""
ALEVIN = (
    "alevin's own binary (quants_mat.gz); run alevin with --dumpMtx, which writes quants_mat.mtx.gz"
)


def choose(folder: Path, log: Log) -> Path:
    """Find the matrix that a folder stands for.

    Raises
    ------
    InputError
        There is none, or there are several.
    """
    own = matrix_folders.choose_matrix(folder, str(folder), log)
    if own is not None:
        return own
    below, containers = _look_below(folder)
    if not below:
        raise _nothing(folder, containers)
    best = below if len(below) == 1 else [each for each in below if not _is_aside(each, folder)]
    if len(best) != 1:
        names = [str(each.relative_to(folder)) for each in best or below]
        raise InputError(
            f"{folder}: several matrices below it ({listed(names)}); "
            f"name one of them, as in {folder / names[0]}"
        )
    found = matrix_folders.choose_matrix(best[0], str(best[0]), log)
    assert found is not None
    log(f"{folder}: reading {found.relative_to(folder)}")
    return found


def _look_below(folder: Path) -> tuple[list[Path], list[str]]:
    """List the folders with matrices, and other files of cells, a few folders down."""
    below, containers, seen = [], [], 0
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(here.relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        seen += len(folders) + len(files)
        if seen > MOST_ENTRIES:
            break
        if any(matrix_folders.is_matrix(Path(name)) for name in files) and (
            matrix_folders.matrices_in(here)
        ):
            below.append(here)
        containers += [
            str((here / name).relative_to(folder))
            for name in sorted(files)
            if plain_name(Path(name)).endswith(FILES)
        ]
        # a store's folders are no folders of files
        folders[:] = [name for name in folders if not name.endswith(".zarr")]
    return below, containers


def _is_aside(found: Path, folder: Path) -> bool:
    """Whether a matrix is one of all barcodes rather than of cells, or no matrix of genes."""
    words = [part.lower() for part in found.relative_to(folder).parts]
    return any(word.startswith(ASIDE) or word.endswith("_unfiltered") for word in words)


def _nothing(folder: Path, containers: list[str]) -> InputError:
    if any(name.endswith("quants_mat.gz") for name in containers):
        return InputError(f"{folder}: {ALEVIN}")
    hint = f"known are {FORMATS}"
    if containers:
        hint = f"did you mean {folder / containers[0]}?"
        if len(containers) > 1:
            hint = f"give one of the files in it: {listed(containers)}"
    return InputError(
        f"{folder}: a folder with neither a zarr store nor a matrix.mtx in it; {hint}"
    )
