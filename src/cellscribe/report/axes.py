"""What all figures by matplotlib have in common: colours, style, axes, and SVG for a page.

Figures are drawn in placeholder colours, which become CSS variables, so that one figure is right
in the light and in the dark theme. Only `Figure` objects are used, never pyplot: the caller's
backend, style and open figures stay as they are.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError
from cellscribe.escaping import escape
from cellscribe.report.numbers import rounded
from cellscribe.report.umap import EXTRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

# Placeholders for CSS variables: colours that no figure uses as themselves.
VARIABLES = {"#010203": "--ink", "#010204": "--muted", "#010205": "--rule", "#010206": "--accent",
             "#010207": "--alert", "#010208": "--card"}  # fmt: skip
INK, MUTED, RULE, ACCENT, ALERT, CARD = VARIABLES


@dataclass(frozen=True)
class Inks:
    """Colours of text, axes and grid, and of a curve without a colour of its own."""

    ink: str
    muted: str
    rule: str
    accent: str


PAGE = Inks(INK, MUTED, RULE, ACCENT)
"""Colours of the page, light or dark."""
PAPER = Inks("#17212b", "#5a6672", "#dde3e8", "#2a7f86")
"""Colours of a picture on white."""


def need_matplotlib() -> None:
    """Raise an `InputError` with the fix if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"the figures need {error.name}; {EXTRA}") from None


@contextmanager
def plain_style(**extra: Any) -> Iterator[None]:
    """Draw with matplotlib's own defaults; the caller's style is restored at the end."""
    import matplotlib

    plain: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    plain.pop("backend")
    plain |= {"font.size": 9.5, "axes.unicode_minus": False} | extra
    with matplotlib.rc_context(plain):
        yield


@contextmanager
def svg_style(name: str) -> Iterator[None]:
    """Draw as in `plain_style`, with text kept as text and element ids that start from `name`."""
    with plain_style(**{"svg.fonttype": "none", "svg.hashsalt": f"cellscribe-{name}"}):
        yield


def dress(axes: Axes, inks: Inks, xlabel: str, ylabel: str) -> None:
    """Give axes the look of all figures: a bottom line, horizontal grid lines, muted labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(inks.muted)
    axes.tick_params(which="both", colors=inks.muted, length=3, width=0.8)
    axes.tick_params(axis="y", which="both", length=0)
    axes.grid(axis="y", color=inks.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=inks.muted)
    axes.set_ylabel(ylabel, color=inks.muted)


def round_ticks(n: int = 6, *, integer: bool = False) -> MaxNLocator:
    """Place at most `n` ticks at steps of 1, 2 or 5."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(n, steps=[1, 2, 5, 10], integer=integer)


def number_ticks(digits: int, whole_from: float) -> FuncFormatter:
    """Label ticks with numbers as `rounded` renders them."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: rounded(value, digits, whole_from))


def one_line(text: str, length: int) -> str:
    """Return a text without line breaks, cut to `length` characters."""
    return shortened(" ".join(text.split()), length)


def shortened(text: str, length: int) -> str:
    """Cut a text to `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def png(figure: Figure) -> bytes:
    """Save a figure as PNG."""
    buffer = io.BytesIO()
    with missing_glyphs():
        figure.savefig(buffer, format="png", metadata={"Software": "cellscribe"})
    return buffer.getvalue()


def svg(figure: Figure, alt: str) -> str:
    """Save a figure as an SVG element of a page; `alt` replaces it where it is not seen."""
    buffer = io.StringIO()
    with missing_glyphs():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inline(buffer.getvalue(), alt)


@contextmanager
def missing_glyphs() -> Iterator[None]:
    """Silence matplotlib's warnings of characters that its font lacks.

    In a PNG they become boxes; in an SVG the browser writes the text in a font of its own.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def inline(text: str, alt: str) -> str:
    """Make matplotlib's SVG file an element of the page: no prolog, no unused ids.

    Only tags are changed: an id or a colour in the text of a label stays as it is.
    """
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    tags = re.findall(r"<[^>]*>", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', "".join(tags)))

    def of_the_page(found: re.Match[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", found[0])
        for placeholder, variable in VARIABLES.items():
            tag = tag.replace(placeholder, f"var({variable})")
        return tag

    text = re.sub(r"<[^>]*>", of_the_page, text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1).strip()
