"""Figures of a long measurement, kept part by part, so that one that was stopped goes on there.

The name of a part's file tells the code that its figures come from: they are measured again when
that has changed, and only then.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

Figures = dict[str, float]


def digest_of(paths: Iterable[Path]) -> str:
    """Hash of some files, eight digits."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


def keep_figures(folder: Path | None, name: str, make: Callable[[], Figures]) -> Figures:
    """Give the figures of a part: those that are kept, or measured now and kept.

    Parameters
    ----------
    folder
        Where they are kept; None for nowhere.
    name
        Of the part: what is measured, of what, by which code.
    make
        Measures it.
    """
    if folder is None:
        return make()
    path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make()) + "\n", encoding="utf-8")
        partial.replace(path)
    found: Figures = json.loads(path.read_text(encoding="utf-8"))
    return found
