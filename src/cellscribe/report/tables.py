"""Tables whose cells are text, and their Markdown; `html.table` renders the same tables as HTML.

A table of an evaluation is an `evaluation_grids.Grid` instead: its cells are figures with
intervals, and the best of a column is bold.
"""

from __future__ import annotations

from dataclasses import dataclass

from cellscribe.escaping import plain

__all__ = ["FOLD", "Table", "plain", "table_lines"]

FOLD = 25
"""Rows beyond which a Markdown table is folded, and labels that a figure shows."""


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes
    ----------
    header, rows
        All of one length.
    n_text
        Number of leading columns that hold words; the others hold figures.
    total
        Whether the last row is the sum of the others.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_text: int = 1
    total: bool = False


def table_lines(table: Table) -> str:
    """Write a table as Markdown; a long one is folded."""
    rules = ["---" if place < table.n_text else "---:" for place in range(len(table.header))]
    lines = [[plain(cell) for cell in row] for row in (table.header, *table.rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rules, *lines[1:]])
    if len(table.rows) <= FOLD + 1:
        return text
    return f"<details><summary>{len(table.rows):,} rows</summary>\n\n{text}\n\n</details>"
