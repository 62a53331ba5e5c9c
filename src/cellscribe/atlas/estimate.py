"""What a run over many sources will take, from a look at each source and a sample of the work."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellscribe.callbacks import Log
from cellscribe.cells.counts import open_counts
from cellscribe.cells.source_lists import Shard
from cellscribe.config import EmbedOptions
from cellscribe.errors import InputError
from cellscribe.inference.session import open_session
from cellscribe.writing import size_of

SAMPLE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take; counts are of the sources that could be opened."""

    shards: list[dict[str, Any]]
    """``name``, ``cells`` and ``bytes`` of each; ``reason`` where it cannot be opened."""
    cells_per_second: float
    """Of one worker; 0 if no source could be sampled."""
    memory_bytes: int
    """Largest memory of this process so far: about what one worker takes."""

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return sum(shard.get("cells", 0) for shard in self.shards)

    def seconds(self, workers: int) -> float:
        """Time with so many workers that do not slow each other down."""
        return self.n_cells / self.cells_per_second / workers if self.cells_per_second else 0.0


def estimate_run(shards: Sequence[Shard], options: EmbedOptions, log: Log) -> Estimate:
    """Look at every source, and embed cells of the first good one for two seconds.

    Parameters
    ----------
    shards
        From `find_shards`.
    options
        As for `run_shards`.
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        The model cannot be used.
    """
    looks, speed = [], 0.0
    with open_session(None, options, log=log) as session:
        for shard in shards:
            look: dict[str, Any] = {"name": shard.name}
            try:
                if "://" in shard.path:
                    raise InputError("in a bucket: not looked at")
                look["bytes"] = size_of(Path(shard.path))
                with open_counts(shard.path, options=options, log=lambda line: None) as counts:
                    look["cells"] = counts.n_cells
                    genes = session.map_genes(counts, shard.gene_key or options.gene_key).genes
                    if not speed:
                        embedder, done = session.embedder, 0
                        began = time.perf_counter()
                        for block in embedder.blocks(counts, genes):
                            done += len(block.vectors)
                            if time.perf_counter() - began > SAMPLE_SECONDS:
                                break
                        speed = done / (time.perf_counter() - began)
            except InputError as error:
                look["reason"] = str(error)
            looks.append(look)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Estimate(shards=looks, cells_per_second=speed, memory_bytes=memory)
