"""Metrics of each step: a line of JSON always, TensorBoard's files on request."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cellscribe.config.files import check_file
from cellscribe.errors import InputError
from cellscribe.training.runs import METRICS
from cellscribe.writing import disk_errors

NOT_DRAWN = ("step", "seconds", "cells", "tokens", "flop", "skipped")


class MetricsLog:
    """Appends lines to ``metrics.jsonl``.

    Parameters
    ----------
    run
        Folder of the run.
    step
        Steps that the run has taken; lines of later steps are dropped, as they are taken again.
    tensorboard
        Whether to write ``RUN/tensorboard`` too; see `need_tensorboard`.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False) -> None:
        self._path = run / METRICS
        with disk_errors(self._path):
            _keep_lines(self._path, step)
            self._file = self._path.open("a", encoding="utf-8")
        self._board: Any = _board(run, step) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """Write the line of one step."""
        with disk_errors(self._path, "free some space and go on with --resume"):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in line.items():
                if name not in NOT_DRAWN and value is not None:
                    self._board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def need_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises
    ------
    InputError
        TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise InputError('TensorBoard is not installed: pip install "cellscribe[tensorboard]"')


def _keep_lines(path: Path, steps: int) -> None:
    if not path.exists():
        return
    check_file(path, fix="move it away, and go on with --resume")
    # as bytes: a line that is damaged is no reason not to go on
    lines = path.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:steps])
    if kept != b"".join(lines):
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        partial.write_bytes(kept)
        os.replace(partial, path)


def _board(run: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
