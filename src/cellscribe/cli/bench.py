"""`cellscribe bench`, which has left the package: one line says where to measure now."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cellscribe.cli.app import app
from cellscribe.errors import InputError


@app.command(show=False)
def bench(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
) -> None:
    """Say what to do instead."""
    raise InputError(
        "bench is no longer a command: measure this machine with `cellscribe evaluate MODEL "
        "--task performance --data FILE -o DIR`; comparisons with other software are "
        "`python -m benchmarks` in a checkout of the repository"
    )
