"""The recipes, and an environment in which their commands run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"


def environment(folder: Path, **more: object) -> dict[str, str]:
    """Variables under which ``cellscribe`` and ``python3`` are those of the tests.

    Parameters
    ----------
    folder
        Gets a folder ``bin`` for the two.
    **more
        Further variables.
    """
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, words in (("cellscribe", " -m cellscribe"), ("python3", "")):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in more.items()},
    }
