"""Text of others, made safe for what is written: pages, Markdown, tables.

Labels and names are from files that anyone may have written. In a page they are no markup, in
Markdown no markup and no HTML, and in a CSV no formula: a spreadsheet runs a cell that begins with
``=``, ``+``, ``-`` or ``@`` (OWASP, "CSV injection"), quoted or not. Such a cell gets an apostrophe
in front, which spreadsheets take for "this is text"; numbers are left alone, and `read_cell` takes
the apostrophe away again. Parquet and h5ad keep every text as it is.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from cellscribe.errors import printable

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""Begin of a text that gets an apostrophe; one that has some gets one more, so that reading is
exact."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def escape(text: str, quote: bool = True) -> str:
    """Escape a text for HTML; what is unseen or turns the line round is shown as an escape."""
    shown = re.sub(r"[^\n\t]+", lambda found: printable(found[0]), text)
    return html.escape(shown, quote)


def plain(text: str) -> str:
    """Escape a text, so that Markdown and HTML show it as it is."""
    text = escape(" ".join(text.split()), quote=False)
    return re.sub(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], text)


def safe_cell(text: str) -> str:
    """Make a text that no spreadsheet takes for a formula."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def read_cell(text: str) -> str:
    """Give the text that `safe_cell` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Copy a table with `safe_cell` for each text of its index, names and columns."""

    def safe(value: object) -> object:
        # a lone carriage return would end the row for some readers: no writer quotes it
        return safe_cell(value).replace("\r", "\n") if isinstance(value, str) else value

    found = table.copy()
    for name in table.columns:
        if table[name].dtype.kind not in "biufc":
            found[name] = table[name].astype(object).map(safe)
    if table.index.dtype.kind not in "biufc":
        found.index = table.index.map(safe)
    return found.rename(columns=safe)
