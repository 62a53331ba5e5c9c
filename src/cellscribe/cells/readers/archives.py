"""Archives of a matrix folder or of one table: tar, compressed or not, and zip.

Only the matrix and the tables next to it are unpacked, as regular files in a flat scratch folder,
so an archive cannot reach outside. The bytes that a member may have are bounded by the free disk
and by what a text can be compressed to.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from cellscribe.cells.readers.convert import scratch_folder
from cellscribe.cells.readers.matrix_folders import is_matrix
from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.cells.readers.text_files import (
    TEXT_ERRORS,
    compression,
    first_bytes,
    listed,
    plain_name,
    shown,
)
from cellscribe.errors import InputError

NAMES = (".tsv", ".csv", ".txt", ".mtx_rows", ".mtx_cols")
"""Endings of tables."""
CONTAINERS = (".h5ad", ".h5", ".loom", ".h5mu", ".rds", ".rdata", ".h5seurat", ".zarr")
"""Endings of other files of cells, named in messages."""
MOST_COMPRESSED = 200
"""Bytes of text that a byte of an archive may stand for, past `ALWAYS` bytes."""
ALWAYS = 1 << 30
"""Bytes that are unpacked from any archive."""
MOST_MEMBERS = 1_000_000
"""Members looked at."""
ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    *(tarfile.TarError, zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError),
    *TEXT_ERRORS,
)
"""What the readers of archives raise when bytes are missing or wrong."""


@dataclass(frozen=True)
class Member:
    """A regular file of an archive."""

    name: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]

    @property
    def kind(self) -> str:
        """What it may be: "matrix", "table", "container" or ""."""
        base = plain_name(Path(self.name.name))
        if base.startswith("._"):
            # what macOS adds to archives
            return ""
        if is_matrix(Path(base)):
            return "matrix"
        return next(
            (
                kind
                for kind, endings in (("table", NAMES), ("container", CONTAINERS))
                if base.endswith(endings)
            ),
            "",
        )


def is_zip(path: Path) -> bool:
    """Tell a zip archive by its first bytes."""
    return first_bytes(path).startswith(b"PK")


def unpack(path: Path, stack: ExitStack, scratch: Path | None) -> Path:
    """Unpack the one matrix of an archive, or its one table, into a scratch folder.

    Returns
    -------
    The Matrix Market file, with the tables of its folder next to it, or the table.

    Raises
    ------
    InputError
        The archive is damaged, holds nothing that is known, or several matrices; or it does not fit
        on the disk.
    """
    members: list[Member] = []
    try:
        with zipfile.ZipFile(path) if is_zip(path) else tarfile.open(path) as archive:
            if isinstance(archive, zipfile.ZipFile):
                listing = _in_zip(archive)
            else:
                listing = _in_tar(archive, compressed=bool(compression(first_bytes(path))))
            for member in listing:
                members.append(member)
                if len(members) > MOST_MEMBERS:
                    raise InputError(f"{path} holds more than {MOST_MEMBERS:,} files; unpack it")
            wanted = _choose(path, members)
            folder = scratch_folder(stack, scratch)
            _check_room(path, wanted, folder)
            for member in wanted:
                _copy(path, member, folder)
    except InputError:
        raise
    except ARCHIVE_ERRORS as error:
        raise InputError(
            f"{path}: the archive cannot be read ({shown(str(error), 100)}); {DAMAGED}"
        ) from error
    except RuntimeError as error:
        # zipfile says so of a password
        raise InputError(f"{path}: {shown(str(error), 100)}; unzip it first") from error
    return folder / wanted[0].name.name


def _in_tar(archive: tarfile.TarFile, *, compressed: bool) -> Iterable[Member]:
    for item in archive:
        # a sparse member may claim any size
        if item.isreg() and not item.issparse():
            yield Member(PurePosixPath(item.name), item.size, partial(archive.extractfile, item))
    # the checksum of a compressed archive lies past the last member
    while compressed and archive.fileobj is not None and archive.fileobj.read(1 << 20):
        pass


def _in_zip(archive: zipfile.ZipFile) -> Iterable[Member]:
    for item in archive.infolist():
        if not item.is_dir():
            yield Member(PurePosixPath(item.filename), item.file_size, partial(archive.open, item))


def _choose(path: Path, members: list[Member]) -> list[Member]:
    """Choose the matrix and the tables of its folder, or one table."""
    # a member that stands twice counts as its last copy, as tar and unzip do
    members = list({member.name: member for member in members}.values())
    matrices = [member for member in members if member.kind == "matrix"]
    tables = [member for member in members if member.kind == "table"]
    others = [str(member.name) for member in members if member.kind == "container"]
    tool = "unzip" if is_zip(path) else "tar -xf"
    way = f"unpack it ({tool} {path.name}) and give one of them"
    if not matrices:
        if len(tables) == 1 and not others:
            return tables
        found = [str(member.name) for member in tables] + others
        held = f"no matrix.mtx, but {listed(found)}" if found else "no matrix.mtx"
        if any(member.name.name in ("zarr.json", ".zgroup", ".zattrs") for member in members):
            raise InputError(
                f"{path} holds a zarr store; unpack it ({tool} {path.name}) and give that"
            )
        rest = listed([str(member.name) for member in members], 4) or "nothing"
        fix = way if found else f"it holds {rest}; unpack it and give a folder with a matrix.mtx"
        raise InputError(f"{path} holds {held}; {fix}")
    main = [each for each in matrices if plain_name(Path(each.name.name)) == "matrix.mtx"]
    if len(main) == 1 and len({each.name.parent for each in matrices}) == 1:
        matrices = main
    if len(matrices) > 1:
        folders = [str(member.name.parent) for member in matrices]
        apart = len(set(folders)) == len(folders)
        several = folders if apart else [str(member.name) for member in matrices]
        raise InputError(f"{path} holds several matrices ({listed(several)}); {way}")
    matrix = matrices[0]
    return [matrix, *(each for each in tables if each.name.parent == matrix.name.parent)]


def _check_room(path: Path, members: list[Member], folder: Path) -> None:
    total, free = sum(member.size for member in members), shutil.disk_usage(folder).free
    if total > max(ALWAYS, MOST_COMPRESSED * path.stat().st_size):
        raise InputError(
            f"{path} says that {total / 1e9:,.0f} GB are in it, too much to be true of an archive "
            "of its size; unpack it yourself if it is"
        )
    if total > free:
        raise InputError(
            f"{path} cannot be unpacked under {folder.parent}: {total / 1e9:.1f} GB are needed "
            f"and {free / 1e9:.1f} GB are free; set TMPDIR to a folder with room"
        )


def _copy(path: Path, member: Member, folder: Path) -> None:
    """Copy a member; no more bytes than it says come out of either kind of archive."""
    reader = member.open()
    if reader is None:
        raise InputError(f"{path}: {shown(str(member.name))} cannot be read; {DAMAGED}")
    with reader:
        try:
            out = (folder / member.name.name).open("wb")
        except OSError as error:
            raise _no_room(path, folder, error) from error
        with out:
            while block := reader.read(1 << 20):
                try:
                    out.write(block)
                except OSError as error:
                    raise _no_room(path, folder, error) from error


def _no_room(path: Path, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be unpacked under {folder.parent} ({error.strerror or error}); "
        "set TMPDIR to a folder with room"
    )
