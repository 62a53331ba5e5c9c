"""Parts of figures that are written as SVG, without matplotlib, in the page's own colours."""

from __future__ import annotations

from collections.abc import Iterable

from cellscribe.escaping import escape

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
