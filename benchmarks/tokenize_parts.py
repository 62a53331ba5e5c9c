"""What bounds tokenising: its parts one after the other, each in one thread.

In a run the parts of the second kind overlap: one thread reads, as many as there are cores rank,
one writes. What comes before the first cell does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BEFORE = "before the first cell: model's genes, file's genes and cells"
READ, RANK, WRITE = "read and check counts", "rank genes", "write Parquet"


def measure_parts(source: Path, out: Path, model: str, repeats: int) -> dict[str, float]:
    """Measure each part alone; the median of its seconds.

    Parameters
    ----------
    source
        The h5ad.
    out
        Parquet file that is written.
    model
        Checkpoint directory or bundled model.
    repeats
        Measurements of each part.
    """
    turns = [_one_turn(source, out, model) for _ in range(repeats)]
    return {part: statistics.median(turn[part] for turn in turns) for part in turns[0]}


def _one_turn(source: Path, out: Path, model: str) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellscribe.cells.counts import open_counts
    from cellscribe.cells.pipeline import BLOCK
    from cellscribe.cells.tokenize import STORED, record_batch
    from cellscribe.config import TokenizeOptions
    from cellscribe.families.registry import open_tokenizer
    from cellscribe.inference.session import open_session

    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = work()
        seconds[part] = time.perf_counter() - start
        return done

    def before() -> Any:
        names = counts.obs.index.to_numpy(dtype=object)
        return open_tokenizer(session.header), session.map_genes(counts).genes, names

    def write() -> None:
        writer, done = None, 0
        for each in cells:
            batch = record_batch(each, names[done : done + len(each.lengths)], front, back)
            if writer is None:
                writer = pq.ParquetWriter(out, batch.schema, **STORED)
            writer.write_table(pa.Table.from_batches([batch]))
            done += len(each.lengths)
        if writer is not None:
            writer.close()

    start = time.perf_counter()
    with open_session(model, TokenizeOptions()) as session, open_counts(source) as counts:
        tokenizer, genes, names = before()
        seconds[BEFORE] = time.perf_counter() - start
        blocks = timed(READ, lambda: list(counts.blocks(BLOCK)))
        cells = timed(RANK, lambda: [tokenizer.tokenize(block, genes.token) for block in blocks])
        front, back = tokenizer.front, tokenizer.back
        timed(WRITE, write)
    return seconds


def fastest(parts: dict[str, float], cores: int) -> float:
    """Seconds of a run whose parts overlap without loss on so many cores."""
    overlapping = [parts[part] for part in (READ, RANK, WRITE)]
    return parts[BEFORE] + max(max(parts[READ], parts[WRITE]), float(np.sum(overlapping)) / cores)
