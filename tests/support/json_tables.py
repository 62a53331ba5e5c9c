"""JSON tables, changed in one place."""

from __future__ import annotations

import json
from typing import Any


def put(table: Any, at: tuple[Any, ...], value: Any) -> Any:
    """Copy a JSON table with another value at a path; with ``...``, without what is there."""
    copied = json.loads(json.dumps(table))
    inner = copied
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return copied
