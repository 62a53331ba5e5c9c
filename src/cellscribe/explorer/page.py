"""The page: its frame, the bundle that draws, and the packed cells.

Texts of the input reach the page as JSON, with ``<`` escaped, and its script writes them as text.
A content security policy lets the browser run only that script. It also allows ``eval``, with which
regl, which draws, compiles its drawing commands; nothing of the input reaches it.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from string import Template
from typing import Any

from cellscribe.escaping import escape
from cellscribe.report import html
from cellscribe.report.colours import FOLDED, PALETTE, UNLABELLED


def render(about: dict[str, Any], packed: str) -> str:
    """Make the page.

    Parameters
    ----------
    about
        What the script needs to know; ``title`` and ``source`` among it.
    packed
        Text of `Packing.text`.
    """
    script = part("explore.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    about = about | {"palette": PALETTE, "folded": FOLDED, "unlabelled": UNLABELLED}
    return Template(part("explore.html")).substitute(
        policy="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}' 'unsafe-eval'",
        css=f"{html.part('page.css').rstrip()}\n{part('explore.css').rstrip()}",
        title=escape(about["title"]),
        source=escape(about["source"]),
        about=html.script_json(about),
        packed=packed,
        script=script,
    )


def part(name: str) -> str:
    """Read a file of this package."""
    return (resources.files("cellscribe.explorer") / name).read_text(encoding="utf-8")
