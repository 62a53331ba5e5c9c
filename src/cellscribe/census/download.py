"""The CELLxGENE Census, or any SOMA store shaped like it, as one h5ad a dataset.

Labels are counted in one pass before any count is read; then each dataset is streamed, checked and
put in place (`dataset_file`). ``DIR/census.json``, written anew after every dataset, makes a
download resumable:

``format``, ``version``
    "cellscribe census", 1.
``census_version``, ``uri``, ``organism``, ``filter``, ``obs``
    What was asked for, by which a rerun is recognised. The version is the build date, null for a
    store named by its address; ``uri`` is the address that was read; ``organism`` is null for a
    single experiment, which does not tell.
``datasets``
    By `dataset_id`: ``file``, ``cells``, ``non_zeros``, ``umis``, ``bytes``, ``sha256``.
``left_out``
    By `dataset_id`: why it was not written, where bad datasets are skipped.
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
from cellscribe.census.state import CensusState, locked
from cellscribe.config import DATASET, CensusOptions
from cellscribe.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class LabelCounts:
    """Cells per label, the most frequent label first.

    Attributes
    ----------
    cells
        That fit the filter.
    filter
        The SOMA value filter; None if everything fits.
    labels
        By column, then label; numeric columns are left out.
    """

    cells: int
    filter: str | None
    labels: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Census:
    """A finished download: its folder and what `census.json` tells."""

    folder: Path
    census_version: str | None
    uri: str
    datasets: dict[str, dict[str, Any]]
    left_out: dict[str, str]

    @property
    def cells(self) -> int:
        """Cells in all files."""
        return sum(about["cells"] for about in self.datasets.values())


def count_labels(options: CensusOptions, *, log: Log = log_stderr) -> LabelCounts:
    """Count the cells of every label; only `obs` is read.

    Raises
    ------
    InputError
        There is no such store, version, organism or column, the filter is malformed or fits no
        cell, or the network fails for good.
    """
    with _open(options, log) as source:
        labels, datasets = _tally(source, options, log)
    cells = sum(extent.cells for extent in datasets.values())
    return LabelCounts(
        cells,
        options.value_filter,
        {name: dict(sorted(c.items(), key=lambda e: (-e[1], e[0]))) for name, c in labels.items()},
    )


def render_labels(counts: LabelCounts, *, most: int = 20) -> str:
    """Plain-text table of the `most` frequent labels of each column."""
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
    """Write one h5ad a dataset into folder `out`; run again, it goes on where it was stopped.

    Each file holds raw counts as CSR (float32), `obs` indexed by the cell's id, `var` by Ensembl
    id. It is read again and compared with what was fetched before it takes its name.

    Parameters
    ----------
    out
        A folder; made if it is not there.
    options
        Which cells, and how.
    progress
        Told the cells that are done and the cells in all.
    log
        Told, a line each, of faults that are tried again, of datasets read anew or left out.

    Raises
    ------
    InputError
        As `count_labels`; or `out` holds something else; or a dataset holds no raw counts.
    OutputError
        The disk is full or not writable.
    """
    options = options or CensusOptions()
    if options.dry_run:
        raise InputError("a dry run downloads nothing; call count_labels, or leave dry_run out")
    out = Path(out)
    report = progress or (lambda done, total: None)
    with locked(out, log), _open(options, log) as source:
        state = CensusState(out, _identity(source, options))
        extents = _tally(source, options, log)[1]
        state.begin(extents)
        matrix = soma.patiently(lambda: soma.open_matrix(source), source.uri, options.retries, log)
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
    return soma.opened(uri, options.census_version, options.organism, options.retries, log)


def _identity(source: soma.Source, options: CensusOptions) -> dict[str, Any]:
    return {
        "census_version": source.version,
        "uri": source.uri,
        "organism": source.organism,
        "filter": options.value_filter,
        "obs": options.columns,
    }


def _tally(
    source: soma.Source, options: CensusOptions, log: Log
) -> tuple[dict[str, Counter[str]], dict[str, soma_cells.Extent]]:
    """Refuse wrong columns and filters, then count."""
    wanted = dict.fromkeys(options.columns, "name others with --obs")
    wanted[DATASET] = "it is needed, since each dataset becomes a file"
    wanted |= {column: f"give {flags}" for column, (_, flags) in options.conditions.items()}

    def patiently(action: Callable[[], T]) -> T:
        return soma.patiently(action, f"obs of {source.uri}", options.retries, log)

    def count() -> tuple[dict[str, Counter[str]], dict[str, soma_cells.Extent]]:
        soma.columns_missing(source, wanted)
        # alone, a faulty condition gets the clearer reason
        for text in (options.where, options.value_filter):
            soma_cells.check_filter(source, text)
        return soma_cells.tally(source, options.value_filter, options.columns)

    labels, datasets = patiently(count)
    if not datasets:
        there, _ = patiently(lambda: soma_cells.tally(source, None, list(options.conditions)))
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
    """Name the most frequent labels in a line."""
    columns = []
    for name, counter in labels.items():
        words = [f"{label} ({cells:,})" for label, cells in counter.most_common(most)]
        columns.append(f"{name} {', '.join(words)}{', ...' * (len(counter) > most)}")
    return "; ".join(columns) or "others only"
