"""In a notebook: a bar for calls that take long, and tables for models.

IPython is asked for only where it is at work already.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from cellscribe.callbacks import Progress, at_most_every
from cellscribe.escaping import escape

P = ParamSpec("P")
R = TypeVar("R")
EVERY = 0.2
"""Seconds between two looks of a bar."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def with_bar(function: Callable[P, R]) -> Callable[P, R]:
    """Show a bar in a notebook while a function works that takes `progress` and is given none."""
    if "progress" not in inspect.signature(function).parameters:
        return function

    @functools.wraps(function)
    def call(*args: P.args, **settings: P.kwargs) -> R:
        if settings.get("progress") is None and in_notebook():
            settings["progress"] = notebook_bar(function.__name__.replace("_", " "))
        return function(*args, **settings)

    return call


def notebook_bar(what: str) -> Progress:
    """Show what is done of all, and the rate, below the cell of a notebook."""
    from IPython.display import HTML, display

    began, shown, name = time.monotonic(), None, what

    def show(done: int, total: int, what: str | None = None) -> None:
        nonlocal shown
        seconds = max(time.monotonic() - began, 1e-9)
        rate = f", {done / seconds:,.0f}/s" if what is None else ""
        bar = HTML(
            f"<label>{escape(what or name)} "
            f'<progress value="{done}" max="{max(total, 1)}"></progress> '
            f"{done:,} of {total:,}{rate}</label>"
        )
        if shown is None:
            shown = display(bar, display_id=True)
        else:
            shown.update(bar)

    return at_most_every(EVERY, show)


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """A table of facts, as `_repr_html_` gives it."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"
