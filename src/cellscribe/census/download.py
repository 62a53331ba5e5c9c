"""Download the CELLxGENE Census, or any SOMA store with its layout, as one h5ad per dataset.

Labels are counted in one pass before any count is read; then each dataset is streamed, checked and
put in place (`dataset_file`). ``DIR/census.json``, written again after every dataset, makes a
download resumable:

``format``, ``version``
    "cellscribe census", 1.
``census_version``, ``uri``, ``organism``, ``filter``, ``obs``
    The request, by which a second run is recognised. The version is the build date, null for a
    store given by its address; ``uri`` is the address that was read; ``organism`` is null for a
    single experiment, which does not name it.
``measurement``, ``x_layer``, ``gene_column``, ``dataset_column``
    Names in the store, part of the request.
``datasets``
    By `dataset_id`: ``file``, ``cells``, ``non_zeros``, ``umis``, ``bytes``, ``sha256``.
``left_out``
    By `dataset_id`: the reason why a bad dataset was skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.census import soma, soma_cells
from cellscribe.census.dataset_file import Dataset, write_dataset
from cellscribe.census.state import NAMES, CensusState, locked
from cellscribe.config import DATASET, CensusOptions
from cellscribe.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class LabelCounts:
    """Cells per label, the most frequent label first.

    Attributes
    ----------
    cells
        Number of cells that fit the filter.
    filter
        The SOMA value filter; None if everything fits.
    labels
        Number of cells by column, then label; without numeric columns.
    """

    cells: int
    filter: str | None
    labels: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Census:
    """A finished download: its folder and the contents of `census.json`."""

    folder: Path
    census_version: str | None
    uri: str
    datasets: dict[str, dict[str, Any]]
    left_out: dict[str, str]

    @property
    def cells(self) -> int:
        """Number of cells in all files."""
        return sum(about["cells"] for about in self.datasets.values())


def count_labels(options: CensusOptions, *, log: Log = log_stderr) -> LabelCounts:
    """Count the cells of every label; reads `obs` only.

    Raises
    ------
    InputError
        There is no such store, version, organism or column, the filter is malformed or fits no
        cell, or the network fails repeatedly.
    """
    with _open(options, log) as source:
        labels, datasets = _scan_obs(source, options, log)
    cells = sum(extent.cells for extent in datasets.values())
    return LabelCounts(
        cells,
        options.value_filter,
        {name: dict(sorted(c.items(), key=lambda e: (-e[1], e[0]))) for name, c in labels.items()},
    )


def render_labels(counts: LabelCounts, *, most: int = 20) -> str:
    """Render the `most` frequent labels of each column as a plain-text table."""
    lines = [f"{counts.cells:,} cells fit {counts.filter or 'no filter'}"]
    for column, labels in counts.labels.items():
        rows = list(labels.items())[:most]
        if rest := len(labels) - len(rows):
            rows.append((f"and {rest:,} more", counts.cells - sum(n for _, n in rows)))
        wide = max(len(label) for label, _ in rows)
        lines += ["", f"{column}: {len(labels):,} label{'s' * (len(labels) != 1)}"]
        lines += [
            f"  {label:<{wide}}  {cells:>13,}  {cells / counts.cells:>6.1%}"
            for label, cells in rows
        ]
    return "\n".join(lines)


def download_census(
    out: Path,
    options: CensusOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Census:
    """Write one h5ad per dataset into folder `out`; a second run continues where it stopped.

    Each file holds raw counts as CSR (float32), `obs` indexed by the cell's id, `var` by Ensembl
    id. It is read again and compared with the store before it gets its name.

    Parameters
    ----------
    out
        Folder of the files; made if missing.
    options
        Choice of the cells, and settings.
    progress
        Called with (cells done, cells in total).
    log
        Called with messages on errors that are retried, and on datasets read again or left out.

    Raises
    ------
    InputError
        As in `count_labels`; or `out` holds something else; or a dataset holds no raw counts.
    OutputError
        The disk is full or not writable.
    """
    options = options or CensusOptions()
    if options.dry_run:
        raise InputError("a dry run downloads nothing; call count_labels, or leave dry_run out")
    out = Path(out)
    report = progress or (lambda done, total: None)
    with locked(out), _open(options, log) as source:
        state = CensusState(out, _identity(source, options))
        extents = _scan_obs(source, options, log)[1]
        state.begin(extents)
        matrix = soma.retry(
            lambda: soma.open_matrix(
                source, options.measurement, options.x_layer, options.gene_column
            ),
            source.uri,
            options.retries,
            log,
        )
        done, total = 0, sum(extent.cells for extent in extents.values())
        report(done, total)
        for name, extent in extents.items():
            if not state.has(name, extent.cells, options.skip_bad, log):
                dataset = Dataset(source, matrix, name, extent, options, log)
                _fetch(dataset, state, lambda cells, done=done: report(done + cells, total))  # type: ignore[misc]
            done += extent.cells
            report(done, total)
        return Census(out, source.version, source.uri, state.datasets, state.left_out)


def _fetch(dataset: Dataset, state: CensusState, progress: Callable[[int], None]) -> None:
    try:
        facts = write_dataset(dataset, state.folder, progress)
    except soma.SourceError as error:
        what = f"dataset {dataset.name}: {error}"
        if not dataset.options.skip_bad:
            raise InputError(f"{what}; give --skip-bad to leave this dataset out") from error
        state.leave_out(dataset.name, str(error))
        dataset.log(f"{what}; it is left out")
    else:
        state.add(dataset.name, facts)


def _open(options: CensusOptions, log: Log) -> AbstractContextManager[soma.Source]:
    uri = soma.address(options.uri)
    dataset = None if options.dataset_column == "none" else options.dataset_column
    return soma.opened(
        uri, options.census_version, options.organism, options.retries, log, dataset=dataset
    )


def _identity(source: soma.Source, options: CensusOptions) -> dict[str, Any]:
    return {
        "census_version": source.version,
        "uri": source.uri,
        "organism": source.organism,
        "filter": options.value_filter,
        "obs": options.columns,
        **{name: getattr(options, name) for name in NAMES},
    }


def _scan_obs(
    source: soma.Source, options: CensusOptions, log: Log
) -> tuple[dict[str, Counter[str]], dict[str, soma_cells.Extent]]:
    """Check columns and filters, then count."""
    wanted = dict.fromkeys(options.columns, "name others with --obs")
    del wanted[DATASET]
    if source.dataset is not None:
        wanted[source.dataset] = (
            "each dataset becomes a file: name their column with --dataset-column, or take all "
            "cells as one with --dataset-column none"
        )
    counted = [name for name in options.columns if name in wanted]
    wanted |= {column: f"give {flags}" for column, (_, flags) in options.conditions.items()}

    def retry(action: Callable[[], T]) -> T:
        return soma.retry(action, f"obs of {source.uri}", options.retries, log)

    def count() -> tuple[dict[str, Counter[str]], dict[str, soma_cells.Extent]]:
        soma.columns_missing(source, wanted)
        # a wrong condition alone gives a clearer reason
        for text in (options.where, options.value_filter):
            soma_cells.check_filter(source, text)
        return soma_cells.scan_obs(source, options.value_filter, counted)

    labels, datasets = retry(count)
    if not datasets:
        there, _ = retry(lambda: soma_cells.scan_obs(source, None, list(options.conditions)))
        raise InputError(
            f"no cell of {source.uri} fits {options.value_filter}; there are {_common(there)}"
        )
    for name, extent in datasets.items():
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(
                f"{source.uri}: {extent.cells:,} cells have the dataset_id {name!r}, "
                "which cannot name a file; leave them out with --where"
            )
    return labels, datasets


def _common(labels: dict[str, Counter[str]], most: int = 5) -> str:
    """List the most frequent labels in one line."""
    columns = []
    for name, counter in labels.items():
        words = [f"{label} ({cells:,})" for label, cells in counter.most_common(most)]
        columns.append(f"{name} {', '.join(words)}{', ...' * (len(counter) > most)}")
    return "; ".join(columns) or "others only"
