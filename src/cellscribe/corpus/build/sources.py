"""Find, check and hash the files that a corpus is built from, and read their labels.

A source is a file of any format that `open_counts` reads, named by itself, by its folder, by a glob
or in a list (`cells.source_lists`). A cell's dataset is read from obs; without such a column it is
the file name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap, map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.cells.readers.endings import stem
from cellscribe.cells.readers.foreign_files import refuse_url
from cellscribe.cells.source_lists import Shard, list_sources
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
    layer, gene_key
        In place of those of the options, if a list gives them.
    """

    path: Path
    name: str
    sha256: str
    bytes: int
    cells: int
    genes: GeneMap
    notes: tuple[str, ...]
    labels: pd.DataFrame = field(repr=False)
    layer: str | None = None
    gene_key: str | None = None

    @property
    def own(self) -> dict[str, str]:
        """What a list of sources says of this one alone."""
        given = {"layer": self.layer, "gene_key": self.gene_key}
        return {key: value for key, value in given.items() if value is not None}

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
            **self.own,
            "notes": list(self.notes),
        }


def find_sources(words: Sequence[str | Path]) -> list[Shard]:
    """List the sources that files, folders, globs and lists stand for, named as in the corpus.

    The name is that of a list, or the file's, with as many parent folders as make it distinct.

    Raises
    ------
    InputError
        A path is not there, a folder holds nothing that could be counts, a source comes twice, or
        two have one name.
    """
    if not words:
        raise InputError("no source is given; name files, folders or lists of counts")
    found = list_sources(words, in_bucket=_refuse_bucket)
    seen: set[tuple[Any, ...]] = set()
    for source in found:
        path = Path(source.path)
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        what = path.resolve(), source.layer, source.gene_key
        if what in seen:
            raise InputError(f"{path} is given twice; name each source once")
        seen.add(what)
    names = _names_of(found)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sources have the name {name}; give others in a list of sources")
    return [replace(source, name=name) for source, name in zip(found, names, strict=True)]


def _refuse_bucket(url: str) -> list[Shard]:
    raise InputError(refuse_url(url) or f"{url}: no such file or folder")


def _names_of(sources: Sequence[Shard]) -> list[str]:
    paths = [Path(source.path) for source in sources]
    given = [source.name != stem(source.path) for source in sources]
    names = [s.name if own else p.name for s, p, own in zip(sources, paths, given, strict=True)]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        counts = Counter(names)
        twice = {name for name in names if counts[name] > 1}
        if not twice:
            break
        names = [
            "/".join(path.parts[-depth:]) if name in twice and not own else name
            for path, name, own in zip(paths, names, given, strict=True)
        ]
    return names


def inspect_source(
    source: Shard,
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
    path, name = Path(source.path), source.name
    options = own_options(options, source)
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
        layer=source.layer,
        gene_key=source.gene_key,
    )


def own_options(options: BuildOptions, source: Shard | Source) -> BuildOptions:
    """Options of one source: a list may give it a layer and a gene key of its own."""
    return replace(
        options,
        layer=source.layer or options.layer,
        gene_key=source.gene_key or options.gene_key,
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
