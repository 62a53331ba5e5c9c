"""The parts that all HTML pages share: head, style, tiles, warnings, sections, tables.

A page is one file that needs no network. These functions escape every text that they get; `body`
and their results are HTML. A content security policy allows only the script whose hash is in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from string import Template

from cellscribe.escaping import escape
from cellscribe.report.numbers import several
from cellscribe.report.tables import Table

Tile = tuple[str, str, str]
"""Name, figure, and a short note."""


def page(
    *,
    kind: str,
    title: str,
    source: str,
    tiles: Sequence[Tile],
    warnings: Sequence[str],
    body: str,
    css: Sequence[str] = (),
    script: str = "",
) -> str:
    """Make a page.

    Parameters
    ----------
    kind, title, source
        Kind of the page, its title, and the source of its data.
    tiles
        Key figures; without any there is no row of them.
    warnings
        Texts in a box; without warnings there is no box.
    body
        HTML of the rest of the page.
    css
        Names of further style sheets of this package.
    script
        The only script that the browser may run.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return Template(part("page.html")).substitute(
        policy=policy,
        css="\n".join(part(name).rstrip() for name in ("page.css", *css)),
        kind=escape(kind),
        title=escape(title),
        source=escape(source),
        tiles=tiles_box(tiles),
        warnings=warnings_box(warnings),
        body=body.rstrip(),
        script=f"<script>{script}</script>" if script else "",
    )


def part(name: str) -> str:
    """Read a file of this package."""
    return (resources.files("cellscribe.report") / name).read_text(encoding="utf-8")


def tiles_box(tiles: Sequence[Tile]) -> str:
    """Make the row of key figures; nothing without any."""
    if not tiles:
        return ""
    return '<dl class="tiles">\n' + "\n".join(map(_tile, tiles)) + "\n</dl>"


def script_json(data: object) -> str:
    """Encode as JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tile(tile: Tile) -> str:
    name, figure, note = map(escape, tile)
    return (
        f'<div class="tile"><dt>{name}</dt><dd><strong>{figure}</strong> '
        f"<small>{note}</small></dd></div>"
    )


def warnings_box(texts: Sequence[str], key: str = "warnings") -> str:
    """Make the box of warnings, whose heading has the id `key`; nothing without any."""
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    heading = "Warning" if len(texts) == 1 else "Warnings"
    return (
        f'<section class="card alert" aria-labelledby="{key}">'
        f'<h2 id="{key}">{heading}</h2><ul>{items}</ul></section>'
    )


def section(key: str, title: str, lead: str, body: str) -> str:
    """Make a section whose heading has the id `key`."""
    lead = f'<p class="lead">{escape(lead)}</p>\n' if lead else ""
    return (
        f'<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(title)}</h2>\n'
        f"{lead}{body}\n</section>"
    )


def card(title: str, text: str, *body: str) -> str:
    """Make a box with a heading and a sentence."""
    return (
        f'<div class="card">\n<h3>{escape(title)}</h3>\n<p>{escape(text)}</p>\n'
        + "\n".join(body)
        + "\n</div>"
    )


def pair(cards: Sequence[str], kind: str = "pair") -> str:
    """Put boxes side by side where there is room."""
    return f'<div class="{kind}">\n' + "\n".join(cards) + "\n</div>"


def table(table: Table, label: str) -> str:
    """Render a table that scrolls sideways on a narrow screen."""

    def row(cells: Sequence[str], *, head: bool = False) -> str:
        text = []
        for place, cell in enumerate(cells):
            tag = "th" if head or (place == 0 and table.n_text) else "td"
            scope = "" if tag == "td" else ' scope="col"' if head else ' scope="row"'
            figure = "" if place < table.n_text else ' class="figure"'
            text.append(f"<{tag}{scope}{figure}>{escape(cell)}</{tag}>")
        return "".join(text)

    last = len(table.rows) - 1
    kind = "wide numbers" if table.n_text < len(table.header) else "wide"
    body = "\n".join(
        f"<tr{' class=total' if table.total and place == last else ''}>{row(cells)}</tr>"
        for place, cells in enumerate(table.rows)
    )
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(label)}"><table>\n'
        f"<thead><tr>{row(table.header, head=True)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def folded(rows: Table, label: str, summary: str = "") -> str:
    """Render a table that is shown on demand."""
    summary = summary or several(len(rows.rows) - rows.total, "row")
    return f"<details><summary>{escape(summary)}</summary>\n{table(rows, label)}\n</details>"
