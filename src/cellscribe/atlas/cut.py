"""Cut large sources into row ranges, so that one file can keep all workers busy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cellscribe.callbacks import Log
from cellscribe.cells.counts import open_counts
from cellscribe.cells.source_lists import Shard
from cellscribe.config import InputOptions
from cellscribe.errors import InputError


def cut_shards(
    shards: Sequence[Shard], rows: int, options: InputOptions, log: Log
) -> Iterator[Shard]:
    """Cut every source that has more than `rows` cells; the parts are named ``NAME.00000`` on.

    A source that is stored by genes stays whole, as each part would have to read all of it; so does
    one in a bucket. One that cannot be opened stays as it is, to be listed among the failures.

    Parameters
    ----------
    shards
        From `find_shards`.
    rows
        Most cells of a shard.
    options
        How sources are read.
    log
        Called with a line for a source that stays whole.
    """
    for shard in shards:
        n_cells, by_rows = _look(shard, options)
        if n_cells <= rows:
            yield shard
        elif not by_rows:
            log(f"{shard.path} is stored by genes and stays whole ({n_cells:,} cells)")
            yield shard
        else:
            for i, first in enumerate(range(0, n_cells, rows)):
                last = min(first + rows, n_cells)
                yield replace(shard, name=f"{shard.name}.{i:05}", rows=(first, last))


def _look(shard: Shard, options: InputOptions) -> tuple[int, bool]:
    """Cells of a source, and whether it is stored by rows; 0 cells if that cannot be known here."""
    if "://" in shard.path:
        return 0, False
    own = options if shard.layer is None else replace(options, layer=shard.layer)
    # worth converting is only what is read: a matrix of genes x cells is told by its header
    try:
        with open_counts(shard.path, options=own, log=lambda line: None) as counts:
            return counts.n_cells, counts.by_rows
    except InputError:
        return 0, False
