"""Text files of cells: opened whatever compresses them, and read as blocks of whole lines.

The compression is told by the first bytes. gzip (and bgzip) is decompressed by ISA-L, bzip2 and xz
by Python, Zstandard and lz4 by Arrow. A line is held whole, so its length is bounded.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

from isal import igzip, isal_zlib

from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.errors import InputError, one_line

ISAL_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]
TEXT_ERRORS = (OSError, EOFError, zlib.error, ISAL_ERROR, lzma.LZMAError)
"""What the decompressors raise when bytes are missing or wrong."""
READ_BYTES = 4 << 20
"""Text read at a time."""
COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".lz4")
"""Endings of file names that say how a text is compressed."""
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
MOST_EXPANDED = {"": 1, "gzip": 1032}
"""Bytes that a byte of the file may stand for; other compressors have no such bound."""


def shown(value: str | bytes, longest: int = 60) -> str:
    """Give text of a file as a message may hold it: a short line without control characters."""
    text = value[:4000].decode("utf-8", "replace") if isinstance(value, bytes) else value
    return one_line(text, longest)


def listed(values: list[str], most: int = 6) -> str:
    """Join names for a message, the first few of them."""
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(shown(value) for value in values[:most]) + more


def plain_name(path: Path) -> str:
    """Name of a file in lower case, without the ending that says how it is compressed."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name


def need_file(path: Path) -> None:
    """Refuse what is no regular file: opening a pipe would wait for ever.

    Raises
    ------
    InputError
        It is a pipe, a socket or a device.
    OSError
        Nothing is there, or it may not be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        raise InputError(
            f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file; "
            "write the cells to a file first, because it is read more than once"
        )


def compression(head: bytes) -> str:
    """Name what compresses a file that begins so; "" if nothing does."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def first_bytes(path: Path, size: int = 8) -> bytes:
    """Read the first bytes of a regular file."""
    need_file(path)
    with path.open("rb") as file:
        return file.read(size)


def open_text(path: Path) -> IO[bytes]:
    """Open a text file, decompressed.

    Raises
    ------
    InputError
        It is no regular file.
    OSError
        It is not there, or may not be read.
    """
    kind = compression(first_bytes(path))
    openers: dict[str, Callable[..., Any]] = {
        "gzip": igzip.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
    }
    if kind in openers:
        return cast(IO[bytes], openers[kind](path))
    if kind:
        import pyarrow as pa

        # Arrow has no lines of a compressed file
        return io.BufferedReader(pa.input_stream(str(path), compression=kind))
    return path.open("rb")


def first_text(path: Path) -> bytes:
    """Read the first bytes under a compression; none where it is damaged."""
    try:
        with open_text(path) as file:
            return file.read(64)
    # a damaged file has nothing that could be recognised
    except TEXT_ERRORS:
        return b""


def most_bytes(path: Path) -> float:
    """Bound the bytes of text that a file can hold."""
    return path.stat().st_size * MOST_EXPANDED.get(compression(first_bytes(path)), float("inf"))


def unreadable(name: str, error: Exception) -> InputError:
    """Error for a file whose bytes are missing or wrong."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"{name} cannot be read ({shown(reason, 120)}); {DAMAGED}")


def line_blocks(file: IO[bytes], name: str, longest: int) -> Generator[bytes]:
    r"""Read the rest of a file as blocks that end where a line ends.

    Lines end with "\n", "\r\n" or "\r".

    Parameters
    ----------
    longest
        Bytes that a line may have.

    Raises
    ------
    InputError
        A line is longer, or the file cannot be read.
    """
    kept: list[bytes] = []
    size = 0
    for block in _read_ahead(file, name):
        end = block.rfind(b"\n") + 1
        if not end:
            # a last "\r" may be the first half of a line end
            end = block.rfind(b"\r", 0, -1) + 1
        if end:
            yield b"".join([*kept, block[:end]])
            kept, size = [], 0
        kept.append(block[end:])
        size += len(kept[-1])
        if size > longest:
            raise InputError(
                f"{name}: a line is longer than {longest / 1e6:,.0f} MB; "
                "write the cells as .h5ad with anndata"
            )
    if size:
        yield b"".join(kept)


def _read_ahead(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Read blocks, each while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(file.read, READ_BYTES)
        while True:
            try:
                block = following.result()
            except TEXT_ERRORS as error:
                raise unreadable(name, error) from error
            if not block:
                return
            following = pool.submit(file.read, READ_BYTES)
            yield block
