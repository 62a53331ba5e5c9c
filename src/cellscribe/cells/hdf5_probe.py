"""Walks through HDF5 files in a process of its own, where the library may crash or hang.

`hdf5_guard` runs this file by its path: it imports nothing of cellscribe, only h5py. Each line of
its input names a file and the seconds that a step may take; it answers with a line when it has
opened every group, array and attribute, counted the chunks of every array, and read the texts,
whose heaps are the part of the library that damaged bytes reach most deeply. What raises an error
is passed over: the same call raises it again where the file is read.

The process ends itself, by the signals of its own timers, where one step takes more computing or
waiting than its limit allows; each step sets the timers anew, so a large file or a slow disk is
never taken for a hang. It also ends when it is idle, and when its input is closed.
"""

import json
import math
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

IDLE_SECONDS = 60
MEMORY_BYTES = 16 << 30
"""Address space: damaged sizes must not fill the machine."""
PIECE = 4_096
"""Values at each end of an array that are read."""
TEXTS = 100_000
"""Texts at each end of an array that are read."""
ROW_BYTES = 16 << 20
"""Longer attributes, and arrays with longer rows, are not read."""
CHUNK_BYTES = 256 << 20
"""Arrays with larger chunks are not read."""
MOST = 200_000
"""Members after which the walk ends; files of cells have hundreds."""


def step(seconds: float) -> None:
    """Give the next step so many seconds of computing, and ten times as many of waiting."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def walk(root: Any, seconds: float) -> Iterator[Any]:
    """Yield every group and array once, whatever links lead to it."""
    import h5py

    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting and len(seen) < MOST:
        found = waiting.pop()
        step(seconds)
        with suppress(Exception):
            info = h5py.h5o.get_info(found.id)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            yield found
            for key in found if isinstance(found, h5py.Group) else ():
                step(seconds)
                with suppress(Exception):
                    waiting.append(found[key])


def look_at_attributes(found: Any) -> None:
    """Read every attribute of an element."""
    for key in found.attrs:
        with suppress(Exception):
            attribute = found.attrs.get_id(key)
            if math.prod(attribute.shape or ()) * attribute.dtype.itemsize <= ROW_BYTES:
                found.attrs[key]


def look_at_values(found: Any, seconds: float) -> None:
    """Go through the chunks of an array, and read both its ends."""
    import h5py

    if not found.shape:
        return
    if found.chunks is not None:
        found.id.get_num_chunks()
        step(seconds)
    size, *others = found.shape
    row_bytes = math.prod(others) * found.dtype.itemsize
    chunk_bytes = math.prod(found.chunks or (0,)) * found.dtype.itemsize
    if row_bytes > ROW_BYTES or chunk_bytes > CHUNK_BYTES:
        return
    texts = h5py.check_string_dtype(found.dtype) is not None and found.ndim == 1
    count = TEXTS if texts else max(1, PIECE // max(math.prod(others), 1))
    for low in {0, max(0, size - count)}:
        step(seconds)
        found[low : low + count]


def look_at(path: str, seconds: float) -> None:
    """Walk through a file."""
    import h5py

    with suppress(Exception), h5py.File(path, "r") as file:
        for found in walk(file, seconds):
            with suppress(Exception):
                look_at_attributes(found)
                if isinstance(found, h5py.Dataset):
                    look_at_values(found, seconds)


def main() -> None:
    """Answer one line for each line of the input."""
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # with numpy's threads started, the address space that it takes is known
    import h5py  # noqa: F401

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    for line in sys.stdin.buffer:
        path, seconds = json.loads(line)
        look_at(path, seconds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
        sys.stdout.buffer.write(b"done\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
