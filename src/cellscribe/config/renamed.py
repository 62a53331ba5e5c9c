"""Former names of options and keywords, which work until the next release with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

RENAMED: dict[str, dict[str, str]] = {
    "FinetuneOptions": {"fewest_cells": "min_cells"},
    "AnnotateOptions": {"fewest_cells": "min_cells", "neighbours": "n_neighbors"},
    "EvaluateOptions": {"cells": "max_cells"},
    "PerturbOptions": {"cells": "max_cells"},
    "TrainOptions": {"chosen_share": "mlm_probability", "thin": "downsample"},
}
"""Class of options -> former name of a field -> its name."""


def warn_renamed(old: str, new: str) -> None:
    """Warn that a name is a former one."""
    warnings.warn(
        f"{old} is now called {new}; the old name goes with the next release",
        FutureWarning,
        stacklevel=3,
    )


def accept_former_names(kind: type[T]) -> type[T]:
    """Let a class of options take the former names of its fields."""
    former = RENAMED[kind.__name__]
    init: Callable[..., None] = kind.__init__

    @functools.wraps(init)
    def with_former(self: T, **settings: object) -> None:
        init(self, **rename(settings, former))

    kind.__init__ = with_former  # type: ignore[assignment, method-assign]
    return kind


def former_keywords(**former: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take the former names of its keywords (``old="new"``)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def with_former(*args: P.args, **settings: P.kwargs) -> R:
            return function(*args, **rename(settings, former))  # type: ignore[arg-type]

        return with_former

    return decorate


def rename(settings: dict[str, object], former: dict[str, str]) -> dict[str, object]:
    """Settings under the names of today; each former name is warned of."""
    if not former.keys() & settings.keys():
        return settings
    found: dict[str, object] = {}
    for name, value in settings.items():
        new = former.get(name, name)
        if new != name:
            warn_renamed(name, new)
        if new in found:
            raise TypeError(f"{name} and {new} are one setting, and both are given")
        found[new] = value
    return found
