"""What a user names as many sources of cells, as a list of shards.

A word may be a file, a zarr store or another folder that holds one set of cells, a folder of such
sources, a glob, the same in a bucket, or a list: a CSV or TSV with a column ``path`` (and, where
wanted, ``name``, ``layer``, ``gene_key``), or a text file with a path in each line.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellscribe.cells.readers.endings import CONTAINERS, TABLES, stem
from cellscribe.errors import InputError

LIST_SUFFIXES = (".csv", ".tsv", ".txt")
LIST_COLUMNS = ("path", "name", "layer", "gene_key")
MAGIC = "*?["
LOOKED_AT = 1 << 16
"""Bytes of a text that are looked at to tell a list from a table of counts."""
MOST_COLUMNS = 8
"""Columns that a list without ``path`` may have; a table of counts has more."""
ListBucket = Callable[[str], "list[Shard]"]
"""Lists the sources that a URL stands for."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A source, or some rows of one, whose result is one file."""

    name: str
    """Stem of the result's name."""
    path: str
    """Local path or URL."""
    layer: str | None = None
    """In place of the layer of the options."""
    gene_key: str | None = None
    """In place of the gene key of the options."""
    rows: tuple[int, int] | None = None
    """First row and end, where the source is cut; else all."""
    size: int | None = None
    """Bytes of a remote source, if they are known."""
    etag: str | None = None
    """What changes with the content of a remote source; None if it was not looked at, or is not
    there."""

    @property
    def cut_from(self) -> str | None:
        """Name of the source that this is a part of; None of a whole one."""
        return self.name.rpartition(".")[0] if self.rows else None


def list_sources(words: Sequence[str | Path], *, in_bucket: ListBucket) -> list[Shard]:
    """List the sources that are named, in the order of the words; those of one word by name.

    Parameters
    ----------
    words
        What a user names.
    in_bucket
        Lists what a URL stands for, or refuses it.

    Raises
    ------
    InputError
        A word names nothing; a list lacks its column or a file.
    """
    return [shard for word in words for shard in _of_word(str(word), in_bucket)]


def refuse_same_names(shards: Sequence[Shard]) -> None:
    """Refuse shards of which two would give one file.

    Raises
    ------
    InputError
        Two have one name, be it in letters of another case; the message says where they come from.
    """
    seen: dict[str, Shard] = {}
    for shard in shards:
        other = seen.setdefault(shard.name.casefold(), shard)
        if other is shard:
            continue
        if other.path == shard.path:
            raise InputError(f"{shard.path} is named twice; name each source once")
        raise InputError(
            f"two sources would give one file {shard.name}: {other.path} and {shard.path}; list "
            "them in a CSV with the columns path and name"
        )


def is_list(path: Path) -> bool:
    """Tell a list of sources from a table of counts, by its first lines.

    Raises
    ------
    InputError
        It is a list of which the column ``path`` is missing.
    """
    if path.suffix not in LIST_SUFFIXES or not path.is_file():
        return False
    lines = _first_lines(path)
    if path.suffix == ".txt":
        return any(_names_a_source(path, line) for line in lines if not line.startswith("#"))
    first, *others = lines or [""]
    header = _cells(first)
    if "path" in header:
        return True
    few = len(header) <= MOST_COLUMNS
    if few and any(_names_a_source(path, cell) for line in others[:1] for cell in _cells(line)):
        raise InputError(
            f"{path}: its first line has no column path; known are {', '.join(LIST_COLUMNS)}"
        )
    return False


def is_source_folder(folder: Path) -> bool:
    """Tell a folder that is one set of cells: a zarr store, a SOMA experiment, a matrix."""
    signs = ("zarr.json", ".zgroup", ".zattrs", "__group", "__tiledb_group.tdb")
    if any((folder / name).exists() for name in signs):
        return True
    return any(folder.glob("*.mtx")) or any(folder.glob("*.mtx.gz"))


def _of_word(word: str, in_bucket: ListBucket) -> list[Shard]:
    if "://" in word:
        return in_bucket(word)
    path = Path(word)
    if any(mark in word for mark in MAGIC) and not path.exists():
        found = sorted(glob.glob(word, recursive=True))
        if not found:
            raise InputError(f"{word}: no file has such a name; check the folder and the pattern")
        return [Shard(name=stem(path), path=path) for path in found]
    if is_list(path):
        return read_list(path, in_bucket=in_bucket)
    if path.is_dir() and not is_source_folder(path):
        return _of_folder(path)
    return [Shard(name=stem(word), path=word)]


def _of_folder(folder: Path) -> list[Shard]:
    found = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and (path.name.endswith(CONTAINERS) or (path.is_dir() and is_source_folder(path)))
    ]
    if not found:
        raise InputError(
            f"{folder}: no cells in it; wanted is a folder of {', '.join(CONTAINERS[:4])}, or of "
            "folders with a matrix.mtx"
        )
    return [Shard(name=stem(path.name), path=str(path)) for path in found]


def read_list(path: Path, *, in_bucket: ListBucket, url: str = "") -> list[Shard]:
    """List the sources of a list.

    Parameters
    ----------
    path
        A CSV or a text file.
    in_bucket
        As for `list_sources`.
    url
        Where the list comes from, if it is a copy: paths in it are relative to there.

    Raises
    ------
    InputError
        It lists nothing, or a line is bad.
    """
    name = url or str(path)
    try:
        rows = list(_read_list(path))
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None
    if not rows:
        raise InputError(f"{name}: lists no source")
    shards: list[Shard] = []
    seen: dict[tuple[str, ...], int] = {}
    for line, row in rows:
        where, word = f"{name}, line {line}", _beside(name, row["path"])
        what = (os.path.normpath(word), *(row.get(key, "") for key in LIST_COLUMNS[1:]))
        first = seen.setdefault(what, line)
        if first != line:
            raise InputError(f"{where}: the same as line {first}; leave one of them out")
        if "://" not in word and is_list(Path(word)):
            raise InputError(f"{where}: {row['path']} is itself a list; put its lines here")
        try:
            found = _of_word(word, in_bucket)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        named = {key: row[key] for key in LIST_COLUMNS[1:] if row.get(key)}
        _check_line(where, row["path"], found, named, alone=[s.path for s in found] == [word])
        shards += [replace(shard, **named) for shard in found]  # type: ignore[arg-type]
    return shards


def _check_line(
    where: str, given: str, found: Sequence[Shard], named: dict[str, str], *, alone: bool
) -> None:
    for shard in found:
        if "://" not in shard.path and not Path(shard.path).exists():
            raise InputError(f"{where}: {given}: no such file; check the path")
    if "name" in named and not alone:
        raise InputError(f"{where}: one name for several sources; leave it out")
    if "/" in named.get("name", "") or named.get("name", "").startswith("."):
        raise InputError(f"{where}: {named['name']!r} is no name of a file")


def _read_list(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the lines of a list, each with its number; comments are of text files alone."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".txt":
                for line, text in enumerate(file, 1):
                    if text.strip() and not text.startswith("#"):
                        yield line, {"path": text.strip()}
                return
            reader = csv.DictReader(file, delimiter=_delimiter(_first_lines(path)[0]), strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            for column in columns:
                if column not in LIST_COLUMNS or columns.count(column) > 1:
                    what = "unknown column" if column not in LIST_COLUMNS else "two columns"
                    raise InputError(
                        f"{path}: {what} {column!r}; known are {', '.join(LIST_COLUMNS)}"
                    )
            reader.fieldnames = columns
            for row in reader:
                if None in row or not (row["path"] or "").strip():
                    raise InputError(f"{path}, line {reader.line_num}: not a path in each line")
                yield reader.line_num, {key: (row[key] or "").strip() for key in row}
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a list of sources ({error}); write it as CSV") from None


def _names_a_source(path: Path, word: str) -> bool:
    """Tell a name in a list, of what is there or not, from a cell or a gene of a table."""
    word = word.strip()
    if not word or "\t" in word:
        return False
    known = "://" in word or word.endswith((*CONTAINERS, *TABLES)) or "*" in word
    return known or Path(_beside(path, word)).exists()


def _first_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        lines = file.read(LOOKED_AT).decode("utf-8-sig", "replace").splitlines()
    return [line.strip() for line in lines]


def _cells(line: str) -> list[str]:
    cells = next(csv.reader([line], delimiter=_delimiter(line)), [])
    return [cell.strip() for cell in cells]


def _delimiter(first: str) -> str:
    """Tell what stands between the columns, by the first line."""
    return max(",\t;", key=first.count)


def _beside(path: Path | str, word: str) -> str:
    """Take a path in a list as relative to the list."""
    return word if "://" in word else os.path.join(os.path.dirname(path), word)
