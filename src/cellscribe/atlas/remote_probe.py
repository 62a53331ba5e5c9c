"""The process that reads headers of HDF5 files in a bucket, by ranges: see `remote_headers`.

HDF5 may crash or hang on damaged bytes, so it is not let into the process that asks. Each line of
the input names an object; the answer is a line. Where a look takes far more computing or memory
than a header needs, the process ends by the signal of its timer, or says that it cannot tell.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
from collections import OrderedDict
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

from cellscribe.buckets.bucket import Bucket, Stored, split_object
from cellscribe.cells.headers import columns_of_source, header_of_source
from cellscribe.cells.readers.hdf5_probe import limit_memory_to
from cellscribe.config import InputOptions
from cellscribe.errors import InputError

BLOCK, MOST_BLOCKS = 128 << 10, 256
"""Bytes of a request, and how many are kept: what a header needs lies in some ten places."""
COMPUTING, WAITING = 20.0, 600.0
"""Seconds that one look may take, of computing, and with waiting for the server."""
MEMORY_BYTES = 2 << 30
"""Address space that a look may take."""


class RangedFile(io.RawIOBase):
    """An object as a file for reading, by ranges.

    Parameters
    ----------
    url
        Address of the object.
    listed
        What it must be; its size is known.
    """

    def __init__(self, url: str, listed: Stored) -> None:
        self._url, self._listed, self._at = url, listed, 0
        self._bucket = Bucket(split_object(url)[0])
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.failure: Exception | None = None
        """Why the server gave no answer: what HDF5 makes of that says nothing about the file."""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it has places."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._listed.size or 0}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """Tell the place."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the place on, as many bytes as there is room or are left."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            number, inside = divmod(self._at, BLOCK)
            piece = self._block(number)[inside : inside + len(view) - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done, self._at = done + len(piece), self._at + len(piece)
        return done

    def _block(self, number: int) -> bytes:
        first, end = number * BLOCK, min((number + 1) * BLOCK, self._listed.size or 0)
        if first >= end:
            return b""
        if number not in self._blocks:
            self._blocks[number] = self._fetched(first, end)
            if len(self._blocks) > MOST_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetched(self, first: int, end: int) -> bytes:
        try:
            now, data = self._bucket.read_range(self._listed.key, first, end)
            if now.version != self._listed.version or len(data) != end - first:
                raise InputError(f"{self._url} has changed since it was listed; run again")
        except Exception as error:
            self.failure = error
            raise
        return bytes(data)


def look(url: str, size: int, etag: str, options: dict[str, Any], columns: bool) -> dict[str, Any]:
    """Read a header, or the names of the columns of obs.

    Returns
    -------
    dict
        ``header`` or ``columns``; ``refused`` with why the server gave no answer; ``bad`` with what
        is wrong in the file.
    """
    import h5py

    from cellscribe.cells.readers.containers import hdf5_source
    from cellscribe.cells.readers.multimodal import Wanted

    given = InputOptions(**options)
    wanted = Wanted(modality=given.modality, table=given.table)
    try:
        opened = RangedFile(url, Stored(key=split_object(url)[1], size=size, etag=etag))
    except InputError as error:
        return {"refused": str(error)}
    try:
        with ExitStack() as stack:
            file = stack.enter_context(h5py.File(opened, "r"))
            source = hdf5_source(file, url, lambda line: None, wanted)
            wanted.check(source)
            if columns:
                return {"columns": columns_of_source(source)}
            return {"header": asdict(header_of_source(source, given))}
    # whatever a library says of a file that it cannot read
    except Exception as error:  # noqa: BLE001
        if isinstance(opened.failure, InputError | FileNotFoundError):
            return {"refused": str(opened.failure)}
        return {"bad": str(error)}


def set_timers(computing: float, waiting: float) -> None:
    """End this process by a signal after so many seconds; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, computing)
    signal.setitimer(signal.ITIMER_REAL, waiting)


def main() -> None:
    """Answer one line for each line of the input."""
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import anndata.io
    import h5py  # noqa: F401

    assert anndata.io
    with suppress(OSError):  # no /proc: not Linux
        limit_memory_to(MEMORY_BYTES)
    for line in sys.stdin:
        set_timers(COMPUTING, WAITING)
        answer = look(**json.loads(line))
        set_timers(0, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
