"""Figures of the report: the map as PNG, histograms as SVG that takes its colours from the page.

Histograms are drawn by matplotlib in placeholder colours, which become CSS variables, so that one
figure is right in the light and in the dark theme. Only `Figure` objects are used, never pyplot:
the caller's backend, style and open figures stay as they are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.errors import InputError
from cellscribe.report.colours import PALETTE, Colouring, colour_by_label
from cellscribe.report.umap import EXTRA, finite_rows, layout_of, tag_places, to_frame
from cellscribe.writing import writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ASPECT = 4 / 3
"""Width over height of the map."""
MAP_SIZE = (1600, 1000)
"""Pixels of the PNG map."""

# Placeholders for CSS variables; odd enough never to be meant as themselves.
INKS = {"#010203": "--ink", "#010204": "--muted", "#010205": "--rule", "#010206": "--accent",
        "#010207": "--alert", "#010208": "--card"}  # fmt: skip
INK, MUTED, RULE, ACCENT, ALERT, CARD = INKS


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
        Appears under its name only when whole.
    umap_xy
        ``[n, 2]`` from `umap_coordinates`; cells with NaN are left out.
    labels, label_name
        ``[n]`` classes to colour by, and what they are called.
    title
        Stands above the map.

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
        heading = _literal(_short(title, 80))
        figure.text(0.035, 0.935, heading, size=12, weight="bold", color="#17212b")
        figure.text(0.035, 0.892, _literal(_short(subtitle, 100)), size=8, color="#5a6672")
        write_whole(path, _png(figure))


def points_png(umap_xy: npt.NDArray, colouring: Colouring) -> bytes:
    """Draw the bare points on a transparent ground, filling a frame of `ASPECT`, as a PNG."""
    need_matplotlib()
    from matplotlib.figure import Figure

    with plain_style():
        figure = Figure(figsize=(6, 6 / ASPECT), dpi=150)
        figure.patch.set_alpha(0)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.patch.set_alpha(0)
        _draw_points(axes, to_frame(umap_xy, ASPECT), colouring, scale=1.0)
        return _png(figure)


def point_radius(n_points: int) -> float:
    """Radius of a point, in thousandths of the map's width: many points are drawn small."""
    return float(np.clip(150 / np.sqrt(max(n_points, 1)), 1.8, 6.0))


def drawing_order(n_points: int) -> npt.NDArray[np.int64]:
    """Shuffle the cells (always alike), so that no class hides another by coming last."""
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
    """Draw how many cells have which value, as inline SVG in the page's own colours.

    Parameters
    ----------
    values
        ``[n]``, one a cell, or one for each of `weights` cells.
    bins
        Bin edges.
    name
        Different for each figure on the page: element ids start from it.
    xlabel, alt
        Axis label, and the text that stands for the figure when it is not seen.
    weights
        ``[n]`` how many have the value; one each if not given.
    unit
        What is counted.
    log, percent
        Logarithmic x axis; x axis in percent of 1.
    median
        Marked with a dashed line.
    limit, limit_label
        Marked with a line in the page's alert colour.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    with plain_style(**{"svg.fonttype": "none", "svg.hashsalt": f"cellscribe-{name}"}):
        figure = Figure(figsize=(5, 2.75), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(values, bins=list(bins), weights=weights, color=ACCENT, histtype="stepfilled")
        _tick(axes, bins, log=log, percent=percent)
        axes.set_xlim(bins[0], bins[-1])
        axes.set_ylim(bottom=0)
        axes.margins(y=0.04)
        _dress(axes, xlabel, unit)
        if median is not None:
            text = f"median {median:.1%}" if percent else f"median {_number(median)}"
            _mark(axes, median, text, colour=INK, dashes=(0, (4, 2.5)), above=True)
        if limit is not None:
            # above the bars, unless the median's label is there
            far = median is None or abs(median - limit) > 0.4 * (bins[-1] - bins[0])
            _mark(axes, limit, limit_label, colour=ALERT, dashes=(0, ()), above=bool(far))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inline(buffer.getvalue(), alt)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it stands under its name only when complete.

    Raises
    ------
    OutputError
        The folder is missing or not writable, or the disk is full.
    """
    with writing(Path(path)) as partial:
        partial.write_bytes(content)


def need_matplotlib() -> None:
    """Refuse to go on without matplotlib, with an `InputError` that says how to get it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"the figures need {error.name}; {EXTRA}") from None


@contextmanager
def plain_style(**extra: Any) -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the caller's style; restored afterwards."""
    import matplotlib

    plain: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    plain.pop("backend")
    plain |= {"font.size": 9.5, "axes.unicode_minus": False} | extra
    with matplotlib.rc_context(plain):
        yield


def _literal(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def one_line(text: str, length: int) -> str:
    """Text without line breaks, cut to a length."""
    return _short(" ".join(text.split()), length)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "cellscribe"})
    return buffer.getvalue()


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
                color="#17212b",
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
        figure.text(left + 0.023, y, tag, size=7, weight="bold", color="#17212b", **dot)
        small: dict[str, Any] = {"size": 7.5, "va": "center_baseline"}
        number = figure.text(0.985, y, f"{count:,}", color="#5a6672", ha="right", **small)
        end = number.get_window_extent().x0 - 8
        text = figure.text(left + 0.038, y, _literal(_short(name, 60)), color="#17212b", **small)
        for length in range(min(len(name), 60), 1, -1):
            if text.get_window_extent().x1 <= end:
                break
            text.set_text(_literal(_short(name, length)))


def _tick(axes: Axes, bins: npt.NDArray, *, log: bool, percent: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    thousands = FuncFormatter(lambda value, _: _number(value))
    shares = FuncFormatter(lambda value, _: f"{value:.0%}")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(bins)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=not percent))
    axes.xaxis.set_major_formatter(shares if percent else thousands)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(thousands)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _dress(axes: Axes, xlabel: str, unit: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED, length=3, width=0.8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=MUTED)
    axes.set_ylabel(unit, color=MUTED)


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
    """Label 1, 2, 5 of each decade where decades are few."""
    return [1.0, 2.0, 5.0] if edges[-1] / edges[0] < 200 else [1.0]


def inline(svg: str, alt: str) -> str:
    """Make matplotlib's SVG file an element of the page: no prolog, no unused ids.

    Only tags are changed: what looks like an id or a colour in a text was meant as text.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    tags = re.findall(r"<[^>]*>", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', "".join(tags)))

    def of_the_page(found: re.Match[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", found[0])
        for placeholder, variable in INKS.items():
            tag = tag.replace(placeholder, f"var({variable})")
        return tag

    svg = re.sub(r"<[^>]*>", of_the_page, svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1).strip()
