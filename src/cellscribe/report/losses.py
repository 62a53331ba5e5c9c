"""The losses of runs as curves, with colours, dashes and legend of runs and splits.

With one run, splits have colours; with several, runs have colours and splits have dashes. Dashes
and markers repeat the information without colour.
"""

from __future__ import annotations

import numpy as np

from cellscribe.escaping import escape
from cellscribe.report.colours import PALETTE
from cellscribe.report.curves import Level, Line
from cellscribe.report.run_tables import RunsByName
from cellscribe.training.runs import smooth

PUBLISHED = {"Geneformer": 3.35, "geneformer-10M-240530": 2.79, "geneformer-106M-240530": 2.50}
"""Test losses of NVIDIA's sc-FM model card: other cells, genes and context than any run here."""
OTHER = "published, other data, not comparable"
STYLES = {
    "val": ((0.0, (5.0, 1.5)), "o", PALETTE[5]),
    "test": ((0.0, (3.0, 1.0, 1.0, 1.0)), "^", PALETTE[1]),
    "test_unseen": ((0.0, (1.0, 1.2)), "s", PALETTE[3]),
}
"""Split -> dashes, marker, and colour if there is one run."""
PLAIN = "#7b8794"
"""Colour of a split in the legend of several runs; visible on light and dark."""


def curves(runs: RunsByName) -> list[Line]:
    """Make the curves: smoothed training loss over the single steps, and validations."""
    lines = []
    for place, run in enumerate(runs.values()):
        colour = PALETTE[place] if len(runs) > 1 else None
        mean = smooth(run.loss, run.window)
        lines.append(Line(name="train", x=run.step, y=mean, raw=run.loss, colour=colour))
        for split, (steps, losses) in run.validation.items():
            dashes, marker, own = STYLES.get(split, STYLES["test"])
            lines.append(
                Line(name=split, x=steps, y=losses, colour=colour or own, dashes=dashes,
                     marker=marker)
            )  # fmt: skip
    return lines


def legend_lines(runs: RunsByName) -> list[Line]:
    """Make the entries of the legend: splits for one run, runs and then splits for several."""
    none = (np.array([], np.int64), np.array([]))
    splits = list(dict.fromkeys(split for run in runs.values() for split in run.validation))
    many = len(runs) > 1
    keys = [
        Line(name=name, x=none[0], y=none[1], colour=PALETTE[place])
        for place, name in enumerate(runs if many else ())
    ]
    keys.append(Line(name="train", x=none[0], y=none[1], colour=PLAIN if many else None))
    for split in splits:
        dashes, marker, own = STYLES.get(split, STYLES["test"])
        colour = PLAIN if many else own
        keys.append(
            Line(name=split, x=none[0], y=none[1], colour=colour, dashes=dashes, marker=marker)
        )
    return keys


def legend(runs: RunsByName) -> str:
    """Render the legend as HTML, which can wrap on a narrow screen."""
    items = []
    for key in legend_lines(runs):
        colour = key.colour or "var(--accent)"
        dashes = key.dashes if isinstance(key.dashes, str) else ""
        array = "" if dashes else ",".join(f"{2 * part:g}" for part in key.dashes[1])
        shape = {
            "o": '<circle cx="17" cy="5" r="3"/>',
            "s": '<rect x="14" y="2" width="6" height="6"/>',
            "^": '<path d="M17 1l4 7h-8z"/>',
        }.get(key.marker, "")
        items.append(
            f'<li><svg viewBox="0 0 34 10" aria-hidden="true" '
            f'style="fill:{colour};stroke:{colour}">'
            f'<path d="M0 5H34" style="stroke-width:2;stroke-dasharray:{array or "none"}"/>{shape}'
            f"</svg><span>{escape(key.name)}</span></li>"
        )
    return f'<ul class="lines">{"".join(items)}</ul>'


def guesses(runs: RunsByName) -> list[Level]:
    """Make one level for each size of vocabulary: the loss of guessing."""
    return [
        Level(y=loss, text=f"guessing among {genes:,} genes: {loss:.2f}", right=True)
        for genes, loss in {run.genes: run.guessing for run in runs.values()}.items()
    ]


def published() -> list[Level]:
    """Make one level for each published loss."""
    lowest = min(PUBLISHED.values())
    return [
        Level(y=loss, text=f"published, other data: {name} {loss:.2f}", below=loss == lowest)
        for name, loss in PUBLISHED.items()
    ]


def smoothing(runs: RunsByName) -> str:
    """Describe over how many steps the training loss is smoothed."""
    windows = sorted({run.window for run in runs.values()})
    if windows == [1]:
        return ""
    text = f"{windows[0]:,}" if len(windows) == 1 else f"{windows[0]:,} to {windows[-1]:,}"
    return f"training: mean over the {text} steps around each"
