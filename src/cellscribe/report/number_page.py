"""The page of a model that predicts a number: predicted against true, groups, and the baselines.

It begins with whether the model beats the baselines. All figures are of held-out cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.model_readme import coverage_said, verdict
from cellscribe.annotation.regression import HeldOutNumbers
from cellscribe.evaluation.scores import Estimate
from cellscribe.model.several_heads import NumberHead
from cellscribe.report import html
from cellscribe.report.evaluation_figures import Look, dots_svg
from cellscribe.report.label_page import CSS, NOTHING, facts_table, verdict_box
from cellscribe.report.numbers import several
from cellscribe.report.svg import even_ticks, figure, line, scaled, text, tick_text, with_room
from cellscribe.report.tables import Table

PLOT = (46, 14, 304, 260)
"""Left, top, width and height of what the axes enclose."""
MOST_POINTS = 1_500
"""Cells that are drawn, at random."""
MOST_GROUPS = 12
"""Held-out groups that are drawn, the worst ones."""
NAMES = {
    "model": "this model",
    "ridge": "ridge regression on genes (principal components)",
    "mean": "mean of the cells learnt from",
}


def render_number(
    found: HeldOutNumbers, head: NumberHead, *, title: str, source: str, facts: Mapping[str, str]
) -> str:
    """Make the page.

    Parameters
    ----------
    found
        Held-out cells.
    head
        The head, with what it knows of the baselines.
    title, source
        Heading, and names of the input files.
    facts
        Provenance, shown as a table.
    """
    figures = head.about["held_out"]["figures"]
    beaten = figures["model"]["mae"] < min(figures["ridge"]["mae"], figures["mean"]["mae"])
    tiles = [
        ("Held-out cells", f"{len(found.values):,}", ""),
        ("Mean absolute error", f"{figures['model']['mae']:.3g}", f"of {head.target}"),
        ("R2", f"{figures['model']['r2']:.2f}", "1 is perfect, 0 the mean"),
        ("Interval", f"± {head.half_width:.3g}", f"for {head.coverage:.0%} of cells"),
    ]
    warning = []
    if found.groups is None:
        warning.append(
            "No --group was given: cells of one donor stand on both sides of the folds, so these "
            "figures are too good for cells of a new donor."
        )
    body = [
        verdict_box(verdict(head), coverage_said(head), bad=not beaten),
        html.warnings_box(warning),
        html.tiles_box(tiles),
        _predictions(found, head),
        _groups(found, head),
        _baselines(head),
        html.section("facts", "How this was made", "", facts_table(facts)),
    ]
    return html.page(
        kind="fine-tuned model",
        title=title,
        source=source,
        tiles=[],
        warnings=[],
        body='<div class="labels evaluation">\n' + "\n".join(body) + "\n</div>",
        css=CSS,
    )


def _predictions(found: HeldOutNumbers, head: NumberHead) -> str:
    lead = (
        f"Each point is a held-out cell. Between the dashed lines lie the cells whose interval "
        f"(± {head.half_width:.3g}) holds their value."
    )
    return html.section(
        "predictions",
        "Predicted and true",
        lead,
        html.pair([html.card(head.target, "On the line, both are the same.",
                             _scatter(found, head))]),
    )  # fmt: skip


def _scatter(found: HeldOutNumbers, head: NumberHead) -> str:
    low, high = with_room([*found.values.tolist(), *found.predicted.tolist()])
    left, top, width, height = PLOT

    def place(true: float, predicted: float) -> tuple[float, float]:
        x = scaled(true, low, high, left, width)
        return x, top + height - scaled(predicted, low, high, 0, height)

    parts = []
    ticks = even_ticks(low, high)
    for at in ticks:
        x, y = place(at, at)
        parts.append(line(left, y, left + width, y, "var(--rule)", 1))
        parts.append(text(left - 6, y + 3.5, tick_text(at, ticks), "end", "var(--muted)"))
        parts.append(text(x, top + height + 14, tick_text(at, ticks), "middle", "var(--muted)"))
    for shift in (-head.half_width, 0.0, head.half_width):
        ends = [min(max(end, low - shift), high - shift) for end in (low, high)]
        (x1, y1), (x2, y2) = (place(max(low, min(high, end)), end + shift) for end in ends)
        dashes = ' stroke-dasharray="4 3"' if shift else ""
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="var(--muted)" stroke-width="1"{dashes}/>'
        )
    drawn = np.random.default_rng(0).permutation(len(found.values))[:MOST_POINTS]
    for row in drawn:
        x, y = place(float(found.values[row]), float(found.predicted[row]))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="var(--accent)" fill-opacity="0.45"/>'
        )
    middle = left + width / 2
    parts.append(text(middle, top + height + 28, "true", "middle", "var(--muted)"))
    parts.append(text(2, 8, "predicted", "start", "var(--muted)"))
    alt = f"Predicted against true {head.target} of {len(drawn):,} held-out cells"
    return figure(top + height + 32, alt, parts)


def _groups(found: HeldOutNumbers, head: NumberHead) -> str:
    """Residuals of each held-out group, the worst first."""
    if found.groups is None:
        return ""
    residual = found.predicted - found.values
    names = found.groups.astype(str)
    rows = []
    for name in np.unique(names):
        own = residual[names == name]
        inside = float((np.abs(own) <= head.half_width).mean())
        rows.append((str(name), len(own), float(np.abs(own).mean()), _spread(own), inside))
    rows.sort(key=lambda row: (-row[2], row[0]))
    estimates = {name: spread for name, _, _, spread, _ in rows[:MOST_GROUPS]}
    texts = {name: f"{each.value:+.3g}" for name, each in estimates.items()}
    look = Look(colour="var(--accent)", dashes="none")
    told = "; ".join(f"{name} {each}" for name, each in texts.items())
    alt = f"Predicted less true, median of each group: {told}"
    dots = dots_svg(estimates, dict.fromkeys(estimates, look), texts, alt=alt)
    header = (str(head.about["group"]), "cells", "mean absolute error", "median residual", "held")
    table = Table(
        header,
        tuple(
            (name, f"{n:,}", f"{mae:.3g}", f"{spread.value:+.3g}", f"{inside:.1%}")
            for name, n, mae, spread, inside in rows
        ),
    )
    worst = rows[0]
    lead = (
        f"{head.about['group']} {worst[0]} fared worst: a mean absolute error of {worst[2]:.3g} in "
        f"{several(worst[1], 'cell')}."
    )
    words = "Predicted less true: the median, and a line from the 5th to the 95th percentile."
    cards = [html.card("Residuals, by group", words, dots), html.table(table, "Held-out groups")]
    return html.section("groups", "Held-out groups", lead, html.pair(cards))


def _spread(residual: npt.NDArray[np.floating]) -> Estimate:
    low, middle, high = np.quantile(residual, (0.05, 0.5, 0.95))
    return Estimate(value=float(middle), low=float(low), high=float(high))


def _baselines(head: NumberHead) -> str:
    figures = head.about["held_out"]["figures"]
    rows = tuple(
        (
            NAMES.get(name, name),
            f"{each['mae']:.3g}",
            f"{each['r2']:.3f}",
            NOTHING if each["spearman"] is None else f"{each['spearman']:.3f}",
        )
        for name, each in sorted(figures.items(), key=lambda item: item[1]["mae"])
    )
    table = Table(("Way", "mean absolute error", "R2", "Spearman"), rows)
    lead = "On the same held-out cells, learnt from the same others; the best first."
    body = html.table(table, "Ours and the baselines")
    return html.section("baselines", "Ours and the baselines", lead, body)
