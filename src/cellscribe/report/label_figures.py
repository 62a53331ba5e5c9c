"""Figures of labels: confusion, reliability, ROC and PR, held-out groups, maps of cells.

A label has one colour on a page, in every figure and next to its name in tables. Figures need no
matplotlib; only the two maps do, as those of `embed` do. Where labels are many, curves of all but
the worst few are drawn thin and grey: thirty colours tell nobody anything.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellscribe.escaping import escape
from cellscribe.evaluation.scores import Estimate
from cellscribe.model.heads import UNKNOWN
from cellscribe.report.colours import FOLDED, PALETTE, UNLABELLED, Colouring, colour_by_share
from cellscribe.report.evaluation_figures import Look, dots_svg
from cellscribe.report.figures import ASPECT, points_png
from cellscribe.report.numbers import several
from cellscribe.report.svg import figure, line, scaled, text
from cellscribe.report.umap import tag_places, to_frame

PLOT = (40, 14, 306, 230)
"""Left, top, width and height of what the axes enclose."""
COLOURED = 6
"""Labels of the smallest area whose curves are in their colours."""
MOST_GROUPS = 12
"""Held-out groups that are drawn, the worst ones."""
Z = 1.959964
"""Standard deviations of a 95 % interval."""

Colours = Mapping[str, str]


def label_colours(counts: Mapping[str, int]) -> dict[str, str]:
    """Give the commonest labels a colour each; the others share one, and unknown has its own."""
    ranked = sorted((name for name in counts if name != UNKNOWN), key=lambda n: (-counts[n], n))
    found = {
        name: PALETTE[place] if place < len(PALETTE) else FOLDED
        for place, name in enumerate(ranked)
    }
    return found | {UNKNOWN: UNLABELLED}


def confusion_html(labels: Sequence[str], counts: Sequence[Sequence[int]], colours: Colours) -> str:
    """Tabulate cells by label (rows) and best label (columns), as shares of the row and counts.

    Columns have the numbers of the rows, so that thirty labels find room; the table scrolls
    sideways by itself, its row headings stay.
    """
    head = "".join(
        f'<th scope="col" title="{escape(name)}">{place}</th>'
        for place, name in enumerate(labels, start=1)
    )
    rows = []
    for place, (name, row) in enumerate(zip(labels, counts, strict=True), start=1):
        total = sum(row)
        cells = "".join(
            _confused(name, labels[column], n, total, column == place - 1)
            for column, n in enumerate(row)
        )
        rows.append(
            f'<tr><th scope="row" title="{escape(name)}"><span class="own">'
            f"{swatch(colours[name])}<b>{place}</b> <span>{escape(name)}</span></span></th>"
            f"{cells}<td class='sum'>{total:,}</td></tr>"
        )
    alt = f"Confusion matrix of {len(labels)} labels: rows are the labels that cells have"
    return (
        f'<div class="wide confusion" role="region" tabindex="0" aria-label="{alt}"><table>\n'
        f'<thead><tr><th scope="col">label that cells have</th>{head}'
        '<th scope="col">cells</th></tr></thead>\n<tbody>\n' + "\n".join(rows) + "\n</tbody>"
        "</table></div>"
    )


def _confused(own: str, given: str, n: int, total: int, right: bool) -> str:
    if not n:
        return "<td></td>"
    share = n / total
    strength = round(8 + 72 * share)
    ink = "var(--accent)" if right else "var(--alert)"
    percent = f"{share:.0%}" if share >= 0.005 else "&lt;1%"
    hint = f"{own}: {several(n, 'cell')} called {given}"
    return (
        f'<td title="{escape(hint)}" style="background:color-mix(in srgb,{ink} {strength}%,'
        f'var(--card))">{percent}'
        f"<small>{n:,}</small></td>"
    )


def swatch(colour: str) -> str:
    """Draw a dot in a label's colour."""
    return f'<span class="dot" style="background:{colour}"></span>'


def with_swatches(table: str, names: Sequence[str], colours: Colours) -> str:
    """Put each label's colour next to its name, in an HTML table whose rows begin with labels."""
    for name in names:
        plain = f'<th scope="row">{escape(name)}</th>'
        table = table.replace(plain, plain.replace(">", f">{swatch(colours[name])}", 1), 1)
    return table


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw what was promised against what held, with the cells of each bin below."""
    left, top, width, height = PLOT
    floor = 46
    most = max(each["cells"] for each in bins)
    parts = _axes("probability of the best label", "share that was right", floor)
    parts.append(
        f'<line x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top}" '
        'stroke="var(--muted)" stroke-width="1" stroke-dasharray="4 3"/>'
    )
    points = []
    for each in bins:
        x = scaled(each["low"], 0, 1, left, width)
        tall = max(36 * each["cells"] / most, 1.5 if each["cells"] else 0)
        base = top + height + floor - 6
        broad = width * (each["high"] - each["low"])
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{base - tall:.1f}" width="{broad - 2:.1f}" '
            f'height="{tall:.1f}" fill="var(--rule)"/>'
        )
        if not each["cells"]:
            continue
        middle = x + broad / 2
        parts.append(text(middle, base - tall - 2, _short(each["cells"]), "middle", "var(--muted)"))
        points.append(_place(each["promised"], each["held"]))
        low, high = (_place(0, bound)[1] for bound in wilson(each["held"], each["cells"]))
        parts.append(line(points[-1][0], low, points[-1][0], high, "var(--accent)", 1.4))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(
        f'<polyline points="{path}" fill="none" stroke="var(--accent)" stroke-width="1.6"/>'
    )
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="var(--accent)"/>' for x, y in points
    ]
    told = "; ".join(
        f"{each['promised']:.2f} promised, {each['held']:.2f} right, {each['cells']:,} cells"
        for each in bins
        if each["cells"]
    )
    return figure(top + height + floor + 30, f"Reliability curve: {told}", parts)


def curves_svg(scores: Mapping[str, Any], kind: str, colours: Colours) -> str:
    """Draw the ROC or the PR curve of each label, and their mean.

    Parameters
    ----------
    scores
        From `scorecard.score`.
    kind
        ``"roc"`` or ``"pr"``.
    colours
        Of the labels.
    """
    roc = kind == "roc"
    key = "roc_auc" if roc else "average_precision"
    drawn = sorted((row for row in scores["labels"] if row[kind]), key=lambda row: row[key])
    axes = ("false positive rate", "recall") if roc else ("recall", "precision")
    parts = _axes(*axes, 0)
    few = len(drawn) <= COLOURED
    for place, row in reversed(list(enumerate(drawn))):
        coloured = few or place < COLOURED
        colour = colours[row["label"]] if coloured else "var(--muted)"
        parts.append(_path(row[kind], colour, 1.4 if coloured else 0.6, 1 if coloured else 0.55))
    if len(drawn) > 1:
        parts.append(_path(scores[kind], "var(--ink)", 2.2, 1, "6 3"))
    told = ", ".join(f"{row['label']} {row[key]:.3f}" for row in drawn)
    name = "ROC curves, area" if roc else "Precision-recall curves, average precision"
    mean = f"; mean {scores[key]:.3f}" if scores[key] is not None else ""
    return figure(PLOT[1] + PLOT[3] + 32, f"{name}: {told or 'none'}{mean}", parts)


def curves_legend(scores: Mapping[str, Any], kind: str, colours: Colours) -> str:
    """List what the lines of `curves_svg` are, with their areas, the smallest first."""
    key = "roc_auc" if kind == "roc" else "average_precision"
    drawn = sorted((row for row in scores["labels"] if row[kind]), key=lambda row: row[key])
    items = [
        f"<li>{_stroke(colours[row['label']])}<span>{escape(row['label'])} {row[key]:.3f}</span>"
        "</li>"
        for row in drawn[:COLOURED]
    ]
    rest = len(drawn) - COLOURED
    if rest > 0:
        items.append(
            f"<li>{_stroke('var(--muted)')}<span>{several(rest, 'other label')}</span></li>"
        )
    if len(drawn) > 1:
        items.insert(
            0, f"<li>{_stroke('var(--ink)', '6 3')}<span>mean {scores[key]:.3f}</span></li>"
        )
    return f'<ul class="lines">{"".join(items)}</ul>'


def groups_svg(groups: Sequence[Mapping[str, Any]]) -> str:
    """Draw the accuracy of the held-out groups that fared worst, with 95 % intervals."""
    shown = groups[:MOST_GROUPS]
    figures = {
        row["group"]: Estimate(
            value=row["accuracy"],
            low=wilson(row["accuracy"], row["cells"])[0],
            high=wilson(row["accuracy"], row["cells"])[1],
        )
        for row in shown
    }
    texts = {row["group"]: f"{row['accuracy']:.1%} of {row['cells']:,}" for row in shown}
    look = Look(colour="var(--accent)", dashes="none")
    told = "; ".join(f"{name} {each}" for name, each in texts.items())
    return dots_svg(figures, dict.fromkeys(figures, look), texts, alt=f"Accuracy: {told}")


def wilson(share: float, n: int) -> tuple[float, float]:
    """Interval of 95 % of a share of `n` cells (Wilson 1927)."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def map_by_label(xy: npt.NDArray, names: Sequence[str], colours: Colours) -> tuple[str, str]:
    """Draw cells by label; a picture with numbers on it, and its legend."""
    counts = dict.fromkeys(colours, 0)
    for name in names:
        counts[name] += 1
    there = [name for name in colours if counts[name]]
    place = {name: code for code, name in enumerate(there)}
    codes = np.array([place[name] for name in names], np.int64)
    tagged = [name for name in there if name != UNKNOWN and colours[name] != FOLDED]
    colouring = Colouring(
        codes=codes, colours=tuple(colours[name] for name in there), n_tagged=len(tagged)
    )
    placed = to_frame(xy, ASPECT)
    tags = "".join(
        f'<span class="tag" style="left:{x:.2%};top:{y:.2%};'
        f'border-color:{colouring.colours[code]}">{code + 1}</span>'
        for code, (x, y) in enumerate(tag_places(placed, codes, len(tagged), ASPECT))
        if np.isfinite(x)
    )
    told = ", ".join(f"{name} {counts[name]:,}" for name in there)
    items = "".join(
        f"<li>{swatch(colours[name])}<b>{code + 1 if name in tagged else ''}</b>"
        f'<span class="name">{escape(name)}</span><span class="count">{counts[name]:,}</span></li>'
        for code, name in enumerate(there)
    )
    picture = _picture(xy, colouring, f"Map of the cells by label: {told}", tags)
    return picture, f'<ul class="key-list">{items}</ul>'


def map_by_share(xy: npt.NDArray, shares: npt.NDArray, what: str) -> tuple[str, str]:
    """Draw cells by a share from 0 to 1; the picture and its scale."""
    colouring = colour_by_share(shares)
    stops = ",".join(colouring.colours)
    scale = (
        f'<div class="scale"><div class="bar" style="background:linear-gradient(to right,{stops})">'
        "</div><p><span>0</span><span>0.5</span><span>1</span></p></div>"
    )
    middle = float(np.median(shares)) if len(shares) else 0.0
    return _picture(xy, colouring, f"Map of the cells by {what}; median {middle:.2f}", ""), scale


def _picture(xy: npt.NDArray, colouring: Colouring, alt: str, tags: str) -> str:
    data = base64.b64encode(points_png(xy, colouring)).decode()
    return (
        f'<div class="frame"><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f'<div class="tags" aria-hidden="true">{tags}</div></div>'
    )


def _axes(x_label: str, y_label: str, floor: float) -> list[str]:
    """Grid and ticks from 0 to 1 on both axes; `floor`: room between the plot and its x axis."""
    left, top, width, height = PLOT
    parts = []
    for at in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _place(at, at)
        parts.append(line(left, y, left + width, y, "var(--rule)", 1))
        parts.append(text(left - 6, y + 3.5, f"{at:.1f}", "end", "var(--muted)"))
        parts.append(text(x, top + height + floor + 14, f"{at:.1f}", "middle", "var(--muted)"))
    middle = left + width / 2
    parts.append(text(middle, top + height + floor + 28, x_label, "middle", "var(--muted)"))
    parts.append(text(2, 8, y_label, "start", "var(--muted)"))
    return parts


def _place(x: float, y: float) -> tuple[float, float]:
    left, top, width, height = PLOT
    return scaled(x, 0, 1, left, width), top + height - scaled(y, 0, 1, 0, height)


def _path(
    points: Sequence[Sequence[float]], colour: str, width: float, alpha: float, dashes: str = "none"
) -> str:
    places = " ".join("{:.1f},{:.1f}".format(*_place(*point)) for point in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{alpha}" stroke-dasharray="{dashes}"/>'
    )


def _stroke(colour: str, dashes: str = "none") -> str:
    return (
        f'<svg viewBox="0 0 34 10" aria-hidden="true"><path d="M0 5H34" fill="none" '
        f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/></svg>'
    )


def _short(n: int) -> str:
    return f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f}k"
