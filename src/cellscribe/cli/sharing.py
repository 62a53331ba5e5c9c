"""How the verbs embed and tokenize run over many sources."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from cyclopts import Group

from cellscribe.callbacks import log_stderr, number_of, tell_stderr
from cellscribe.cli.progress import shards_bar
from cellscribe.config import EmbedOptions, ShardOptions, TokenizeOptions
from cellscribe.errors import InputError, one_line

if TYPE_CHECKING:
    from cellscribe.atlas.run import Run


MANY = Group("Many sources", sort_key=8)
"""Options of a run over many sources, in the help."""
MOST_LISTED, WIDEST_NAME = 50, 40
"""Failures that are listed, and columns of their names."""


def is_many(sources: tuple[str, ...], out: str) -> bool:
    """Tell a run over many sources, into a folder, from one with a file as its output.

    Raises
    ------
    InputError
        No source is named, or several are and the output is a file.
    """
    from cellscribe.cells.source_lists import MAGIC, is_list
    from cellscribe.inference.outputs import FORMS

    if not sources:
        raise InputError("no source is named; name a file, a folder or a list of them")
    pattern = any(mark in sources[0] for mark in MAGIC) and not Path(sources[0]).exists()
    folder = "://" in sources[0] and sources[0].endswith("/") and ".zarr/" not in sources[0]
    several = len(sources) > 1 or pattern or folder or is_list(Path(sources[0]))
    if several and PurePath(out).suffix in FORMS:
        raise InputError(
            f"several sources give a file each: name a folder in place of {out}, and join what is "
            "in it with cellscribe collect"
        )
    remote_folder = "://" in out and PurePath(out).suffix not in FORMS
    return several or remote_folder or not PurePath(out).suffix


def refuse_sharing(out: str, sharing: ShardOptions) -> None:
    """Refuse options of a run over many sources for a run over one.

    Raises
    ------
    InputError
        One of them is given.
    """
    if sharing != ShardOptions():
        raise InputError(
            f"{out} is one file; --form, --workers and the like are for an output folder"
        )


def run_many(
    verb: Callable[..., Run],
    sources: tuple[str, ...],
    out: str,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
    *,
    as_json: bool = False,
) -> None:
    """Run over many sources with a bar; the failures are listed at the end, with status 1.

    Parameters
    ----------
    verb
        The function of the package.
    sources, out, options, sharing
        Its arguments.
    as_json
        Print the manifest in place of the output's name.
    """
    if sharing.dry_run:
        print_estimate(sources, out, options, sharing)
        return
    with shards_bar(log_stderr) as tally:
        run = verb(sources, out, options, sharing=sharing, listener=tally, log=log_stderr)
    shards = run.manifest["shards"]
    bad = [shard for shard in shards if shard["status"] != "done"]
    speed = ""
    if tally.n_cells:
        speed = f", {tally.n_cells / max(tally.seconds, 1e-9):,.0f} cells/s in this run"
    log_stderr(
        f"{len(shards) - len(bad):,} of {number_of(len(shards), 'shard')}, "
        f"{number_of(run.n_cells, 'cell')}{speed}"
    )
    _list_warnings(shards, out)
    _list_failures(bad, out)
    print(json.dumps(run.manifest) if as_json else out)
    if bad:
        sys.exit(1)


def _list_warnings(shards: list[dict[str, Any]], out: str) -> None:
    """List what to know before trusting the vectors, a line each; of many shards the first."""
    out = out.rstrip("/")
    found = [(shard["name"], line) for shard in shards for line in shard.get("warnings", ())]
    for name, line in found[:MOST_LISTED]:
        log_stderr(f"Warning: {name}: {line}")
    if len(found) > MOST_LISTED:
        more = number_of(len(found) - MOST_LISTED, "more warning")
        log_stderr(f"Warning: … and {more}, which {out}/manifest.json lists")


def _list_failures(bad: list[dict[str, Any]], out: str) -> None:
    """List shards without a result, a line each: name and reason."""
    shown, out = bad[:MOST_LISTED], out.rstrip("/")
    width = min(WIDEST_NAME, max((len(shard["name"]) for shard in shown), default=0))
    if bad:
        tell_stderr(f"{len(bad):,} failed:")
    for shard in shown:
        reason = one_line(shard.get("reason", "no worker was left; run again"))
        tell_stderr(f"  {shard['name']:<{width}}  {reason}")
    if len(bad) > len(shown):
        tell_stderr(f"  … and {len(bad) - len(shown):,} more, which {out}/manifest.json lists")


def print_estimate(
    sources: tuple[str, ...],
    out: str,
    options: EmbedOptions | TokenizeOptions,
    sharing: ShardOptions,
) -> None:
    """Print what a run would take, a line for each source and one for all; status 1 if one is bad.

    Raises
    ------
    InputError
        See `estimate_run`.
    """
    from cellscribe.api.atlas import shards_of
    from cellscribe.atlas.estimate import estimate_run

    found = estimate_run(shards_of(sources, out), options, sharing, log_stderr)
    for source in found.sources:
        cells = number_of(source["cells"], "cell") if "cells" in source else "cells not known"
        cells = f"about {cells}" if source.get("by_size") else cells
        size = _size(source["bytes"]) if "bytes" in source else ""
        shards = number_of(source["shards"], "shard") if source["shards"] > 1 else ""
        print(f"{source['name']}\t{source.get('reason', cells)}\t{size}\t{shards}".rstrip())
    workers, took = sharing.workers or 1, "time not known, as no source could be worked on"
    if found.cells_per_second:
        rate = f"{found.cells_per_second:,.0f} cells/s of {found.device}"
        took = f"about {_time(found.seconds(workers))} at {rate}"
    bad = f" ({len(found.bad):,} bad)" if found.bad else ""
    print(
        f"{number_of(len(found.sources), 'source')}{bad}, {number_of(found.n_shards, 'shard')}, "
        f"{number_of(found.n_cells, 'cell')}, {_size(found.n_bytes)}: "
        f"{took}, "
        f"{workers} x {_size(found.memory_bytes)} of memory"
    )
    if found.bad:
        sys.exit(1)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.1f} min" if seconds >= 120 else f"{seconds:,.0f} s"
