"""Plan a build from the sources' names, genes and labels, before counts are read.

A plan is a pure function of sources and options: a build that was killed makes it again, and its
`fingerprint` shows whether it is still the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress
from cellscribe.cells.check_values import FRACTIONAL, TPM
from cellscribe.cells.gene_names.vocabulary import GeneTable, Vocabulary
from cellscribe.config import DATASET, BuildOptions, SplitOptions
from cellscribe.corpus.build.gene_space import GeneSpace, all_genes
from cellscribe.corpus.build.packing import gene_hashes, random_keys
from cellscribe.corpus.build.sources import (
    BadSource,
    Source,
    find_sources,
    inspect_source,
)
from cellscribe.corpus.build.splits import (
    SPLITS,
    DatasetSplit,
    split_cells,
    split_datasets,
)
from cellscribe.corpus.manifest import VERSION
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ORDER, DIVISION = 0, 1
"""Purposes of the cells' random keys: their order, and val or test."""


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Sources, gene space, splits and buckets of a build.

    Attributes
    ----------
    sources, refused
        Sources in order; name and reason of those that `skip_bad` left out.
    genes_of
        Place of each column of each source in `space`, -1 for unknown genes.
    space
        All genes that a source measured.
    categories
        Label -> its values in order; with ``dataset_id`` and ``source``.
    split
        Side of each dataset.
    """

    options: BuildOptions
    split_options: SplitOptions
    sources: tuple[Source, ...]
    refused: tuple[dict[str, str], ...]
    genes_of: tuple[npt.NDArray[np.int32], ...]
    space: GeneTable
    categories: dict[str, list[str]]
    split: DatasetSplit

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """``[sources + 1]`` number of each source's first cell, and total number of cells."""
        return np.concatenate([[0], np.cumsum([source.cells for source in self.sources])])

    @cached_property
    def gene_hashes(self) -> npt.NDArray[np.uint64]:
        """``[G]`` hashes of the genes, from which cells' hashes are computed."""
        return gene_hashes(self.space.ids)

    @cached_property
    def n_buckets(self) -> dict[str, int]:
        """Number of shards of each split that has cells."""
        held = self.split.cells["holdout"]
        validation = self.split_options.validation
        expected = {
            "train": self.split.cells["train"],
            "val": held * validation,
            "test": held * (1 - validation),
            "test_unseen": self.split.cells["test_unseen"],
        }
        return {
            name: max(1, round(n / self.options.shard_cells)) for name, n in expected.items() if n
        }

    @cached_property
    def first_bucket(self) -> dict[str, int]:
        """Split -> number of its first bucket."""
        ends = np.cumsum([0, *self.n_buckets.values()]).tolist()
        return dict(zip(self.n_buckets, ends, strict=False))

    @property
    def training_buckets(self) -> range:
        """Buckets of the training split."""
        first = self.first_bucket["train"]
        return range(first, first + self.n_buckets["train"])

    def buckets(
        self, cells: npt.NDArray[np.int64], dataset: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int64]:
        """Return the bucket of each cell, from its number and the code of its dataset."""
        seed = self.split_options.seed
        side = np.array([self.split.side[name] for name in self.categories[DATASET]])[dataset]
        codes = split_cells(random_keys(cells, seed, DIVISION), side, self.split_options.validation)
        names = [SPLITS[code] for code in range(len(SPLITS))]
        first = np.array([self.first_bucket.get(name, -1) for name in names])[codes]
        n = np.array([self.n_buckets.get(name, 1) for name in names], dtype=np.uint64)[codes]
        share = random_keys(cells, seed, ORDER) >> np.uint64(32)
        return first + ((share * n) >> np.uint64(32)).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the result."""
        record = {
            "version": VERSION,
            "options": self.recorded_options(),
            "sources": [(s.name, s.sha256, *([s.own] if s.own else [])) for s in self.sources],
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def recorded_options(self) -> dict[str, Any]:
        """Return the options as the manifest stores them, without paths of this machine."""
        record = dataclasses.asdict(self.options) | dataclasses.asdict(self.split_options)
        if self.options.vocabulary is not None:
            record["vocabulary"] = Vocabulary.read(self.options.vocabulary).hash
        return json.loads(json.dumps(record))


def make_plan(
    paths: Sequence[str | Path],
    options: BuildOptions,
    split_options: SplitOptions,
    *,
    refused: dict[str, str] | None = None,
    log: Log,
    progress: Progress | None = None,
) -> BuildPlan:
    """Inspect every source and decide on the split of each dataset.

    Parameters
    ----------
    paths
        Files, folders, globs and lists of sources.
    refused
        Name of a bad source -> reason; sources found to be bad are added.
    log, progress
        Called with messages, and with (sources done, sources in total).

    Raises
    ------
    InputError
        A source cannot be used and `skip_bad` is not given; nothing is left; no split is possible.
    """
    refused = {} if refused is None else refused
    for name in split_options.covered:
        if name not in options.labels:
            there = ", ".join(options.labels) or "none"
            raise InputError(f"--covered {name}: no such label is tracked; --labels has {there}")
    given = None if options.vocabulary is None else Vocabulary.read(options.vocabulary)
    genes = all_genes(given)
    found = find_sources(paths)
    sources: list[Source] = []
    for place, named in enumerate(found):
        if named.name in refused:
            continue
        try:
            sources.append(inspect_source(named, options, genes, log))
        except InputError as error:
            refuse(error, named.name, Path(named.path), options, refused, log)
        if progress is not None:
            progress(place + 1, len(found))
    if not sources:
        raise InputError("every source was left out; give at least one file of raw human counts")
    space = GeneSpace(genes)
    genes_of = tuple(space.add(source.genes) for source in sources)
    labels = _all_labels(sources)
    if not labels["cells"].sum():
        raise InputError("every cell is excluded; look at the values given to --exclude")
    columns = [column for column in labels.columns if column != "cells"]
    return BuildPlan(
        options=options,
        split_options=split_options,
        sources=tuple(sources),
        refused=tuple({"name": name, "reason": reason} for name, reason in refused.items()),
        genes_of=genes_of,
        space=space.table(),
        categories={
            "source": [source.name for source in sources],
            **{column: sorted(set(labels[column])) for column in columns},
        },
        split=split_datasets(labels, split_options),
    )


def refuse(
    error: InputError,
    name: str,
    path: Path,
    options: BuildOptions,
    refused: dict[str, str],
    log: Log,
) -> None:
    """Record a bad source if `skip_bad` is set, else raise the error."""
    if not options.skip_bad:
        line = _whole_counts_only(error)
        raise InputError(f"{line}; or leave such sources out with --skip-bad") from error
    reason = _whole_counts_only(error.__cause__ if isinstance(error, BadSource) else error)
    refused[name] = reason.replace(str(path), path.name)
    log(f"Left out: {reason}")


def _whole_counts_only(error: BaseException | None) -> str:
    """A refusal without the advice to take the values as they are, which a corpus cannot."""
    return str(error).replace(f"; {FRACTIONAL}", "").replace(f"; {TPM}", "")


def _all_labels(sources: Sequence[Source]) -> pd.DataFrame:
    import pandas as pd

    tables = [
        source.labels.astype({c: str for c in source.labels.columns if c != "cells"})
        for source in sources
    ]
    return pd.concat(tables, ignore_index=True)
