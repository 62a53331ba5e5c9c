"""The callbacks that verbs take: `Log` for lines to a user, `Progress` for how far the work is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from cellscribe.errors import printable, worded

Log = Callable[[str], None]
"""Called with one line that a user should read, without a line break."""


class Progress(Protocol):
    """Called while the work goes on."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None:
        """Take a report.

        Parameters
        ----------
        done, total
            Units of work, such as cells, that are done, and all there are.
        what
            Name of the step, when it changes; None if there is one step.
        """


WARNING = "Warning: "
"""Beginning of a line that --quiet leaves."""
Level = Literal["quiet", "normal", "verbose"]
_level: Level = "normal"
_began = time.monotonic()


@contextmanager
def speaking(level: Level) -> Iterator[None]:
    """How much is said on standard error meanwhile: warnings alone, or with the time of each."""
    global _level
    before, _level = _level, level
    try:
        yield
    finally:
        _level = before


def level() -> Level:
    """How much is said on standard error."""
    return _level


def log_stderr(line: str) -> None:
    """Print a line to standard error, unless it should be quiet and the line is no warning."""
    if _level != "quiet" or line.startswith(WARNING):
        tell_stderr(line)


def tell_stderr(line: str) -> None:
    """Print a line to standard error; what a terminal would obey in it is escaped."""
    text = printable(worded(line))
    if _level == "verbose":
        text = f"[{time.monotonic() - _began:7.2f} s] {text}"
    print(text, file=sys.stderr, flush=True)


def number_of(n: int, what: str) -> str:
    """Say a number of things: "1 cell", "1,234 cells"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def no_progress(done: int, total: int, what: str | None = None) -> None:
    """Ignore a report."""


def at_most_every(seconds: float, progress: Progress) -> Progress:
    """Pass on the first report, those that come `seconds` after the last, and the end."""
    last = float("-inf")

    def report(done: int, total: int, what: str | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= seconds:
            last = now
            progress(done, total, what)

    return report


def in_step(progress: Progress | None, step: str) -> Progress | None:
    """Reports of one step: `progress`, called with the step's name each time."""
    if progress is None:
        return None
    whole = progress

    def report(done: int, total: int, what: str | None = None) -> None:
        whole(done, total, what or step)

    return report
