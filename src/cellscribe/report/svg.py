"""Parts of figures that are written as SVG, without matplotlib, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cellscribe.escaping import escape
from cellscribe.report.numbers import decimals

WIDTH = 360
"""Width of a figure; letters are 10 high."""


def scaled(value: float, low: float, high: float, start: float, length: float) -> float:
    """Place of a value on an axis from `low` to `high`."""
    return start + (value - low) / (high - low) * length


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    """Draw a straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def text(x: float, y: float, words: str, anchor: str, colour: str) -> str:
    """Write words, which are escaped."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{escape(words)}</text>'


def figure(height: float, alt: str, parts: Iterable[str]) -> str:
    """Make a figure of `WIDTH`; `alt` replaces it where it is not seen."""
    return (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-size="10">\n' + "\n".join(parts) + "\n</svg>"
    )


def with_room(values: Sequence[float], share: float = 0.05) -> tuple[float, float]:
    """Return the ends of an axis: the range of the values and a margin; 0 to 1 without values."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def even_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between the ends of an axis, at steps of 1, 2 or 5 times 10^n."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_text(at: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many decimals as their step has."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(at) or 1.0
    return decimals(at, max(0, -math.floor(math.log10(step) + 1e-9)))
