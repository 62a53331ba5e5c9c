"""Numbers and settings as text, the same way in every report: tables, tiles, figures, sentences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def several(n: int, what: str) -> str:
    """Count things: "1 cell", "2,000 cells"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def share(part: float, whole: float) -> str:
    """Render a share as percent; 0% and 100% only where exact."""
    if not whole or not part or part == whole:
        return "100%" if part else "0%"
    percent = f"{part / whole:.1%}"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)


def rounded(value: float, digits: int = 4, whole_from: float = 1_000) -> str:
    """Render a number with `digits` significant digits; from `whole_from` on as a whole number."""
    return f"{value:,.0f}" if abs(value) >= whole_from else f"{value:.{digits}g}"


def decimals(value: float, digits: int, missing: str = "") -> str:
    """Render a number with `digits` decimals; `missing` if it is not finite."""
    return f"{value:z,.{digits}f}" if math.isfinite(value) else missing


def compact(n: int, units: tuple[str, str] = ("G", "M")) -> str:
    """Render a large number in thousand millions or millions, for a narrow tile."""
    for size, unit in zip((10**9, 10**6), units, strict=True):
        if n >= size:
            return f"{n / size:,.3g} {unit}"
    return f"{n:,}"


def hours(value: float) -> str:
    """Render hours: two decimals, or two significant digits below 0.1."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def value_text(value: Any) -> str:
    """Render a setting: a number, a word, or a list or dictionary of these."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return np.format_float_positional(value, trim="-") if abs(value) >= 1e-4 else f"{value}"
        case dict():
            return ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(value_text, value)) or "none"
    return str(value)
