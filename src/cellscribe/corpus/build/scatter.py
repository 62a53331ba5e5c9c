"""The pass over the sources: check counts, map them to the gene space, write spill files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress
from cellscribe.cells.counts import open_counts
from cellscribe.cells.pipeline import BLOCK, ordered_map, read_ahead, usable_cores
from cellscribe.config import DATASET
from cellscribe.corpus.build.packing import LARGEST_COUNT, Rows, offsets_of, to_space
from cellscribe.corpus.build.plan import BuildPlan
from cellscribe.corpus.build.sources import BadSource, own_options, read_labels
from cellscribe.corpus.build.spill import (
    SPILL_CELLS,
    SpillFile,
    finished_spills,
    list_array,
    narrowest,
    write_spill,
)
from cellscribe.errors import InputError
from cellscribe.writing import OutputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TOO_FEW = "too few genes"
DUPLICATE = "duplicate of an earlier cell"


def scatter(
    plan: BuildPlan,
    folder: Path,
    *,
    log: Log,
    progress: Progress | None = None,
) -> list[SpillFile]:
    """Read all sources into spill files, starting after the last finished one.

    Parameters
    ----------
    plan
        Plan of the build.
    folder
        Folder of the spill files; made if missing.
    log, progress
        Called with messages, and with (cells read, cells in total).

    Raises
    ------
    BadSource
        Counts of a source are normalised, damaged or too large.
    OutputError
        The disk is full.
    """
    folder.mkdir(exist_ok=True)
    spills = finished_spills(folder)
    n_cells = int(plan.starts[-1])
    with _Writer(plan, folder, spills) as writer:
        while writer.stop < n_cells:
            place = int(np.searchsorted(plan.starts, writer.stop, side="right")) - 1
            for table, dropped, size in _source_blocks(plan, place, writer.stop, log):
                writer.add(table, dropped, size)
                if progress is not None:
                    progress(writer.stop, n_cells)
    return writer.spills


class _Writer:
    """Collects cells; a thread writes each full spill file."""

    def __init__(self, plan: BuildPlan, folder: Path, spills: list[SpillFile]) -> None:
        self.spills = spills
        self.stop = spills[-1].stop if spills else 0
        self._plan, self._folder = plan, folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-run")
        self._pending: Future[SpillFile] | None = None
        self._clear()

    def _clear(self) -> None:
        self._start = self.stop
        self._parts: list[pa.Table] = []
        self._dropped: Counter[tuple[int, str]] = Counter()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            # after an error, only cells that fill a whole spill file are kept
            if kind is None and self.stop > self._start:
                self._flush()
            self._wait()
        finally:
            self._thread.shutdown()

    def add(self, table: pa.Table, dropped: Counter[tuple[int, str]], size: int) -> None:
        """Add the kept cells among the next `size` cells."""
        self._parts.append(table)
        self._dropped += dropped
        self.stop += size
        if self.stop - self._start >= SPILL_CELLS:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        arguments = (self._parts, self._start, self.stop, self._dropped)
        self._pending = self._thread.submit(self._write, *arguments)
        self._clear()

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.spills.append(pending.result())

    def _write(
        self, parts: list[pa.Table], start: int, stop: int, dropped: Counter[tuple[int, str]]
    ) -> SpillFile:
        numbers = np.concatenate([part["cell"].to_numpy() for part in parts])
        datasets = np.concatenate([part[DATASET].to_numpy() for part in parts])
        bucket = self._plan.buckets(numbers, datasets)
        return write_spill(self._folder, parts, bucket, start, stop, dropped)


def _source_blocks(
    plan: BuildPlan, place: int, first: int, log: Log
) -> Iterator[tuple[pa.Table, Counter[tuple[int, str]], int]]:
    """Yield blocks of a source from cell `first` on: kept cells, dropped counts, block size."""
    source = plan.sources[place]
    options = own_options(plan.options, source)
    start = int(plan.starts[place])
    hashes = plan.gene_hashes
    genes = plan.genes_of[place]
    try:
        with open_counts(source.path, options=options, log=lambda _: None) as counts:
            labels, reason, _ = read_labels(counts, source.name, options)
            codes = _codes(plan, labels)
            blocks = read_ahead(counts.blocks(BLOCK, first - start), depth=1)
            pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="scan")
            with (
                pool,
                closing(
                    ordered_map(
                        pool,
                        lambda block: to_space(block, genes, hashes),
                        blocks,
                        ahead=usable_cores(),
                    )
                ) as all_rows,
            ):
                row = first - start
                for rows in all_rows:
                    part = slice(row, row + len(rows.n_counts))
                    if rows.counts.max(initial=0) > LARGEST_COUNT:
                        raise InputError(
                            f"{counts.name}: a count above {LARGEST_COUNT:,} in cells "
                            f"{part.start} to {part.stop - 1}; no cell has so many molecules"
                        )
                    cells = np.arange(start + part.start, start + part.stop)
                    some = {name: values[part] for name, values in codes.items()}
                    ids = labels["cell_id"].to_numpy()[part]
                    yield *_keep(plan, place, rows, cells, ids, some, reason[part]), len(cells)
                    row = part.stop
    except OutputError:
        raise
    except InputError as error:
        raise BadSource(place, str(error)) from error


def _codes(plan: BuildPlan, labels: pd.DataFrame) -> dict[str, npt.NDArray[np.int32]]:
    """Return each label's place in the plan's categories; -1 if all its cells are excluded."""
    codes = {}
    for name in (DATASET, *plan.options.labels):
        column = labels[name].cat.set_categories(plan.categories[name])
        codes[name] = column.cat.codes.to_numpy().astype(np.int32)
    return codes


def _keep(
    plan: BuildPlan,
    place: int,
    rows: Rows,
    cells: npt.NDArray[np.int64],
    ids: npt.NDArray[np.object_],
    codes: dict[str, npt.NDArray[np.int32]],
    excluded: npt.NDArray[np.int8],
) -> tuple[pa.Table, Counter[tuple[int, str]]]:
    """Apply the QC options to a block; count dropped cells by their first reason."""
    import pyarrow as pa

    dropped: Counter[tuple[int, str]] = Counter()
    for i, (column, value) in enumerate(plan.options.exclusions):
        dropped[place, f"{column} is {value}"] = int((excluded == i + 1).sum())
    few = (excluded == 0) & (rows.n_genes < plan.options.min_genes)
    dropped[place, TOO_FEW] = int(few.sum())
    keep = (excluded == 0) & ~few
    inside = np.repeat(keep, rows.n_genes)
    offsets = offsets_of(rows.n_genes[keep])
    genes = rows.genes[inside] if not keep.all() else rows.genes
    counts = rows.counts[inside] if not keep.all() else rows.counts
    largest = rows.counts.max(initial=0)
    columns = {
        "cell": cells[keep],
        "cell_id": pa.array(ids[keep], pa.string()),
        "n_counts": rows.n_counts[keep],
        "cell_hash": rows.cell_hash[keep],
        **{name: values[keep] for name, values in codes.items()},
        "genes": list_array(genes.astype(narrowest(len(plan.space) - 1)), offsets),
        "counts": list_array(counts.astype(narrowest(largest)), offsets),
    }
    return pa.table(columns), +dropped
