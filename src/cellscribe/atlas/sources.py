"""What a user names as the cells of an atlas, as a list of shards.

A word may be a file, a zarr store or another folder that holds one set of cells, a folder of such
sources, a glob, the same in a bucket, or a list: a CSV or TSV with a column ``path`` (and, where
wanted, ``name``, ``layer``, ``gene_key``), or a text file with a path in each line.
"""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from cellscribe.cells.readers.endings import CONTAINERS, stem
from cellscribe.errors import InputError

LIST_SUFFIXES = (".csv", ".tsv", ".txt")
LIST_COLUMNS = ("path", "name", "layer", "gene_key")
MAGIC = "*?["


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A source, or some rows of one, whose result is one file."""

    name: str
    """Stem of the result's name; no two shards have the same."""
    path: str
    """Local path or URL."""
    layer: str | None = None
    """In place of the layer of the options."""
    gene_key: str | None = None
    """In place of the gene key of the options."""
    rows: tuple[int, int] | None = None
    """First row and end, where the source is cut; else all."""


def find_shards(words: Sequence[str | Path]) -> list[Shard]:
    """List the shards that are named, in the order of the words; those of one word by name.

    Raises
    ------
    InputError
        A word names nothing; a list lacks its column or a file; two shards have one name.
    """
    shards = [shard for word in words for shard in _of_word(str(word))]
    names = Counter(shard.name.casefold() for shard in shards)
    for shard in shards:
        if names[shard.name.casefold()] > 1:
            same = [s.path for s in shards if s.name.casefold() == shard.name.casefold()]
            raise InputError(
                f"two sources would give one file {shard.name}: {same[0]} and {same[1]}; list them "
                "in a CSV with the columns path and name"
            )
    return shards


def is_list(path: Path) -> bool:
    """Tell a list of sources from a table of counts, by its first line."""
    if path.suffix not in LIST_SUFFIXES or not path.is_file():
        return False
    first = _first_line(path)
    if "path" in _cells(first, path):
        return True
    word = first.strip()
    return bool(word) and path.suffix == ".txt" and _names_a_source(_beside(path, word))


def _of_word(word: str) -> list[Shard]:
    if "://" in word:
        return [Shard(name=stem(url), path=url) for url in _in_bucket(word)]
    path = Path(word)
    if any(mark in word for mark in MAGIC) and not path.exists():
        found = sorted(glob.glob(word, recursive=True))
        if not found:
            raise InputError(f"{word}: no file has such a name; check the folder and the pattern")
        return [Shard(name=stem(path), path=path) for path in found]
    if is_list(path):
        return _of_list(path)
    if path.is_dir() and not _is_source(path):
        return _of_folder(path)
    return [Shard(name=stem(word), path=word)]


def _names_a_source(word: str) -> bool:
    return "://" in word or Path(word).exists() or any(mark in word for mark in MAGIC)


def _is_source(folder: Path) -> bool:
    """Whether a folder is one set of cells: a zarr store, or a matrix with its tables."""
    if any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        return True
    return any(folder.glob("*.mtx")) or any(folder.glob("*.mtx.gz"))


def _of_folder(folder: Path) -> list[Shard]:
    found = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and (path.name.endswith(CONTAINERS) or (path.is_dir() and _is_source(path)))
    ]
    if not found:
        raise InputError(
            f"{folder}: no cells in it; wanted is a folder of {', '.join(CONTAINERS[:4])}, or of "
            "folders with a matrix.mtx"
        )
    return [Shard(name=stem(path.name), path=str(path)) for path in found]


def _of_list(path: Path) -> list[Shard]:
    rows = list(_read_list(path))
    if not rows:
        raise InputError(f"{path}: lists no source")
    shards: list[Shard] = []
    for line, row in rows:
        word = _beside(path, row["path"])
        for shard in _of_word(word):
            if "://" not in shard.path and not Path(shard.path).exists():
                raise InputError(f"{path}, line {line}: {row['path']}: no such file")
            named = {key: row[key] for key in LIST_COLUMNS[1:] if row.get(key)}
            if "name" in named and shard.path != word:
                raise InputError(f"{path}, line {line}: one name for several sources; leave it out")
            if "/" in named.get("name", "") or named.get("name", "").startswith("."):
                raise InputError(f"{path}, line {line}: {named['name']!r} is no name of a file")
            shards.append(replace(shard, **named))  # type: ignore[arg-type]
    return shards


def _read_list(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".txt":
                for line, text in enumerate(file, 1):
                    if text.strip() and not text.startswith("#"):
                        yield line, {"path": text.strip()}
                return
            reader = csv.DictReader(file, delimiter=_delimiter(path))
            for column in reader.fieldnames or ():
                if column not in LIST_COLUMNS:
                    raise InputError(
                        f"{path}: unknown column {column!r}; known are {', '.join(LIST_COLUMNS)}"
                    )
            for row in reader:
                if None in row or not (row["path"] or "").strip():
                    raise InputError(f"{path}, line {reader.line_num}: not a path in each line")
                yield reader.line_num, {key: (row[key] or "").strip() for key in row}
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a list of sources ({error}); write it as CSV") from None


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        while (line := file.readline(1 << 16)).startswith(b"#"):
            continue
        return line.decode("utf-8-sig", "replace").strip()


def _cells(line: str, path: Path) -> list[str]:
    return next(csv.reader([line], delimiter=_delimiter(path)), [])


def _beside(path: Path, word: str) -> str:
    """Take a path in a list as relative to the list."""
    return word if "://" in word else os.path.join(path.parent, word)


def _in_bucket(url: str) -> list[str]:
    """List the objects that a URL with a pattern, or one that ends in ``/``, stands for."""
    from cellscribe.atlas.stores import Bucket, refuse_secrets

    refuse_secrets(url)
    if not any(mark in url for mark in MAGIC) and not url.endswith("/"):
        return [url]
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    depth = next((i for i, part in enumerate(parts) if any(m in part for m in MAGIC)), len(parts))
    root = f"{scheme}://{'/'.join(parts[:depth]).rstrip('/')}"
    pattern = "/".join(parts[depth:]) or "*"
    keys = list(Bucket(root).keys(""))
    level = pattern.count("/") + 1
    # a zarr store is not one object but the folder of many
    folders = {"/".join(key.split("/")[:level]) for key in keys if key.count("/") >= level}
    sources = {key for key in keys if key.count("/") == level - 1}
    sources |= {folder for folder in folders if folder.endswith(".zarr")}
    found = [
        f"{root}/{key}"
        for key in sorted(sources)
        if fnmatchcase(key, pattern) and (pattern != "*" or key.endswith(CONTAINERS))
    ]
    if not found:
        raise InputError(f"{url}: nothing there has such a name; check the bucket and the pattern")
    return found
