"""The verb report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app


@app.command
def report(
    runs: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
) -> None:
    """Draw training runs: losses over steps as a PNG, and all of it as one HTML page.

    Parameters
    ----------
    runs
        Folders that cellscribe train made, finished or not; several are drawn over one another.
    out
        Folder of report.html and report.png; the first run if not given.
    """
    for line in cellscribe.report_runs(runs, out):
        log_stderr(f"Warning: {line}")
    for name in ("report.html", "report.png"):
        print((out or runs[0]) / name)
