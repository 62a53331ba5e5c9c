"""Tables of a Markdown page, as a renderer sees them."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt


def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> rows of the table below it, as a Markdown renderer sees them."""
    found: dict[str, list[list[str]]] = {}
    heading, inside = "", ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type.endswith("_open"):
            inside = token.type
        if token.type == "tr_open":
            found.setdefault(heading, []).append([])
        if token.type == "inline":
            plain = "".join(child.content for child in token.children or [])
            if inside == "heading_open":
                heading = plain
            elif inside in ("th_open", "td_open"):
                found[heading][-1].append(plain)
    return found


def count(cell: str) -> int:
    return int(re.match(r"[\d,]+", cell)[0].replace(",", ""))  # type: ignore[index]
