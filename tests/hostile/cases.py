"""Which cases there are: every kind, each of its targets, each way to damage it, seeds from 0."""

from __future__ import annotations

from collections.abc import Iterator

from hostile.farm import KINDS
from hostile.judge import Case

HOWS = ("bytes", "lie", "lie", "place")
"""Structured lies get past a format's own library, so there are more of them."""


def cases(first: int, last: int, kinds: tuple[str, ...] = ()) -> Iterator[Case]:
    """Seeds `first` to `last` - 1 of every kind and target."""
    for seed in range(first, last):
        for kind in kinds or tuple(KINDS):
            for target in KINDS[kind].targets:
                yield Case(kind, target, HOWS[seed % len(HOWS)], seed)
