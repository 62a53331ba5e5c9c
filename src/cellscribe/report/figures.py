"""Figures of the report: the map as PNG, histograms and bars as SVG in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.report.axes import (
    ACCENT,
    ALERT,
    CARD,
    INK,
    MUTED,
    PAGE,
    PAPER,
    RULE,
    dress,
    need_matplotlib,
    number_ticks,
    one_line,
    plain_style,
    png,
    round_ticks,
    shortened,
    svg,
    svg_style,
)
from cellscribe.report.colours import PALETTE, Colouring, colour_by_label
from cellscribe.report.numbers import rounded
from cellscribe.report.umap import finite_rows, layout_of, tag_places, to_frame
from cellscribe.writing import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ASPECT = 4 / 3
"""Width over height of the map."""
MAP_SIZE = (1600, 1000)
"""Pixels of the PNG map."""

NAME_LENGTH = 26
"""Characters of a name that bars show."""
TICK_DIGITS = (3, 10)
"""Significant digits of a histogram's ticks, and from where on they are whole numbers."""


def write_map(
    path: Path,
    umap_xy: npt.NDArray,
    labels: Sequence[str] | None,
    label_name: str | None,
    title: str,
) -> None:
    """Write the map as a PNG of `MAP_SIZE` pixels, with a numbered legend when there are labels.

    Parameters
    ----------
    path
        File to write; it appears only when complete.
    umap_xy
        ``[n, 2]`` from `umap_coordinates`; cells with NaN are left out.
    labels, label_name
        ``[n]`` classes to colour by, and their name.
    title
        Title above the map.

    Raises
    ------
    InputError
        matplotlib is missing, or the file cannot be written.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    colouring = (
        colour_by_label(labels)
        if labels is not None
        else Colouring(codes=np.zeros(len(umap_xy), np.int64), colours=(PALETTE[0],))
    )
    n_drawn = int(finite_rows(umap_xy).sum())
    subtitle = f"{layout_of(n_drawn)} of {n_drawn:,} cells"
    subtitle += f", coloured by {label_name or 'label'}" if labels is not None else ""
    dpi = 200
    with plain_style():
        figure = Figure(figsize=(MAP_SIZE[0] / dpi, MAP_SIZE[1] / dpi), dpi=dpi, facecolor="white")
        height = 0.83
        width = height * MAP_SIZE[1] / MAP_SIZE[0] * ASPECT
        if labels is None:
            width = 0.95
        axes = figure.add_axes((0.025, 0.02, width, height))
        aspect = width / height * MAP_SIZE[0] / MAP_SIZE[1]
        _draw_points(axes, to_frame(umap_xy, aspect), colouring, scale=0.8)
        _draw_tags(axes, to_frame(umap_xy, aspect), colouring, aspect)
        _draw_legend(figure, colouring, left=0.025 + width + 0.03)
        heading = _literal(shortened(title, 80))
        figure.text(0.035, 0.935, heading, size=12, weight="bold", color=PAPER.ink)
        figure.text(0.035, 0.892, _literal(shortened(subtitle, 100)), size=8, color=PAPER.muted)
        write_whole(path, png(figure))


def points_png(umap_xy: npt.NDArray, colouring: Colouring) -> bytes:
    """Draw the points only, on a transparent frame of `ASPECT`, as a PNG."""
    need_matplotlib()
    from matplotlib.figure import Figure

    with plain_style():
        figure = Figure(figsize=(6, 6 / ASPECT), dpi=150)
        figure.patch.set_alpha(0)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.patch.set_alpha(0)
        _draw_points(axes, to_frame(umap_xy, ASPECT), colouring, scale=1.0)
        return png(figure)


def point_radius(n_points: int) -> float:
    """Return the radius of a point in thousandths of the map's width; smaller for many points."""
    return float(np.clip(150 / np.sqrt(max(n_points, 1)), 1.8, 6.0))


def drawing_order(n_points: int) -> npt.NDArray[np.int64]:
    """Return a fixed random order of the cells, so that no class is drawn over the others."""
    return np.random.default_rng(0).permutation(n_points).astype(np.int64)


def histogram_svg(
    values: npt.NDArray,
    bins: npt.NDArray,
    *,
    name: str,
    xlabel: str,
    alt: str,
    weights: npt.NDArray | None = None,
    unit: str = "cells",
    log: bool = False,
    percent: bool = False,
    median: float | None = None,
    limit: float | None = None,
    limit_label: str = "",
) -> str:
    """Draw a histogram of cells as inline SVG in the page's own colours.

    Parameters
    ----------
    values
        ``[n]``, one per cell, or one for each of `weights` cells.
    bins
        Bin edges.
    name
        Unique name on the page, from which element ids are made.
    xlabel, alt
        Axis label, and alternative text of the figure.
    weights
        ``[n]`` number of cells with each value; 1 if not given.
    unit
        Label of the y axis: what is counted.
    log, percent
        Whether the x axis is logarithmic, and whether it is in percent.
    median
        Value marked with a dashed line.
    limit, limit_label
        Value marked with a line in the page's alert colour, and its label.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    with svg_style(name):
        figure = Figure(figsize=(5, 2.75), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(values, bins=list(bins), weights=weights, color=ACCENT, histtype="stepfilled")
        _tick(axes, bins, log=log, percent=percent)
        axes.set_xlim(bins[0], bins[-1])
        axes.set_ylim(bottom=0)
        axes.margins(y=0.04)
        dress(axes, PAGE, xlabel, unit)
        if median is not None:
            text = f"median {median:.1%}" if percent else f"median {rounded(median, *TICK_DIGITS)}"
            _mark(axes, median, text, colour=INK, dashes=(0, (4, 2.5)), above=True)
        if limit is not None:
            # above the bars, unless the label of the median is there
            far = median is None or abs(median - limit) > 0.4 * (bins[-1] - bins[0])
            _mark(axes, limit, limit_label, colour=ALERT, dashes=(0, ()), above=bool(far))
        return svg(figure, alt)


def bars_svg(
    names: Sequence[str],
    shares: Sequence[float],
    texts: Sequence[str],
    *,
    name: str,
    alt: str,
    rings: Sequence[float] | None = None,
    folded: bool = False,
) -> str:
    """Draw horizontal bars as inline SVG, one per name, the first on top.

    Parameters
    ----------
    names
        ``[n]``, shown up to `NAME_LENGTH` characters.
    shares
        ``[n]`` lengths of the bars.
    texts
        ``[n]`` text at the right of each bar.
    name
        Unique name on the page, from which element ids are made.
    alt
        Alternative text of the figure.
    rings
        ``[n]`` second shares, drawn as rings on the bars.
    folded
        Whether the last bar is the sum of several names, and drawn muted.

    Raises
    ------
    InputError
        matplotlib is missing.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    rows = range(len(names))
    with svg_style(name):
        # at least three rows high, so that a single bar does not fill the figure
        height = max(len(names), 3)
        figure = Figure(figsize=(5, 0.1 + 0.22 * height), layout="constrained")
        axes = figure.add_subplot()
        colours = [MUTED if folded and row == len(names) - 1 else ACCENT for row in rows]
        axes.barh(list(rows), list(shares), height=0.62, color=colours)
        if rings is not None:
            axes.plot(rings, list(rows), "o", ms=5.5, mfc=CARD, mec=INK, mew=1.2, clip_on=False)
        longest = max([*shares, *(rings or ()), 1e-9])
        axes.set(xlim=(0, longest * 1.02), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["left"].set_color(RULE)
        outside = axes.get_yaxis_transform()
        for row in rows:
            style: dict[str, Any] = {
                "transform": outside,
                "va": "center_baseline",
                "parse_math": False,
            }
            axes.text(-0.03, row, one_line(names[row], NAME_LENGTH), ha="right", color=INK, **style)
            axes.text(1.03, row, texts[row], ha="left", color=MUTED, **style)
        return svg(figure, alt)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears only when complete.

    Raises
    ------
    OutputError
        The folder is missing or not writable, or the disk is full.
    """
    with writing(Path(path)) as partial:
        partial.write_bytes(content)


def _literal(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _draw_points(
    axes: Axes, placed: npt.NDArray[np.float64], colouring: Colouring, scale: float
) -> None:
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.set_axis_off()
    order = drawing_order(len(placed))
    order = order[finite_rows(placed)[order]]
    bbox = axes.get_window_extent()
    points = bbox.width / axes.figure.dpi * 72
    radius = point_radius(len(order)) / 1000 * points * scale
    axes.scatter(
        placed[order, 0],
        placed[order, 1],
        s=(2 * radius) ** 2,
        c=np.array(colouring.colours)[colouring.codes[order]],
        alpha=0.85,
        linewidths=0,
    )


def _draw_tags(
    axes: Axes, placed: npt.NDArray[np.float64], colouring: Colouring, aspect: float
) -> None:
    places = tag_places(placed, colouring.codes, colouring.n_tagged, aspect)
    for code, (x, y) in enumerate(places):
        if np.isfinite(x):
            axes.text(
                x,
                y,
                str(code + 1),
                ha="center",
                va="center",
                size=7,
                weight="bold",
                color=PAPER.ink,
                bbox={
                    "boxstyle": "circle,pad=0.28",
                    "facecolor": "white",
                    "edgecolor": colouring.colours[code],
                    "linewidth": 1.2,
                },
            )


def _draw_legend(figure: Figure, colouring: Colouring, left: float) -> None:
    rows = len(colouring.names)
    step = min(0.052, 0.8 / max(rows, 1))
    for row, (name, count) in enumerate(zip(colouring.names, colouring.counts, strict=True)):
        y = 0.82 - row * step
        tag = str(row + 1) if row < colouring.n_tagged else ""
        dot: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        figure.text(left, y, "●", size=10, color=colouring.colours[row], **dot)
        figure.text(left + 0.023, y, tag, size=7, weight="bold", color=PAPER.ink, **dot)
        small: dict[str, Any] = {"size": 7.5, "va": "center_baseline"}
        number = figure.text(0.985, y, f"{count:,}", color=PAPER.muted, ha="right", **small)
        end = number.get_window_extent().x0 - 8
        text = figure.text(left + 0.038, y, _literal(shortened(name, 60)), color=PAPER.ink, **small)
        for length in range(min(len(name), 60), 1, -1):
            if text.get_window_extent().x1 <= end:
                break
            text.set_text(_literal(shortened(name, length)))


def _tick(axes: Axes, bins: npt.NDArray, *, log: bool, percent: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    thousands = number_ticks(*TICK_DIGITS)
    shares = FuncFormatter(lambda value, _: f"{value:.0%}")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(bins)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(round_ticks(integer=not percent))
    axes.xaxis.set_major_formatter(shares if percent else thousands)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(thousands)


def _mark(axes: Axes, x: float, text: str, *, colour: str, dashes: Any, above: bool) -> None:
    axes.axvline(x, color=colour, linewidth=1.3, linestyle=dashes)
    right = axes.transAxes.inverted().transform(axes.transData.transform((x, 0)))[0] > 0.6
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if right else 4, 3 if above else -11),
        textcoords="offset points",
        ha="right" if right else "left",
        color=colour,
        annotation_clip=False,
    )


def _log_steps(edges: npt.NDArray) -> list[float]:
    """Return the labelled steps of a decade: 1, 2, 5 if there are few decades."""
    return [1.0, 2.0, 5.0] if edges[-1] / edges[0] < 200 else [1.0]
