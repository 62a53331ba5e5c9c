"""Source of an import: a folder or a file, as published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from cellscribe.errors import InputError, one_line

AGAIN = "copy or download it again"
POINTER = b"version https://git-lfs"
TEXT = 1 << 28
"""Bytes of a text file, at most."""
SHOWN = 120
"""Letters of a reason or a name from a file that a message holds."""
_READ: ContextVar[list[Path] | None] = ContextVar("read", default=None)


@contextmanager
def recorded() -> Iterator[list[Path]]:
    """Give a list that fills with the files that are opened meanwhile, each once."""
    files: list[Path] = []
    token = _READ.set(files)
    try:
        yield files
    finally:
        _READ.reset(token)


def opened(path: Path) -> IO[bytes]:
    """Open a file that must be the file itself, not a folder and not a pointer to it.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder, where a file should be; name the file")
        # pipes and devices could wait for ever
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; copy it to one")
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    start = file.read(len(POINTER))
    file.seek(0)
    if start == POINTER:
        file.close()
        raise InputError(
            f"{path}: a Git LFS pointer, not the file itself; fetch it with git lfs pull"
        )
    files = _READ.get()
    if files is not None and path not in files:
        files.append(path)
    return file


def first_line(reason: object) -> str:
    """First line of a reason or a name that a file may have chosen, safe to show and short."""
    return one_line(str(reason).strip().partition("\n")[0], SHOWN)


@dataclass(frozen=True)
class Source:
    """A folder, or a single file with the other files of its folder."""

    path: Path

    def __post_init__(self) -> None:
        try:
            self.path.stat()
            if self.path.is_dir():
                next(self.path.iterdir(), None)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.path}: no such file or folder; give a published checkpoint's folder or file"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{first_line(self.path)}: cannot be read ({reason})") from None

    @property
    def is_folder(self) -> bool:
        """Whether a folder was given."""
        return self.path.is_dir()

    @property
    def folder(self) -> Path:
        """The folder given, or that of the file."""
        return self.path if self.is_folder else self.path.parent

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Files of the folder, one folder deep; for a file, its name."""
        if not self.is_folder:
            return (self.path.name,)
        found = [*self.path.glob("*"), *self.path.glob("*/*")]
        return tuple(sorted(str(p.relative_to(self.path)) for p in found if p.is_file()))

    def has(self, *patterns: str) -> bool:
        """Whether every pattern fits a file directly in the folder (or the file given)."""
        return all(self.find(pattern) is not None for pattern in patterns)

    def find(self, *patterns: str) -> Path | None:
        """Find the first file directly in the folder (or the file given) that fits a pattern."""
        for pattern in patterns:
            for name in self.names:
                if "/" not in name and fnmatch(name, pattern):
                    return self.folder / name
        return None

    def find_sibling(self, *patterns: str) -> Path | None:
        """Find the first file in the folder, or next to the file given, that fits a pattern."""
        for pattern in patterns:
            if found := sorted(p for p in self.folder.glob(pattern) if p.is_file()):
                return found[0]
        return None

    def text(self, path: Path) -> str:
        """Read a text file.

        Raises
        ------
        InputError
            It cannot be read as UTF-8.
        """
        with opened(path) as file:
            data = file.read(TEXT + 1)
        if len(data) > TEXT:
            raise InputError(f"{path}: more than {TEXT:,} bytes of text; is it another file?")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file; {AGAIN}") from None

    def json(self, path: Path) -> Any:
        """Read a JSON file, in which no key may stand twice.

        Raises
        ------
        InputError
            It is not valid JSON.
        """
        return parse_json(self.text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Read JSON, in which no key of a table may stand twice.

    Raises
    ------
    InputError
        It is not valid JSON, or nested too deep.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise InputError(f"{where}: {first_line(twice)} stands in it twice; {AGAIN}")
        return made

    try:
        return json.loads(text, object_pairs_hook=table)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: damaged JSON ({first_line(error)}); {AGAIN}") from None
    except RecursionError:
        raise InputError(f"{where}: damaged JSON (nested too deep); {AGAIN}") from None
