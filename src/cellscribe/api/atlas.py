"""The verb atlas: many sources to vectors, and their results joined."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import EmbedOptions, ShardOptions, TokenizeOptions
from cellscribe.errors import InputError
from cellscribe.lease import claim

if TYPE_CHECKING:
    from cellscribe.atlas.listener import Listener
    from cellscribe.atlas.run import Run
    from cellscribe.cells.source_lists import Shard


def embed_files(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    options: EmbedOptions | None = None,
    *,
    model: str | Path | None = None,
    sharing: ShardOptions | None = None,
    progress: Progress | None = None,
    listener: Listener | None = None,
    log: Log = log_stderr,
) -> Run:
    """Embed many sources, each into a file of its own in the folder `out`.

    Any number of processes, on any number of machines, may make the same call at once: they share
    the work out. A later call does what is missing or has changed.

    Parameters
    ----------
    sources
        Files, folders of files, globs, URLs (``s3://``, ``gs://``, ``az://``), or lists: a CSV with
        the column ``path`` (and ``name``, ``layer``, ``gene_key``), or a text file of paths.
    out
        Folder or URL; it gets a file for each source, and ``manifest.json``.
    options
        As for `embed_file`.
    model
        In place of that of `options`.
    sharing
        Form of the results, number of processes.
    progress
        Called with (shards that have ended, shards in all, a line with cells, cells/s, failures and
        the time left) a few times a second.
    listener
        Hears of more, in place of `progress`.
    log
        Called with each line that a user should read.

    Returns
    -------
    Run
        The manifest, and the sources that failed with the reason of each.

    Raises
    ------
    InputError
        Bad options, a source that names nothing, an output that holds other results, a full disk;
        with `sharing.strict`, why a source failed.
    KeyboardInterrupt
        Ctrl-C; the same call goes on from there.
    """
    return _run(sources, out, model, options or EmbedOptions(), sharing, progress, listener, log)


def tokenize_files(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    options: TokenizeOptions | None = None,
    *,
    model: str | Path | None = None,
    sharing: ShardOptions | None = None,
    progress: Progress | None = None,
    listener: Listener | None = None,
    log: Log = log_stderr,
) -> Run:
    """Tokenise many sources, each into a ``.parquet`` of its own in the folder `out`.

    Parameters
    ----------
    sources, out, model, sharing, progress, listener, log
        As for `embed_files`.
    options
        As for `tokenize`.

    Returns
    -------
    Run
        As for `embed_files`.

    Raises
    ------
    InputError
        As for `embed_files`.
    """
    return _run(sources, out, model, options or TokenizeOptions(), sharing, progress, listener, log)


def _run(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    model: str | Path | None,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions | None,
    progress: Progress | None,
    listener: Listener | None,
    log: Log,
) -> Run:
    from cellscribe.atlas.run import run_shards
    from cellscribe.atlas.tally import Reports

    if listener is None and progress is not None:
        listener = Reports(progress)
    if model is not None:
        options = replace(options, model=str(model))
    return run_shards(
        shards_of(sources, out),
        out,
        options,
        sharing or ShardOptions(),
        log=log,
        listener=listener,
    )


def collect(
    folder: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Join the results of `embed_files` or `tokenize_files`, in the order of its sources.

    Parameters
    ----------
    folder
        Its output folder or URL; the results in it are ``.parquet``.
    out
        ``.parquet``, ``.zarr``, ``.h5ad``, or ``.npy`` with an index in ``OUT.cells.parquet``; of
        tokens ``.parquet``.
    overwrite
        Replace `out` if it exists.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    int
        Cells.

    Raises
    ------
    InputError
        Sources that failed or are missing, results that are not as they were written, another
        form.
    """
    from cellscribe.atlas.collect import check_form, collect_parts, index_of, read_parts

    if "://" in str(out):
        raise InputError(f"{out}: what is joined is one file here; name a path, and upload it")
    out, here = Path(out), [] if "://" in str(folder) else [Path(folder)]
    parts, about = read_parts(folder)
    check_form(out, about)
    with claim(out, here, overwrite=overwrite, beside=index_of(out)):
        return collect_parts(parts, out, about, progress=progress)


def shards_of(sources: str | Path | Sequence[str | Path], out: str | Path) -> list[Shard]:
    """Shards of sources, none of which lies in the output folder.

    Raises
    ------
    InputError
        See `find_shards`; a source is a result.
    """
    from cellscribe.atlas.sources import find_shards

    words = [sources] if isinstance(sources, str | Path) else list(sources)
    if not words:
        raise InputError("no source is named; name files, a folder or a list of them")
    shards = find_shards(words)
    folder, given = str(out).rstrip("/"), set(map(str, words))
    for shard in shards:
        if shard.path in given and "://" not in shard.path and not os.path.exists(shard.path):
            raise InputError(f"{shard.path}: no such file; check the path")
        if _are_one(shard.path.rstrip("/").rpartition("/")[0] or ".", folder):
            raise InputError(f"{shard.path} lies in the output folder {out}; name another folder")
        if any(_are_one(shard.path, above) for above in _above(folder)):
            raise InputError(f"{out} lies in the source {shard.path}; name another folder")
    return shards


def _are_one(one: str, other: str) -> bool:
    """Whether two names are of one folder, by whatever links and spellings."""
    if "://" in one or "://" in other:
        return one == other
    return os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other)


def _above(folder: str) -> list[str]:
    """A folder and those that it lies in."""
    if "://" in folder:
        return []
    whole = Path(folder).resolve()
    return [str(path) for path in (whole, *whole.parents)]
