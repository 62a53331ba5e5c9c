"""Source of an import: a folder or a file, as published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError


@dataclass(frozen=True)
class Source:
    """A folder, or a single file with the other files of its folder."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise InputError(
                f"{self.path}: no such file or folder; give a published checkpoint's folder or file"
            )

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
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not a text file; copy or download it again") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    def json(self, path: Path) -> Any:
        """Read a JSON file.

        Raises
        ------
        InputError
            It is not valid JSON.
        """
        try:
            return json.loads(self.text(path))
        except ValueError as error:
            raise InputError(f"{path}: damaged JSON ({error}); copy or download it again") from None
