"""What a run over many sources will take: every source's header, and a sample of the work."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellscribe.atlas.cut import cut, look_at
from cellscribe.atlas.fetch import Sources, is_copied, look_at_remote
from cellscribe.callbacks import Log
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.headers import read_header
from cellscribe.cells.pipeline import token_blocks
from cellscribe.cells.source_lists import Shard
from cellscribe.config import EmbedOptions, ShardOptions, TokenizeOptions
from cellscribe.errors import InputError
from cellscribe.inference.session import Session, open_session
from cellscribe.writing import size_of

SAMPLE_SECONDS = 2.0
"""Most that one look at the speed takes, about."""
MOST_COPIED = 3
"""Files of a bucket that are tried where none can be read in place."""
FEW_CELLS, GROWTH = 64, 4
"""Cells of the first look, and how many times as many each further one has."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take; cells are those of the sources whose header or size tells them."""

    sources: list[dict[str, Any]]
    """``name`` and ``shards`` of each; ``cells`` and ``bytes`` where they are known, ``by_size``
    where the cells are told by the bytes, ``reason`` where it cannot be used."""
    cells_per_second: float
    """Of one GPU, or of this machine with all its cores; 0 if no source could be sampled."""
    n_devices: int
    """GPUs that may work at a time; 1 without."""
    memory_bytes: int
    """Largest memory of this process so far: about what one worker takes."""

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return sum(source.get("cells", 0) for source in self.sources)

    @property
    def n_bytes(self) -> int:
        """Bytes in all."""
        return sum(source.get("bytes", 0) for source in self.sources)

    @property
    def n_shards(self) -> int:
        """Shards in all, of the good sources."""
        return sum(source["shards"] for source in self.sources)

    @property
    def device(self) -> str:
        """What the speed is of."""
        return f"each of {self.n_devices} GPUs" if self.n_devices > 1 else "this machine"

    @property
    def bad(self) -> list[str]:
        """Names of the sources that cannot be used."""
        return [source["name"] for source in self.sources if "reason" in source]

    def seconds(self, workers: int) -> float:
        """Time with so many workers on this machine; they share its cores or its GPUs."""
        if not self.cells_per_second:
            return 0.0
        at_once = max(1, min(workers, self.n_devices, self.n_shards))
        return self.n_cells / self.cells_per_second / at_once


def estimate_run(
    shards: Sequence[Shard],
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
    log: Log,
) -> Estimate:
    """Read the header of every source, and work on the first good one for two seconds.

    Parameters
    ----------
    shards
        From `find_shards`.
    options, sharing
        As for `run_shards`.
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        The model cannot be used.
    """
    sources, speed, n_devices = list[dict[str, Any]](), 0.0, 1
    copied: list[tuple[Shard, dict[str, Any]]] = []
    """Files in a bucket, of which at most the header was read."""
    with open_session(None, options, log=log) as session:
        for look in look_at(look_at_remote(shards), options, sharing.rows_per_shard):
            parts = cut(look, sharing.rows_per_shard, log)
            about: dict[str, Any] = {"name": look.shard.name, "shards": len(parts)}
            reason, remote = look.reason, "://" in look.shard.path
            if look.header is not None:
                about["cells"] = look.header.n_cells
            if remote and look.shard.size is not None:
                about["bytes"] = look.shard.size
            elif not remote and Path(look.shard.path).exists():
                about["bytes"] = size_of(Path(look.shard.path))
            if is_copied(look.shard) and reason is None:
                copied.append((look.shard, about))
            elif not speed and reason is None:
                try:
                    speed = _sample(session, options, look.shard)
                except InputError as error:
                    reason = str(error)
            if reason is not None:
                about |= {"reason": reason, "shards": 0}
                about.pop("cells", None)
            sources.append(about)
        if not speed:
            speed = _sample_copied(session, options, copied, sharing.spool_gb)
        if speed and isinstance(options, EmbedOptions):
            n_devices = _n_devices(session)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Estimate(
        sources=sources, cells_per_second=speed, n_devices=n_devices, memory_bytes=memory
    )


def _sample(session: Session, options: EmbedOptions | TokenizeOptions, shard: Shard) -> float:
    """Work on the first cells of a source, and on more of them until it takes long; cells a second.

    The first time is not counted: code is compiled and memory is taken in it.
    """
    own = options if shard.layer is None else replace(options, layer=shard.layer)
    with open_counts(shard.path, options=own, log=lambda line: None) as counts:
        genes = session.map_genes(counts, shard.gene_key or options.gene_key).genes
        size = min(FEW_CELLS, counts.n_cells)
        _work(session, options, counts.part(0, size), genes)
        while True:
            began = time.perf_counter()
            _work(session, options, counts.part(0, size), genes)
            seconds = time.perf_counter() - began
            if seconds > SAMPLE_SECONDS / GROWTH or size == counts.n_cells:
                return size / seconds
            size = min(GROWTH * size, counts.n_cells)


def _sample_copied(
    session: Session,
    options: EmbedOptions | TokenizeOptions,
    copied: Sequence[tuple[Shard, dict[str, Any]]],
    spool_gb: float | None,
) -> float:
    """Copy the smallest good one of the files in a bucket and work on it; cells a second.

    The others are taken to have as many cells for their bytes.
    """
    there = [(shard, about) for shard, about in copied if shard.size]
    for shard, about in sorted(there, key=lambda pair: pair[0].size or 0)[:MOST_COPIED]:
        try:
            with Sources([shard], spool_gb) as sources, sources.local(shard) as local:
                speed = _sample(session, options, local)
                header = read_header(local.path, options)
        except InputError as error:
            about |= {"reason": str(error), "shards": 0}
            continue
        for other, told in there:
            if header is not None and "reason" not in told and "cells" not in told:
                cells = round(header.n_cells * (other.size or 0) / (shard.size or 1))
                told |= {"cells": cells, "by_size": other is not shard}
        return speed
    return 0.0


def _work(
    session: Session, options: EmbedOptions | TokenizeOptions, counts: Counts, genes: GeneMap
) -> None:
    """Do the work of a verb, and keep nothing."""
    if isinstance(options, EmbedOptions):
        made: Generator[Any] = session.embedder.blocks(counts, genes)
    else:
        made = token_blocks(counts, genes, session.tokenizer(options.counts).tokenize)
    with closing(made) as blocks:
        for _ in blocks:
            continue


def _n_devices(session: Session) -> int:
    if session.embedder.device.type != "cuda":
        return 1
    import torch

    return torch.cuda.device_count()
