"""A run from file to file whose source or output is remote.

The source is copied first (`spool`); a zarr store is read in place. The output is made on this
machine and uploaded when it is whole: an object appears at once, and of a zarr store the metadata
at its root comes last. What keeps two runs off one object is `atlas.remote_lease`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from cellscribe.buckets.bucket import Bucket, split_object
from cellscribe.buckets.credentials import WEB
from cellscribe.buckets.spool import Spool
from cellscribe.errors import InputError
from cellscribe.writing import OutputError

T = TypeVar("T")
ZARR = ".zarr"


@contextmanager
def local_paths(source: T, out: str | Path, *, overwrite: bool) -> Iterator[tuple[T | str, Path]]:
    """Give local paths in the place of remote ones until the block ends; then upload the output.

    Parameters
    ----------
    source
        URL of an object; anything else is given back.
    out
        URL or path of the output. What the block makes next to it is uploaded before it.
    overwrite
        Replace an output that exists.

    Raises
    ------
    InputError
        There is no such source, the output exists without `overwrite`, or a bucket refuses. What
        the block raises names the URLs.
    """
    read = source if isinstance(source, str) and "://" in source else ""
    given: T | str = source
    path, urls = Path(out), {}
    with ExitStack() as stack:
        if "://" in str(out):
            path = stack.enter_context(_uploaded(str(out), overwrite=overwrite))
            urls[str(path)] = str(out)
        if read and not read.rstrip("/").endswith(ZARR):
            given = str(stack.enter_context(stack.enter_context(Spool()).copy(read)))
            urls[given] = read
        try:
            yield given, path
        except InputError as error:
            if isinstance(error, OutputError) or not urls:
                raise
            text = str(error)
            for local, url in urls.items():
                text = text.replace(local, url)
            raise InputError(text) from error


@contextmanager
def _uploaded(url: str, *, overwrite: bool) -> Iterator[Path]:
    root, key = split_object(url)
    if root.partition("://")[0] in WEB:
        raise InputError(f"{url}: nothing can be written to the web; name a file or a bucket")
    bucket = Bucket(root)
    is_there = bucket.head(key) is not None or (key.endswith(ZARR) and any(bucket.keys(key)))
    if is_there and not overwrite:
        raise InputError(f"{url} exists already; give --overwrite to replace it, or another name")
    parent, _, name = key.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="cellscribe-") as folder:
        path = Path(folder) / name
        yield path
        if key.endswith(ZARR):
            for old in list(bucket.keys(key)):
                bucket.delete(old)
        made = [file for file in Path(folder).iterdir() if not file.name.startswith(".")]
        for file in sorted(made, key=lambda file: file == path):
            bucket.take_in(f"{parent}/{file.name}".lstrip("/"), file)
