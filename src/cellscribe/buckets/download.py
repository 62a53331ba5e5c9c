"""Whole objects to files, by several requests at once.

Each request is for a part, which goes to its place in the file, and every answer must be of the
same version: an object that changes meanwhile, or ends early, is an error and never a shorter file.
"""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cellscribe.buckets.refusals import UnsupportedError
from cellscribe.errors import InputError
from cellscribe.writing import disk_errors

if TYPE_CHECKING:
    from cellscribe.buckets.bucket import Bucket, Stored

PART = 8 << 20
"""Bytes of one request."""
STREAMS = 8
"""Requests at once for one object."""
SILENCE = 30.0
"""Seconds without a byte after which a web server is given up."""


class StoppedError(Exception):
    """A download was ended before it was whole."""


def download(
    bucket: Bucket,
    key: str,
    path: Path,
    listed: Stored | None = None,
    *,
    limit: int | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Copy an object to a file.

    Parameters
    ----------
    bucket, key
        The object.
    path
        Where to; what is there is replaced.
    listed
        What it must be; looked up if not given.
    limit
        Most bytes of one whose size is not known.
    stop
        Ends the download when it is set.

    Raises
    ------
    FileNotFoundError
        There is no such object.
    InputError
        It is another than `listed`, it ended early, the server refuses, or the disk is full.
    StoppedError
        `stop` was set.
    """
    about = listed or bucket.head(key)
    if about is None:
        raise FileNotFoundError(f"{bucket.name}/{key}")
    with disk_errors(path), path.open("wb") as file:
        if about.size is None:
            _stream(bucket, key, file, limit)
            return
        file.truncate(about.size)
        try:
            _fetch_parts(bucket, about, file.fileno(), stop or threading.Event())
        except UnsupportedError:  # no ranges
            file.truncate(0)
            _stream(bucket, key, file, about.size)


def _fetch_parts(bucket: Bucket, about: Stored, handle: int, stop: threading.Event) -> None:
    size, what = about.size or 0, f"{bucket.name}/{about.key}"

    def part(first: int) -> None:
        if stop.is_set():
            raise StoppedError
        end = min(first + PART, size)
        now, data = bucket.read_range(about.key, first, end)
        if now.version != about.version:
            raise InputError(f"{what} has changed since it was listed; run again")
        if len(data) != end - first:
            raise InputError(f"{what}: {len(data):,} of {end - first:,} bytes came; run again")
        while data:
            written = os.pwrite(handle, data, first)
            data, first = data[written:], first + written

    starts = range(0, size, PART)
    if bucket.is_web or len(starts) == 1:  # whether a web server knows ranges is seen by the first
        for first in starts[:1]:
            part(first)
        starts = starts[1:]
    if not starts:
        return
    pool = ThreadPoolExecutor(STREAMS)
    try:
        list(pool.map(part, starts))
    finally:
        # after an error the other parts are of no use
        pool.shutdown(cancel_futures=True)


def _stream(bucket: Bucket, key: str, file: IO[bytes], limit: int | None) -> None:
    """Read an object of a web server that knows no ranges, or no lengths, by one request."""
    url, done = bucket.web_address(key), 0
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as answer:
            size = answer.headers.get("Content-Length")
            if size is None and answer.headers.get("Transfer-Encoding") != "chunked":
                raise InputError(f"{url}: the server does not tell its length; download it first")
            while data := answer.read(1 << 20):
                done += file.write(data)
                if limit is not None and done > limit:
                    raise InputError(f"{url} has more than {limit:,} bytes; give more --spool-gb")
            if size is not None and done != int(size):
                raise InputError(f"{url}: {done:,} of {size} bytes came; run again")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise InputError(f"{url}: {type(error).__name__} while it was read; run again") from None
