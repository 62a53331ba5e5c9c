"""Walks through HDF5 files in a process of its own, where the library may crash or hang.

`hdf5_guard` runs this file by its path: it imports nothing of cellscribe, only h5py. Each line of
its input names a file and the seconds that a step may take; it answers with a line when it has
opened every group, array and attribute, counted the chunks of every array, and read the texts,
whose heaps are the part of the library that damaged bytes reach most deeply. What raises an error
is passed over: the same call raises it again where the file is read. Only where HDF5 asks for far
more memory than the file has bytes, as for a text that claims 4 GB, the answer says so.

The process ends itself, by the signals of its own timers, where one step takes more computing or
waiting than its limit allows; each step sets the timers anew, so a large file or a slow disk is
never taken for a hang. It also ends when it is idle, and when its input is closed.
"""

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IDLE_SECONDS = 60
WAITING = 60
"""How much longer a step may wait (for a slow disk, for a busy machine) than it may compute."""
MEMORY_BYTES = 1 << 30
"""Address space that a walk may take, next to twice the size of its file."""
PIECE = 4_096
"""Values at each end of an array that are read."""
TEXTS = 100_000
"""Texts at each end of an array that are read."""
ROW_BYTES = 16 << 20
"""Longer attributes, and arrays with longer rows, are not read."""
CHUNK_BYTES = 64 << 20
"""Arrays with larger chunks are not read."""
MOST = 200_000
"""Members after which the walk ends; files of cells have hundreds."""


def step(seconds: float) -> None:
    """Give the next step so many seconds of computing, and far more of waiting."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)


def walk(root: Any, seconds: float) -> Iterator[Any]:
    """Yield every group and array once, whatever links lead to it."""
    import h5py

    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting and len(seen) < MOST:
        found = waiting.pop()
        step(seconds)
        with passing_over():
            info = h5py.h5o.get_info(found.id)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            yield found
            for key in found if isinstance(found, h5py.Group) else ():
                step(seconds)
                with passing_over():
                    refuse_pipe(found, key)
                    waiting.append(found[key])


class Pipe(BaseException):
    """A link leads to what is no file: opening it may wait for ever."""


def refuse_pipe(group: Any, key: str) -> None:
    """Raise `Pipe` if a member is a link to another file that is no regular file."""
    import h5py

    link = group.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        for folder in (os.path.dirname(group.file.filename), ""):
            there = os.path.join(folder, link.filename)
            if os.path.exists(there) and not os.path.isfile(there):
                raise Pipe


@contextmanager
def passing_over() -> Iterator[None]:
    """Go on after an error, but not where memory is wanting."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "allocat" in str(error):
            raise MemoryError from error


def look_at_attributes(found: Any) -> None:
    """Read every attribute of an element."""
    for key in found.attrs:
        with passing_over():
            attribute = found.attrs.get_id(key)
            if math.prod(attribute.shape or ()) * attribute.dtype.itemsize <= ROW_BYTES:
                found.attrs[key]


def look_at_values(found: Any, seconds: float) -> None:
    """Go through the chunks of an array, and read both its ends."""
    import h5py

    # values in other files are never read
    if not found.shape or found.is_virtual or found.external:
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


def look_at(path: str, seconds: float) -> bytes:
    """Walk through a file; how it ended."""
    import h5py

    try:
        with passing_over(), h5py.File(path, "r") as file:
            for found in walk(file, seconds):
                with passing_over():
                    look_at_attributes(found)
                    if isinstance(found, h5py.Dataset):
                        look_at_values(found, seconds)
    except MemoryError:
        return b"memory"
    except Pipe:
        return b"pipe"
    return b"done"


def limit_memory(path: str) -> None:
    """Give the walk through a file as much address space as it may need."""
    limit_memory_to(MEMORY_BYTES + 2 * os.stat(path).st_size)


def limit_memory_to(size: int) -> None:
    """Give this process so many bytes of address space more than it has."""
    limit = size + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main() -> None:
    """Answer one line for each line of the input."""
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import h5py  # noqa: F401

    for line in sys.stdin.buffer:
        path, seconds = json.loads(line)
        # no /proc: not Linux
        with suppress(OSError):
            limit_memory(path)
        answer = look_at(path, seconds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, IDLE_SECONDS)
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
