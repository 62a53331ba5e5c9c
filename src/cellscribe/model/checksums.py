"""SHA-256 of the files of a model directory: written when it is saved, compared when it is read.

``SHA256SUMS`` has the form of coreutils, so that ``sha256sum -c SHA256SUMS`` checks a copy without
this package. It is a file of its own and not a part of ``config.json``, which `transformers` writes
anew with whatever it holds. Listed is all that can change a result and that nobody edits: weights,
gene table, names, components, head, training cells. ``config.json`` is not: it is text that people
edit, every value of it is known or refused, and its content is part of a model's identity
(`Header.config_hash`). README and pictures change nothing.

A directory without the file is read as it is: models of before, and what other programs save.
"""

from __future__ import annotations

import re
from pathlib import Path

from cellscribe.config.files import check_file, read_text
from cellscribe.errors import InputError
from cellscribe.writing import hash_of

SUMS = "SHA256SUMS"
FREE = ("README.md", "config.json", "loss.png", SUMS)
"""Files that are not listed."""
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\x00-\x1f]+)")
AGAIN = "copy or download the model folder again"
OURS = f"or, if the change is yours, remove {SUMS}"


def seal(directory: Path) -> Path:
    """List the files of a finished model directory, in place of an older list."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name not in FREE)
    path = directory / SUMS
    path.write_text("".join(f"{hash_of(file)}  {file.name}\n" for file in files), encoding="utf-8")
    return path


def read_sums(directory: Path) -> dict[str, str] | None:
    """Read name -> SHA-256 of the files of a model directory; None where there is no list.

    Raises
    ------
    InputError
        The list is damaged, or a file that it names is missing.
    """
    path = directory / SUMS
    if not path.is_symlink() and not path.exists():
        return None
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path, fix=AGAIN, most=1 << 20).splitlines(), start=1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in found or match[2] in (".", ".."):
            raise InputError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a new name; {AGAIN}, "
                f"{OURS}"
            )
        found[match[2]] = match[1]
        check_file(directory / match[2], fix=f"{SUMS} lists it; {AGAIN}, {OURS}")
    return found


def check_sum(path: Path, digest: str | None = None) -> None:
    """Compare a file of a model directory with the list of that directory.

    Parameters
    ----------
    path
        The file, which exists.
    digest
        Its SHA-256, where that is known already.

    Raises
    ------
    InputError
        It is not the file that was saved.
    """
    sums = read_sums(path.parent)
    if sums is None:
        return
    if path.name not in sums:
        raise InputError(f"{path}: not in {SUMS}, so it is not of this model; {AGAIN}, {OURS}")
    if (digest or hash_of(path)) != sums[path.name]:
        raise InputError(
            f"{path}: damaged or changed (its SHA-256 is not that of {SUMS}); {AGAIN}, {OURS}"
        )
