"""Curves over training steps, as SVG in the page's own colours and as PNG.

A long run has more steps than a figure has pixels. A line is then drawn through every k-th point,
over a band from the lowest to the highest value of each stretch, so that no spike is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cellscribe.report.axes import (
    PAGE,
    PAPER,
    Inks,
    dress,
    need_matplotlib,
    number_ticks,
    one_line,
    plain_style,
    png,
    round_ticks,
    svg,
    svg_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 600
"""About how many points of a line are drawn."""
Values = npt.NDArray[np.float64]
Dashes = Literal["solid"] | tuple[float, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve.

    Attributes
    ----------
    name
        Name in a legend.
    x, y
        ``[n]``; NaN is a gap.
    raw
        ``[n]`` values whose mean is `y`, drawn under it in a lighter tone.
    colour
        Colour; None is the accent colour.
    dashes
        Line style of matplotlib.
    marker
        Marker of matplotlib at each point; empty for none.
    """

    name: str
    x: npt.NDArray[np.int64]
    y: Values
    raw: Values | None = None
    colour: str | None = None
    dashes: Dashes = "solid"
    marker: str = ""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line to compare with: at `y`, with `text` above it (or below) at one end."""

    y: float
    text: str
    below: bool = False
    right: bool = False


def lines_svg(
    lines: Sequence[Line],
    *,
    name: str,
    alt: str,
    ylabel: str,
    size: tuple[float, float] = (5, 2.75),
    levels: Sequence[Level] = (),
    marks: Sequence[int] = (),
    log: bool = False,
    from_zero: bool = False,
) -> str:
    """Draw curves over steps as inline SVG.

    Parameters
    ----------
    lines
        Curves, at least one; the last is drawn on top.
    name
        Unique name on the page, from which element ids are made.
    alt
        Alternative text of the figure.
    ylabel
        Label of the y axis.
    size
        Size in inches; 5 is half the width of a page.
    levels
        Horizontal lines to compare with.
    marks
        Steps that are marked by a thin vertical line.
    log, from_zero
        Whether the y axis is logarithmic, and whether it starts at 0.

    Raises
    ------
    InputError
        matplotlib is missing.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    with svg_style(name):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, lines, levels, marks, PAGE, ylabel, log=log)
        if from_zero:
            axes.set_ylim(bottom=0)
        return svg(figure, alt)


def lines_png(
    lines: Sequence[Line],
    *,
    legend: Sequence[Line],
    title: str,
    subtitle: str,
    ylabel: str,
    levels: Sequence[Level] = (),
) -> bytes:
    """Draw curves over steps on white, with title and legend, as a PNG 1,600 pixels wide.

    Parameters and errors as in `lines_svg`; `legend` gives names and looks.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    with plain_style():
        rows = -(-len(legend) // 3)
        figure = Figure(figsize=(8, 4.6 + 0.2 * rows), dpi=200, facecolor="white")
        figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.97, 0.88))
        axes = figure.add_subplot()
        _draw(axes, lines, levels, (), PAPER, ylabel, log=False)
        _legend(axes, legend)
        plain: dict[str, Any] = {"x": 0.02, "parse_math": False, "va": "baseline"}
        figure.text(y=0.95, s=one_line(title, 80), size=12, weight="bold", color=PAPER.ink, **plain)
        figure.text(y=0.91, s=one_line(subtitle, 110), size=8, color=PAPER.muted, **plain)
        return png(figure)


def _draw(
    axes: Axes,
    lines: Sequence[Line],
    levels: Sequence[Level],
    marks: Sequence[int],
    inks: Inks,
    ylabel: str,
    *,
    log: bool,
) -> None:
    if log:
        axes.set_yscale("log")
    for line in lines:
        _draw_raw(axes, line, inks)
    for step in marks:
        axes.axvline(step, color=inks.muted, linewidth=0.8, linestyle=(0, (1, 2)))
    for line in lines:
        x, y = subsample(line.x, line.y)
        axes.plot(
            x,
            y,
            color=line.colour or inks.accent,
            linestyle=line.dashes,
            linewidth=1.6,
            marker=line.marker or "none",
            # where markers would touch, only some are drawn
            markevery=max(len(x) // 40, 1),
            markersize=3.6,
        )
    _fit(axes, lines, levels, log=log)
    dress(axes, inks, "step", ylabel)
    _tick(axes, log=log)
    for level in levels:
        axes.axhline(level.y, color=inks.muted, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            level.text,
            (0.995 if level.right else 0.005, level.y),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if level.below else 2.5),
            textcoords="offset points",
            ha="right" if level.right else "left",
            va="top" if level.below else "bottom",
            size=8,
            color=inks.muted,
        )


def _draw_raw(axes: Axes, line: Line, inks: Inks) -> None:
    if line.raw is None:
        return
    style: dict[str, Any] = {"color": line.colour or inks.accent, "alpha": 0.28, "linewidth": 0.7}
    if len(line.x) <= MOST_POINTS:
        axes.plot(line.x, line.raw, **style)
        return
    x, low, high = stretches(line.x, line.raw)
    axes.fill_between(x, low, high, **(style | {"linewidth": 0}))


def _fit(axes: Axes, lines: Sequence[Line], levels: Sequence[Level], *, log: bool) -> None:
    """Fit the axes to curves, levels and most raw values, but not to a single spike."""
    values = np.concatenate([line.y for line in lines] + [[level.y for level in levels]])
    for line in lines:
        if line.raw is not None and (finite := line.raw[np.isfinite(line.raw)]).size:
            values = np.append(values, np.quantile(finite, [0.01, 0.99]))
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    last = max(int(line.x[-1]) for line in lines if len(line.x))
    first = min(int(line.x[0]) for line in lines if len(line.x))
    axes.set_xlim(first - 0.01 * (last - first) - 0.5, last + 0.01 * (last - first) + 0.5)
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if log:
        axes.set_ylim(low / 1.2, high * 1.2)
    else:
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)


def _tick(axes: Axes, *, log: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.xaxis.set_major_locator(round_ticks(integer=True))
    axes.xaxis.set_major_formatter(number_ticks(6, 0))
    axes.yaxis.set_major_formatter(number_ticks(6, 1_000))
    if log:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(round_ticks())


def _legend(axes: Axes, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=line.colour or PAPER.accent,
            linestyle=line.dashes,
            linewidth=1.6,
            marker=line.marker or "none",
            markersize=3.6,
        )
        for line in lines
    ]
    legend = axes.legend(
        handles,
        ["x"] * len(lines),
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=3,
        frameon=False,
        fontsize=8,
        handlelength=3,
        borderaxespad=0,
        labelcolor=PAPER.ink,
    )
    # set afterwards: as labels, names that start with _ would be left out
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(one_line(line.name, 30))


def subsample(x: npt.NDArray[np.int64], y: Values) -> tuple[npt.NDArray[np.int64], Values]:
    """Keep every k-th point, and the last, if there are more than `MOST_POINTS`."""
    step = -(-len(x) // MOST_POINTS)
    if step <= 1:
        return x, y
    kept = np.unique(np.append(np.arange(0, len(x), step), len(x) - 1))
    return x[kept], y[kept]


def stretches(x: npt.NDArray[np.int64], values: Values) -> tuple[Values, Values, Values]:
    """Return middle, lowest and highest finite value of at most `MOST_POINTS` equal stretches.

    NaN where a stretch has no finite value.
    """
    size = -(-len(x) // MOST_POINTS)
    starts = np.arange(0, len(x), size)
    finite = np.isfinite(values)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    empty = ~np.logical_or.reduceat(finite, starts)
    low[empty] = high[empty] = np.nan
    ends = np.minimum(starts + size, len(x)) - 1
    return (x[starts] + x[ends]) / 2, low, high
