"""Headers of HDF5 files in a bucket, read in place by a process of their own (`remote_probe`).

A header takes some ten requests of 128 KiB. The process starts in about a second, so only files
that are worth cutting are looked at, several at once. A file on which it ends or which it cannot
read stays whole: what is wrong with it is told when it is copied and opened. But where the server
gives no answer the run ends, as workers that come at any time must have the same list of shards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields, replace
from types import TracebackType
from typing import Any

from cellscribe.cells.readers.anndata_files import Header
from cellscribe.cells.source_lists import Shard
from cellscribe.config import InputOptions
from cellscribe.errors import InputError

HDF5_ENDINGS = (".h5ad", ".h5", ".loom", ".h5mu", ".hdf5")
AT_ONCE = 4
"""Processes that look at files."""
FEW = 8
"""Files for which one of them is enough."""


class Probe:
    """A process that reads headers, started when it is first asked; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def header(self, shard: Shard, options: InputOptions) -> Header | None:
        """Read the header of a remote HDF5 file; None if it cannot be told.

        Raises
        ------
        InputError
            The server gives no answer.
        """
        found = self._ask(shard, options, columns=False).get("header")
        return Header(**found) if found else None

    def columns(self, shard: Shard, options: InputOptions) -> list[str] | None:
        """Read the names of a remote HDF5 file's columns of obs; None if they cannot be told.

        Raises
        ------
        InputError
            The server gives no answer.
        """
        found: list[str] | None = self._ask(shard, options, columns=True).get("columns")
        return found

    def _ask(self, shard: Shard, options: InputOptions, *, columns: bool) -> Mapping[str, Any]:
        if shard.etag is None or not shard.size or not is_hdf5(shard):
            return {}
        own = options if shard.layer is None else replace(options, layer=shard.layer)
        known = {field.name for field in fields(InputOptions)}
        given = {name: value for name, value in asdict(own).items() if name in known}
        question = {
            "url": shard.path,
            "size": shard.size,
            "etag": shard.etag,
            "options": given,
            "columns": columns,
        }
        try:
            process = self._process or self._start()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # no Python can be started, or it has ended
            line = ""
        if not line:
            self._end()
            return {}
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise InputError(answer["refused"])
        return answer

    def _start(self) -> subprocess.Popen[str]:
        folders = os.pathsep.join(folder for folder in sys.path if folder)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cellscribe.atlas.remote_probe"],
            env={**os.environ, "PYTHONPATH": folders, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends it
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()


def is_hdf5(shard: Shard) -> bool:
    """Tell by its name whether a source is an HDF5 file."""
    return shard.path.lower().endswith(HDF5_ENDINGS)


def read_headers(shards: Sequence[Shard], options: InputOptions) -> dict[str, Header]:
    """Read the headers of remote HDF5 files, several at once.

    Returns
    -------
    dict
        Header of each name of a shard; none of a file whose header cannot be told.

    Raises
    ------
    InputError
        A server gives no answer.
    """

    def read(some: Sequence[Shard]) -> dict[str, Header | None]:
        with Probe() as probe:
            return {shard.name: probe.header(shard, options) for shard in some}

    n = min(AT_ONCE, -(-len(shards) // FEW))
    with ThreadPoolExecutor(max(n, 1)) as pool:
        found = pool.map(read, [shards[i::n] for i in range(n)])
        return {name: header for each in found for name, header in each.items() if header}
