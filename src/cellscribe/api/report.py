"""The verb report: the curves of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def report_runs(
    runs: str | Path | Sequence[str | Path], out: str | Path | None = None
) -> list[str]:
    """Draw training runs: ``report.png`` with losses over steps, and all of it as ``report.html``.

    Parameters
    ----------
    runs
        Folders that `train` made, finished or not; several are drawn over one another.
    out
        Folder of the two files; the first run if not given.

    Returns
    -------
    list of str
        The warnings that stand on the page.

    Raises
    ------
    InputError
        A folder is no run, one is named twice, there are too many, matplotlib is missing, or a
        file cannot be written.
    """
    from cellscribe.lease import lease
    from cellscribe.report.training_page import write_report

    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    paths = [Path(run) for run in folders]
    if not paths:
        return write_report(paths)
    place = Path(paths[0] if out is None else out)
    with lease(place / "report.html"):
        return write_report(paths, place)
