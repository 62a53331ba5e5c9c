"""Look at the sources of a run, and cut large ones so that one file can keep all workers busy.

What is cut, and where, depends on the sources and the options alone, so workers that come at any
time have the same list. A range of rows of a dense array ends where a chunk ends, as both its
readers would have to decode it; of a sparse one two ranges share a chunk at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellscribe.atlas.fetch import is_copied, refuse_absent
from cellscribe.atlas.remote_headers import Probe, is_hdf5, read_headers
from cellscribe.callbacks import Log
from cellscribe.cells.columns import find_column
from cellscribe.cells.headers import obs_columns, read_header
from cellscribe.cells.readers.anndata_files import Header
from cellscribe.cells.source_lists import Shard, refuse_same_names
from cellscribe.config import EmbedOptions, InputOptions
from cellscribe.errors import InputError
from cellscribe.inference.obs_columns import FLAG

CELL_BYTES = 100
"""A file of less than so much for each of the most cells of a shard is not opened to be counted:
cells with some hundred genes take more, and those with fewer take little time."""
MOST_REMOTE = 16
"""Files in a bucket that are looked at for a column of obs."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a source's header says."""

    shard: Shard
    header: Header | None = None
    """None of what has none, of a file in a bucket that is not worth cutting, and of a bad one."""
    reason: str | None = None
    """Why it cannot be used."""


def look_at(shards: Sequence[Shard], options: InputOptions, rows: int) -> Iterator[Look]:
    """Read the header of every source, in their order; a bad one is told, not raised.

    Parameters
    ----------
    shards
        From `find_shards`, and looked at by `look_at_remote`.
    options
        How sources are read.
    rows
        As for `cut_shards`.

    Raises
    ------
    InputError
        A bucket gives no answer.
    """
    large = [s for s in shards if rows and is_copied(s) and is_hdf5(s) and not _is_small(s, rows)]
    remote = read_headers(large, options)
    for shard in shards:
        own = options if shard.layer is None else replace(options, layer=shard.layer)
        try:
            refuse_absent(shard)
            copied = is_copied(shard)
            header = remote.get(shard.name) if copied else read_header(shard.path, own)
            yield Look(shard=shard, header=header)
        except InputError as error:
            yield Look(shard=shard, reason=str(error))
        except OSError as error:
            reason = f"{Path(shard.path)} cannot be read: {error.strerror or error}"
            yield Look(shard=shard, reason=reason)


def refuse_unknown_columns(shards: Sequence[Shard], options: EmbedOptions) -> None:
    """Refuse a column of obs that no source has, before hours are spent on nulls.

    Sources are looked at until each column is found: most often one. One that would have to be
    copied or converted for that may have it, so it ends the search; so does the last of
    `MOST_REMOTE` files in a bucket.

    Raises
    ------
    InputError
        No source that can be read has it; the message has names that are near it.
    """
    import pandas as pd

    missing, there, n_remote = list(options.obs), dict[str, None](), 0
    with Probe() as probe:
        for shard in shards:
            if not missing:
                return
            remote = is_copied(shard)
            n_remote += remote
            try:
                refuse_absent(shard)
                if n_remote > MOST_REMOTE:
                    return
                columns = (probe.columns if remote else _columns)(shard, options)
            except (InputError, OSError):  # to be listed among the failures
                continue
            if columns is None:
                return
            there |= dict.fromkeys(columns)
            missing = [name for name in missing if name not in there]
    if missing and there:
        source = shards[0].path if len(shards) == 1 else f"the {len(shards):,} sources"
        find_column(pd.DataFrame(columns=list(there)), missing[0], FLAG, source)


def cut_shards(shards: Sequence[Shard], rows: int, options: InputOptions, log: Log) -> list[Shard]:
    """Cut every source that has more than `rows` cells; the parts are named ``NAME.00000`` on.

    A source that is stored by genes stays whole, as each part would have to read all of it; so does
    one without a header. One that cannot be opened stays as it is, to be listed among the failures.

    Parameters
    ----------
    shards
        From `find_shards`.
    rows
        Most cells of a shard; 0 cuts nothing.
    options
        How sources are read.
    log
        Called with a line for a source that stays whole.

    Raises
    ------
    InputError
        A part would have the name of another source, or a bucket gives no answer.
    """
    if not rows:
        return list(shards)
    looks = look_at([shard for shard in shards if not _is_small(shard, rows)], options, rows)
    parts = {look.shard.name: cut(look, rows, log) for look in looks}
    found = [part for shard in shards for part in parts.get(shard.name, [shard])]
    refuse_same_names(found)
    return found


def _columns(shard: Shard, options: InputOptions) -> list[str] | None:
    return obs_columns(shard.path, options)


def _is_small(shard: Shard, rows: int) -> bool:
    """Tell by its bytes that a file is not worth cutting, in microseconds."""
    path, size = Path(shard.path), shard.size
    if not is_copied(shard):
        size = path.stat().st_size if path.is_file() else None
    elif size is None or not is_hdf5(shard):
        return True
    return size is not None and size < rows * CELL_BYTES


def cut(look: Look, rows: int, log: Log) -> list[Shard]:
    """Cut one source, if it has more than `rows` cells and is stored by rows."""
    shard, header = look.shard, look.header
    if not rows or header is None or header.n_cells <= rows or shard.rows is not None:
        return [shard]
    if not header.by_rows:
        log(f"{shard.path} is stored by genes and stays whole ({header.n_cells:,} cells)")
        return [shard]
    together = header.n_together
    step = max(together, rows // together * together)
    return [
        replace(shard, name=f"{shard.name}.{i:05}", rows=(first, min(first + step, header.n_cells)))
        for i, first in enumerate(range(0, header.n_cells, step))
    ]
