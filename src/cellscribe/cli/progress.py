"""Bars on stderr with rate and time left; where it is no terminal, a line at times, or nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cellscribe.atlas.tally import Reports, Tally
from cellscribe.callbacks import Log, Progress, at_most_every, level
from cellscribe.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.progress import Progress as RichProgress


@contextmanager
def progress_bar(what: str, unit: str = "cells") -> Iterator[Progress]:
    """Show what is done of all, the rate and the time left on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
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
    if not console.is_terminal or level() == "quiet":
        yield lambda done, total, what=None: None
        return
    bar = RichProgress(*columns, console=console, transient=True)
    try:
        yield _Bar(bar, what)
    finally:
        if bar.tasks:
            bar.stop()


def escape(text: str) -> str:
    """Escape rich's markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


class _Bar:
    """Shows reports on a bar, which appears with the first one."""

    def __init__(self, bar: RichProgress, what: str) -> None:
        self.bar, self.what = bar, what
        self.task: Any = None

    def __call__(self, done: int, total: int, what: str | None = None) -> None:
        # names of files may be in it, which are neither markup nor escape sequences
        what = escape(printable(what)) if what else self.what
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


SHARDS_EVERY = 30.0
"""Seconds between two lines on a run over many shards where there is no terminal."""
NARROWEST_BAR, WIDEST_BAR = 8, 40


@contextmanager
def shards_bar(log: Log) -> Iterator[Tally]:
    """Follow a run over many shards: one line on a terminal, else a line to `log` at times."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal or level() == "quiet":
        said = at_most_every(SHARDS_EVERY, lambda done, total, what=None: log(str(what)))
        yield Reports(said)
        return
    tally = Tally()
    with Live(_Shards(tally), console=console, transient=True, refresh_per_second=4):
        yield tally


class _Shards:
    """The line of a tally, with a bar where there is room for one."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self.tally.total:
            return
        line = self.tally.line(options.max_width - 1)
        text = Text(line, no_wrap=True, overflow="ellipsis")
        room = options.max_width - len(line) - 2
        if room < NARROWEST_BAR:
            yield text
            return
        bar = ProgressBar(completed=100 * self.tally.fraction, width=min(room, WIDEST_BAR))
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(bar, text)
        yield grid


LINE_EVERY = 60.0
"""Seconds between two lines on a training run where there is no terminal."""


@contextmanager
def training_bar(
    steps: int, device: str, ranks: int, *, shown: bool, log: Log
) -> Iterator[Callable[[Any], None]]:
    """Follow a training run: step, loss, cells/s, tokens/s, share of the peak, time left.

    The peak is the fastest matrix product measured here and now, in a second or less. Processes
    that share a CPU cannot each measure it: for them, and off a terminal, GFLOP/s are shown.
    On a terminal validation losses stay above the bar; elsewhere `log` gets them, and a line a
    minute.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as RichProgress,
    )

    if not shown or level() == "quiet":
        yield lambda line: None
        return
    console = Console(stderr=True)
    bar = RichProgress(
        TextColumn("Training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        expand=True,
    )
    with bar:
        peak = None
        if console.is_terminal and (ranks == 1 or device == "cuda"):
            from cellscribe.model.peak import highest, measure_peak

            peak = ranks * highest(measure_peak(device, seconds=0.2)) * 1e9
        yield _Training(bar, steps, peak, log)


class _Training:
    """Turns the lines of ``metrics.jsonl`` into a bar, or into lines."""

    def __init__(self, bar: RichProgress, steps: int, peak: float | None, log: Log) -> None:
        self.bar, self.steps, self.peak, self.say = bar, steps, peak, log
        self.task = bar.add_task("", total=steps, status="")
        self.last: deque[dict[str, Any]] = deque(maxlen=21)
        self.said = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        self.last.append(line)
        status = self._status(line)
        self.bar.update(self.task, completed=line["step"], status=status)
        parts = [f"{name} {line[name]:.4f}" for name in ("regression", "contrast") if name in line]
        held_out = [
            f"{k.removeprefix('loss_')} {v:.4f}" for k, v in line.items() if k.startswith("loss_")
        ]
        losses = [*parts, *held_out]
        lately = line["seconds"] - self.said < LINE_EVERY
        if held_out or not (lately or self.bar.console.is_terminal):
            self.said = line["seconds"]
            text = ", ".join([f"step {line['step']:,} of {self.steps:,}: {status}", *losses])
            if self.bar.console.is_terminal:
                self.bar.console.print(text, highlight=False)
            else:
                self.say(text)

    def _status(self, line: dict[str, Any]) -> str:
        loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
        first = self.last[0]
        seconds = line["seconds"] - first["seconds"]
        if not seconds:
            return f"loss {loss}"
        rate = {
            name: sum(each[name] for each in list(self.last)[1:]) / seconds
            for name in ("cells", "tokens", "flop")
        }
        work = f"{rate['flop'] / 1e9:,.0f} GFLOP/s"
        if self.peak is not None:
            work = f"{rate['flop'] / self.peak:.0%} of peak"
        return f"loss {loss}, {rate['cells']:,.0f} cells/s, {rate['tokens']:,.0f} tokens/s, {work}"
