"""A bar on stderr with rate and time left; nothing where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Follow(Protocol):
    """Told (done, in all) and, when the work changes, what is being done."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None:
        """Take the news."""


@contextmanager
def progress_bar(what: str, unit: str = "cells") -> Iterator[Follow]:
    """Show what is done of all, the rate and the time left on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}} {unit}/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, what=None: None
        return
    bar = Progress(*columns, console=console, transient=True)
    try:
        yield _Bar(bar, what)
    finally:
        if bar.tasks:
            bar.stop()


class _Bar:
    """Carries what it is told to a bar, which appears with the first call."""

    def __init__(self, bar: Progress, what: str) -> None:
        self.bar, self.what = bar, what
        self.task: Any = None

    def __call__(self, done: int, total: int, what: str | None = None) -> None:
        what = what or self.what
        if self.task is None:
            self.task = self.bar.add_task(what, total=total, completed=done, rate="…")
            self.bar.start()
        elif what != self.what:
            self.bar.reset(self.task, total=total, completed=done, description=what, rate="…")
        else:
            speed = self.bar.tasks[0].speed
            rate = "…" if speed is None else f"{speed:,.0f}"
            self.bar.update(self.task, completed=done, rate=rate)
        self.what = what
