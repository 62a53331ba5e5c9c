"""Models, judged: the verb evaluate, for command line and Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import EvaluateOptions, from_mapping
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from cellscribe.evaluation.results import Result


def evaluate(
    models: str | Path | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    options: EvaluateOptions | None = None,
    *,
    task: str | Sequence[str] = "core",
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> list[Result]:
    """Judge models on data, beside baselines and random weights; write results and a report.

    Parameters
    ----------
    models
        Bundled models' names, checkpoint directories, or folders of training runs.
    data
        Files of cells in any known format; for ``mlm`` corpora too.
    out
        Folder of the evaluation, made if it is not there: ``results/*.json``, ``report.md``,
        ``report.html``, and vectors that later runs read.
    options
        Columns, seeds, sizes; or give their fields by name (``label="cell_type"``).
    task
        Names of tasks, ``"core"`` or ``"full"``. A task that is named must fit all data; suites
        pass over what does not fit, and say so.
    progress
        Told (problems done, problems in all, what is being done).
    log
        Told, a line each, what a user should know.

    Returns
    -------
    list of Result
        Of this call, read or measured.

    Raises
    ------
    InputError
        No such model, task or data; data that do not fit a task that was named, or no task at all.
    """
    from cellscribe.evaluation.suite import run_suite
    from cellscribe.report.evaluation_page import write_report

    options = options or from_mapping(EvaluateOptions, settings, "evaluate")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with -o")
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first")
    asked, looked_at = _listed(models), _listed(data)
    if not asked:
        raise InputError("name a model: a bundled one, such as mini, or a folder")
    if not looked_at:
        raise InputError("name data with --data: files of cells, or a corpus")
    tasks = [str(name) for name in _listed(task)]
    results = run_suite(asked, looked_at, out, options, tasks, progress=progress, log=log)
    write_report(out)
    return results


def _listed(one_or_more: str | Path | Sequence[str | Path]) -> list[str | Path]:
    if isinstance(one_or_more, str | Path):
        return [one_or_more]
    return list(one_or_more)
