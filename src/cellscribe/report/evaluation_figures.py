"""Figures of an evaluation as SVG: a dot with its interval for each method, and lines.

Written without matplotlib, which an evaluation must not need, in the page's own colours. A method
has the same colour in all figures of a task; dashes and the order of the rows repeat the
information without colour. Names are above their dots, where a phone has room for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cellscribe.escaping import escape
from cellscribe.evaluation.scores import Curve, Estimate, Kind
from cellscribe.report.axes import one_line
from cellscribe.report.colours import FOLDED, PALETTE
from cellscribe.report.svg import (
    WIDTH,
    even_ticks,
    figure,
    line,
    scaled,
    text,
    tick_text,
    with_room,
)

ROW = 30
NAME_LENGTH = 46
PLOT = (46, 12, 304, 150)
"""Left, top, width and height of what the axes of lines enclose."""
DASHES: dict[Kind, str] = {"model": "none", "random": "1 3", "baseline": "5 3"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a method is drawn."""

    colour: str
    dashes: str


def looks(kinds: Mapping[str, Kind]) -> dict[str, Look]:
    """Choose a colour for every method; methods beyond the palette share one."""
    return {
        method: Look(colour=PALETTE[place] if place < len(PALETTE) else FOLDED, dashes=DASHES[kind])
        for place, (method, kind) in enumerate(kinds.items())
    }


def dots_svg(
    figures: Mapping[str, Estimate],
    looks: Mapping[str, Look],
    texts: Mapping[str, str],
    *,
    alt: str,
) -> str:
    """Draw a dot and its interval for each method, the first on top.

    Parameters
    ----------
    figures
        Finite estimates by method.
    looks
        Looks of at least these methods.
    texts
        Text at the right of each.
    alt
        Alternative text of the figure.
    """
    bounds = [
        value
        for each in figures.values()
        for value in (each.value, each.low, each.high)
        if math.isfinite(value)
    ]
    low, high = with_room(bounds)
    ticks = even_ticks(low, high)
    height = ROW * len(figures)
    parts = []
    for at in ticks:
        x = scaled(at, low, high, 6, WIDTH - 12)
        parts.append(line(x, 0, x, height, "var(--rule)", 1))
        parts.append(text(x, height + 13, tick_text(at, ticks), "middle", "var(--muted)"))
    for row, (method, each) in enumerate(figures.items()):
        y, look = ROW * row, looks[method]
        parts.append(text(2, y + 11, one_line(method, NAME_LENGTH), "start", "var(--ink)"))
        parts.append(text(WIDTH - 2, y + 11, texts[method], "end", "var(--muted)"))
        x = scaled(each.value, low, high, 6, WIDTH - 12)
        if math.isfinite(each.low) and math.isfinite(each.high):
            ends = [scaled(value, low, high, 6, WIDTH - 12) for value in (each.low, each.high)]
            parts.append(line(ends[0], y + 19, ends[1], y + 19, look.colour, 2))
        parts.append(f'<circle cx="{x:.1f}" cy="{y + 19}" r="3.6" fill="{look.colour}"/>')
    return figure(height + 18, alt, parts)


def lines_svg(curves: Mapping[str, Curve], looks: Mapping[str, Look], *, alt: str) -> str:
    """Draw a line for each method; points that are not finite are gaps.

    Parameters
    ----------
    curves
        Curves by method; the axis labels are those of the first.
    looks
        Looks of at least these methods.
    alt
        Alternative text of the figure.
    """
    first = next(iter(curves.values()))
    left, top, width, height = PLOT
    log = first.log_x and all(x > 0 for curve in curves.values() for x in curve.x)
    along = math.log10 if log else float
    xs = [along(x) for curve in curves.values() for x in curve.x]
    ys = [y for curve in curves.values() for y in curve.y if math.isfinite(y)]
    x_low, x_high = with_room(xs, share=0.02)
    y_low, y_high = with_room(ys)
    parts = []
    y_ticks = even_ticks(y_low, y_high)
    for at in y_ticks:
        y = top + height - scaled(at, y_low, y_high, 0, height)
        parts.append(line(left, y, left + width, y, "var(--rule)", 1))
        parts.append(text(left - 5, y + 3.5, tick_text(at, y_ticks), "end", "var(--muted)"))
    x_ticks = _log_ticks(x_low, x_high) if log else even_ticks(x_low, x_high)
    for at in x_ticks:
        x = scaled(along(at), x_low, x_high, left, width)
        parts.append(line(x, top + height, x, top + height + 3, "var(--muted)", 1))
        label = f"{at:,g}" if log else tick_text(at, x_ticks)
        parts.append(text(x, top + height + 14, label, "middle", "var(--muted)"))
    for method, curve in curves.items():
        parts += _drawn(
            [
                (
                    scaled(along(x), x_low, x_high, left, width),
                    top + height - scaled(y, y_low, y_high, 0, height)
                    if math.isfinite(y)
                    else math.nan,
                )
                for x, y in zip(curve.x, curve.y, strict=True)
            ],
            looks[method],
        )
    middle = left + width / 2
    parts.append(text(middle, top + height + 29, first.x_label, "middle", "var(--muted)"))
    parts.append(text(2, 8, first.y_label, "start", "var(--muted)"))
    return figure(top + height + 34, alt, parts)


def legend(methods: Iterable[str], looks: Mapping[str, Look]) -> str:
    """Render the legend of lines as HTML, which wraps where a figure cannot."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 10" aria-hidden="true"><path d="M0 5H34" fill="none" '
        f'stroke="{looks[method].colour}" stroke-width="2" '
        f'stroke-dasharray="{looks[method].dashes}"/></svg><span>{escape(method)}</span></li>'
        for method in methods
    )
    return f'<ul class="lines">{items}</ul>'


def _drawn(points: Sequence[tuple[float, float]], look: Look) -> list[str]:
    """Draw a polyline for each stretch without a gap, and dots if there are few points."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    parts = [
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in stretch)}" fill="none" '
        f'stroke="{look.colour}" stroke-width="1.8" stroke-dasharray="{look.dashes}"/>'
        for stretch in stretches
        if len(stretch) > 1
    ]
    if len(points) <= 24:
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{look.colour}"/>'
            for stretch in stretches
            for x, y in stretch
        ]
    return parts


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each decade, or the decades only if there are many."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    every = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [at for at in every if low <= math.log10(at) <= high]
