"""Horizontal bars as SVG in the page's own colours: which share of the cells has which label.

Names stand left, figures right, both short enough for a phone; the whole names are for a table
beside the figure.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from cellscribe.report.figures import (
    ACCENT,
    CARD,
    INK,
    MUTED,
    RULE,
    inline,
    need_matplotlib,
    one_line,
    plain_style,
)

NAME_LENGTH = 26
"""Characters of a name that are shown."""


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
    """Draw one bar a name, the first on top.

    Parameters
    ----------
    names
        ``[n]``, shown up to `NAME_LENGTH` characters.
    shares
        ``[n]`` lengths of the bars.
    texts
        ``[n]`` what stands at the right of each.
    name
        Different for each figure on the page: element ids start from it.
    alt
        The text that stands for the figure when it is not seen.
    rings
        ``[n]`` second shares, drawn as rings on the bars.
    folded
        The last bar stands for several names, and is drawn muted.

    Raises
    ------
    InputError
        matplotlib is missing.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    rows = range(len(names))
    with plain_style(**{"svg.fonttype": "none", "svg.hashsalt": f"cellscribe-{name}"}):
        # at least three rows high, lest one bar be drawn as a beam
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
        beside = axes.get_yaxis_transform()
        for row in rows:
            style: dict[str, Any] = {
                "transform": beside,
                "va": "center_baseline",
                "parse_math": False,
            }
            axes.text(-0.03, row, one_line(names[row], NAME_LENGTH), ha="right", color=INK, **style)
            axes.text(1.03, row, texts[row], ha="left", color=MUTED, **style)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # the browser writes the text, in a font of its own
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inline(buffer.getvalue(), alt)
