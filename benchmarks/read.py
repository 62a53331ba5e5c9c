"""A corpus to padded batches, compared with Hugging Face datasets and annbatch.

All read the training split of one corpus, shuffled anew every turn, in turns (A B C A B C) after a
turn of each that fills the page cache. datasets reads the same Parquet in two ways: streaming, as
its guide advises for large sets, and memory-mapped from the uncompressed copy that it makes first
(copying is timed by itself). Both get our kernel for padding: their own formats are slower.
annbatch reads the counts and does not tokenise; it works in an interpreter of its own, with the
best of a few chunk sizes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import annbatch_peer
from benchmarks.cold import measure_cold
from benchmarks.real_cells import real_cells
from benchmarks.record import write_result
from benchmarks.sides import (
    BUFFER,
    MAPPED,
    OURS,
    SPLIT,
    STREAMED,
    TOKENS,
    Batches,
    copy,
    no_sleep,
    open_side,
)
from cellscribe.config import ReaderOptions
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.writing import size_of

RESULTS = Path("benchmarks/results")
CHUNKS = (64, 256, 512)
"""Cells that annbatch reads in one piece; the fastest in the first turn is kept."""
ANNBATCH = "annbatch"
Turn = Callable[[int], tuple[float, dict[str, int]]]
"""Reads an epoch under a seed; returns seconds, and cells and tokens (or counts) read."""


def bench_read(
    corpus: Path | None,
    data: Path | None,
    cells: int = 100_000,
    repeats: int = 5,
    batch_cells: int = 256,
    annbatch_python: Path | None = None,
    out: Path = RESULTS,
) -> Path:
    """Measure cells/s into padded int32 batches.

    Parameters
    ----------
    corpus
        Folder of a corpus; one is built from `data` if not given.
    data, cells
        Folder of real h5ad files, and how many cells to make of them.
    repeats
        Measurements of each side.
    batch_cells
        Cells of a batch.
    annbatch_python
        Interpreter that can import annbatch and zarrs; without it that side is left out.
    out
        Folder of results.

    Raises
    ------
    InputError
        There is neither a corpus nor data, or the interpreter cannot run annbatch.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        scratch = Path(name)
        opened = open_corpus(corpus) if corpus else _build(data, cells, scratch)
        cache = scratch / "arrow"
        copying = copy(opened, cache)
        # A copy of the copy: what this process has mapped stays in the page cache.
        apart = shutil.copytree(cache, scratch / "apart")
        turns: dict[str, Turn] = {}
        for side in TOKENS:
            epoch = open_side(side, opened, cache, batch_cells)
            turns[side] = lambda seed, epoch=epoch: _timed(epoch(seed))  # type: ignore[misc]
        peer: dict[str, Any] = {}
        if annbatch_python:
            counts = opened.path / "counts" / f"{SPLIT}.zarr"
            turn, peer = stack.enter_context(_annbatch(annbatch_python, counts, batch_cells))
            turns[ANNBATCH] = turn
        with no_sleep():
            seconds, read = _in_turns(turns, repeats)
        cold = {side: measure_cold(side, opened.path, apart, batch_cells) for side in TOKENS}
        n_cells = opened.splits[SPLIT]["cells"]
        figures = {
            **_rates(seconds, read),
            "genes_per_cell": _genes_per_cell(opened),
            "bytes_per_cell": {
                "tokens": sum(size_of(path) for path in opened.token_files(SPLIT)) / n_cells,
                "datasets_copy": size_of(cache) / n_cells,
            },
            "datasets_copy_seconds": copying,
            "first_batches_cold": cold,
            "annbatch": peer,
        }
    settings = {
        "cells": n_cells,
        "repeats": repeats,
        "batch_cells": batch_cells,
        "lanes": ReaderOptions().lanes,
        "threads": ReaderOptions().threads,
        "buffer_of_peers": BUFFER,
    }
    figures["table"] = _table(figures)
    return write_result(out, "read", "read", settings, figures)


NAMES = {
    OURS: "cellscribe",
    MAPPED: "`datasets`, memory-mapped copy",
    STREAMED: "`datasets`, streaming, buffer of 16,384",
    ANNBATCH: "annbatch, counts without tokens",
}


def _table(figures: dict[str, Any]) -> dict[str, Any]:
    """README's rows."""
    rows = []
    for side, rate in figures["cells_per_second"].items():
        tokens, cold = figures["tokens_per_second"], figures["first_batches_cold"].get(side)
        rows.append(
            [
                NAMES[side],
                f"{rate:,.0f} cells/s",
                f"{tokens[side] / 1e6:,.0f} million/s" if side in tokens else "–",
                f"{cold['disk_bytes_per_cell'] / 1e3:,.0f} KB a cell" if cold else "–",
            ]
        )
    columns = ["read a corpus", "warm cache", "tokens", "first batches, cold cache"]
    return {"columns": columns, "rows": rows}


def _rates(
    seconds: dict[str, list[float]], read: dict[str, dict[str, int]]
) -> dict[str, dict[str, Any]]:
    medians = {side: statistics.median(each) for side, each in seconds.items()}
    return {
        "seconds": seconds,
        "read": read,
        "cells_per_second": {side: read[side]["cells"] / medians[side] for side in medians},
        "tokens_per_second": {side: read[side]["tokens"] / medians[side] for side in TOKENS},
        "ratio_of_medians": {
            side: median / medians[OURS] for side, median in medians.items() if side != OURS
        },
    }


def _build(data: Path | None, cells: int, scratch: Path) -> Corpus:
    """Make a corpus of real cells, which repeat where the folder holds fewer."""
    from cellscribe.config import BuildOptions, SplitOptions
    from cellscribe.corpus.build.build import build_corpus

    if data is None:
        raise InputError("bench read needs cells: name a --corpus, or a folder of h5ad with --data")
    source = scratch / "cells.h5ad"
    real_cells(data, cells, source)
    options = BuildOptions(keep_duplicates=True, obs=("dataset_id=source_dataset",))
    return build_corpus([source], scratch / "corpus", options, SplitOptions(holdout=0))


def _in_turns(
    turns: dict[str, Turn], repeats: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, int]]]:
    """Seconds of every side, `repeats` times round after a warm-up, and what each side read.

    Raises
    ------
    RuntimeError
        The sides did not read the same, so that their times say nothing.
    """
    read = {side: turn(0)[1] for side, turn in turns.items()}
    if len({done["cells"] for done in read.values()}) > 1:
        raise RuntimeError(f"the sides read different numbers of cells: {read}")
    if len({done["tokens"] for done in read.values() if "tokens" in done}) > 1:
        raise RuntimeError(f"the sides read different numbers of tokens: {read}")
    seconds: dict[str, list[float]] = {side: [] for side in turns}
    for seed in range(1, repeats + 1):
        for side, turn in turns.items():
            seconds[side].append(turn(seed)[0])
    return seconds, read


def _timed(batches: Batches) -> tuple[float, dict[str, int]]:
    cells = tokens = 0
    start = time.perf_counter()
    for padded, lengths in batches:
        cells += len(padded)
        tokens += int(lengths.sum())
    return time.perf_counter() - start, {"cells": cells, "tokens": tokens}


@contextmanager
def _annbatch(
    python: Path, collection: Path, batch_cells: int
) -> Iterator[tuple[Turn, dict[str, Any]]]:
    """Give a turn of annbatch in its own process, and what is known of it (filled as it works)."""
    script = Path(annbatch_peer.__file__)
    command: Sequence[str | Path] = [
        python,
        "-I",
        script,
        collection,
        f"{batch_cells}",
        f"{BUFFER}",
    ]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise InputError(f"{python} cannot be started ({error.strerror}); name a Python") from None
    with process:
        assert process.stdin and process.stdout and process.stderr
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        def answer() -> dict[str, Any]:
            line = stdout.readline()
            if not line:
                last = (stderr.read().strip().splitlines() or ["no message"])[-1]
                raise InputError(
                    f"annbatch in {python} failed: {last}; it needs annbatch[zarrs] and a corpus "
                    "with counts"
                )
            return json.loads(line)

        def epoch(chunk: int, seed: int) -> dict[str, Any]:
            stdin.write(f"{chunk} {seed}\n")
            stdin.flush()
            return answer()

        known: dict[str, Any] = {"packages": answer()}

        def turn(seed: int) -> tuple[float, dict[str, int]]:
            if "chunk_cells" not in known:
                tried = {
                    chunk: min(epoch(chunk, i)["seconds"] for i in range(3)) for chunk in CHUNKS
                }
                known["seconds_by_chunk_cells"] = tried
                known["chunk_cells"] = min(tried, key=lambda chunk: tried[chunk])
            done = epoch(known["chunk_cells"], seed)
            return done["seconds"], {"cells": done["cells"], "counts": done["counts"]}

        try:
            yield turn, known
        finally:
            process.kill()


def _genes_per_cell(corpus: Corpus) -> dict[str, float]:
    lengths = [table["length"].to_numpy() for table in corpus.cells(SPLIT, ["length"])]
    points = (5, 50, 95)
    values = np.percentile(np.concatenate(lengths), points)
    return {f"p{point}": float(value) for point, value in zip(points, values, strict=True)}
