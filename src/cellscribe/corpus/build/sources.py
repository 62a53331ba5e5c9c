"""Find, check and hash the files that a corpus is built from, and read their labels.

A source is a file of any format that `open_counts` reads, a download of ``cellscribe corpus
census`` or a folder of files. A cell's dataset is read from obs; without such a column it is the
file name.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap, map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.cells.readers.endings import CONTAINERS, stem
from cellscribe.cells.readers.foreign_files import refuse_url
from cellscribe.cells.readers.matrix_folders import matrices_in
from cellscribe.config import DATASET, BuildOptions
from cellscribe.corpus.store import NO_LABEL
from cellscribe.errors import InputError
from cellscribe.writing import hash_of, size_of

if TYPE_CHECKING:
    import pandas as pd

FIRST_LOOK = 64
"""Number of cells that are read first, as normalised values mostly appear at once."""


class BadSource(InputError):
    """A source that cannot be used; `place` is its number."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file, as the manifest lists it.

    Attributes
    ----------
    path, name
        Path, and name in the corpus.
    sha256, bytes
        Hash and size of its content.
    cells
        Number of cells.
    genes
        Map from its columns to genes.
    notes
        Notes for the user, one line each.
    labels
        One row for each combination of labels: the labels and ``cells``, without excluded
        cells.
    """

    path: Path
    name: str
    sha256: str
    bytes: int
    cells: int
    genes: GeneMap
    notes: tuple[str, ...]
    labels: pd.DataFrame = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Entry in the manifest, without the numbers of kept and dropped cells."""
        known = {"known": self.genes.n_known, "columns": self.genes.n_genes, "key": self.genes.key}
        return {
            "name": self.name,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "cells": self.cells,
            "genes": known,
            "notes": list(self.notes),
        }


def find_sources(paths: Sequence[str | Path]) -> list[Path]:
    """Replace folders by the files in them, in order of names.

    Raises
    ------
    InputError
        A path is not there, a folder holds nothing that could be counts, or a file comes twice.
    """
    found: list[Path] = []
    for given in paths:
        if url := refuse_url(str(given)):
            raise InputError(url)
        path = Path(given)
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        inside = _files_of(path)
        if not inside:
            raise InputError(f"{path} holds no file of counts ({', '.join(CONTAINERS)})")
        found += inside
    if not found:
        raise InputError("no source is given; name files or folders of counts")
    seen: set[Path] = set()
    for path in found:
        if path.resolve() in seen:
            raise InputError(f"{path} is given twice; name each source once")
        seen.add(path.resolve())
    return found


def _files_of(path: Path) -> list[Path]:
    # what is neither a file nor a folder, a pipe say, is refused where it is opened
    if not path.is_dir() or path.suffix == ".zarr" or matrices_in(path):
        return [path]
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.name.endswith(CONTAINERS) and not file.name.startswith(".")
    )


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return file names, with as many parent folders as make them distinct."""
    names = [path.name for path in paths]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        twice = {name for name in names if names.count(name) > 1}
        if not twice:
            break
        names = [
            "/".join(path.parts[-depth:]) if name in twice else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def inspect_source(
    path: Path,
    name: str,
    options: BuildOptions,
    genes: GeneTable,
    log: Log,
) -> Source:
    """Open a source, map its genes, count its labels, read its first cells and hash it.

    Raises
    ------
    InputError
        The source cannot be used.
    """
    with open_counts(path, options=options, log=log) as counts:
        mapped = map_genes(
            counts.var,
            genes,
            gene_key=options.gene_key,
            species=options.species,
            cells=counts.cell_names,
            name=counts.name,
        )
        labels, reason, notes = read_labels(counts, name, options)
        with closing(counts.blocks(FIRST_LOOK)) as blocks:  # type: ignore[type-var]
            next(blocks)
        n_cells = counts.n_cells
    kept = labels[reason == 0].drop(columns="cell_id")
    table = kept.groupby(list(kept.columns), observed=True).size().rename("cells").reset_index()
    return Source(
        path=path,
        name=name,
        sha256=hash_of(path),
        bytes=size_of(path),
        cells=n_cells,
        genes=mapped,
        notes=tuple(notes),
        labels=table,
    )


def read_labels(
    counts: Counts, name: str, options: BuildOptions
) -> tuple[pd.DataFrame, npt.NDArray[np.int8], list[str]]:
    """Read the labels of each cell.

    Returns
    -------
    labels
        ``cell_id`` and, as categories, ``dataset_id`` and the tracked labels; `NO_LABEL` where
        a value is missing or empty.
    reason
        ``[B]`` 0 for cells that are kept, i + 1 for cells that the i-th exclusion drops.
    notes
        Sentences on columns that the source lacks.
    """
    import pandas as pd

    obs, notes = counts.obs, []
    labels = pd.DataFrame({"cell_id": obs.index.astype(str)})
    for label in (DATASET, *options.labels):
        column = options.columns.get(label, label)
        if column in obs.columns:
            labels[label] = _as_text(obs[column])
        elif label == DATASET:
            labels[label] = pd.Categorical([stem(name)] * len(obs))
            notes.append(f"no obs column {column}: the file name is the dataset_id")
        else:
            labels[label] = pd.Categorical([NO_LABEL] * len(obs))
            notes.append(f"no obs column {column}: {label} is {NO_LABEL!r}")
    reason = np.zeros(len(obs), dtype=np.int8)
    for place, (column, value) in enumerate(options.exclusions):
        if column in obs.columns:
            hit = np.asarray(_as_text(obs[column]) == value) & (reason == 0)
            reason[hit] = place + 1
    return labels, reason, notes


def _as_text(column: pd.Series) -> pd.Categorical:
    """Return values as text; missing and empty ones are `NO_LABEL`."""
    import pandas as pd

    codes, distinct = pd.factorize(column)
    text = [str(value).strip() or NO_LABEL for value in distinct] + [NO_LABEL]
    categories, place = np.unique(np.array(text, dtype=object), return_inverse=True)
    return pd.Categorical.from_codes(place[codes], categories)  # type: ignore[call-overload]
