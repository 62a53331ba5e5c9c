"""Read the first batches of an epoch when nothing of the corpus is in the page cache.

A warm cache hides what a reader costs with a corpus larger than memory; a cold one shows it on a
smaller corpus: the bytes that the disk delivers for each cell, which are many where a reader picks
cells one by one out of a mapped file. Measured in a process of its own, since what a process
has mapped cannot be dropped from the cache. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.sides import Batches, no_sleep, open_side

IO = Path("/proc/self/io")
BATCHES = 10


def measure_cold(side: str, corpus: Path, cache: Path, batch_cells: int) -> dict[str, float] | None:
    """Read the first ten batches of a shuffled epoch from a cold cache.

    Parameters
    ----------
    side
        One of `sides.TOKENS`.
    corpus
        Folder of the corpus.
    cache
        Folder of the copy that datasets made.

    Returns
    -------
    dict or None
        ``cells``, ``cells_per_second`` and ``disk_bytes_per_cell``; None where there is no /proc.
    """
    if not IO.exists():
        return None
    command = [sys.executable, "-m", __name__, side, str(corpus), str(cache), str(batch_cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Let the system forget what it keeps of files; no process may have them mapped."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _main(side: str, corpus: str, cache: str, batch_cells: str) -> dict[str, Any]:
    # Before the mapping, which keeps pages, and after the opening, which reads some.
    files = [*Path(corpus).rglob("*.parquet"), *Path(cache).rglob("*.arrow")]
    drop_from_cache(files)
    batches: Batches = open_side(side, Path(corpus), Path(cache), int(batch_cells))(0)
    drop_from_cache(files)
    before, start = _read_bytes(), time.perf_counter()
    cells = 0
    with no_sleep():
        for padded, _ in islice(batches, BATCHES):
            cells += len(padded)
    seconds = time.perf_counter() - start
    return {
        "cells": cells,
        "cells_per_second": cells / seconds,
        "disk_bytes_per_cell": (_read_bytes() - before) / cells,
    }


def _read_bytes() -> int:
    fields = dict(line.split(": ") for line in IO.read_text().splitlines())
    return int(fields["read_bytes"])


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
