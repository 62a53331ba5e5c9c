"""Embedding runs that are stopped: their size, and what is left of them on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_CELLS = 100
BLOCK = 16
Run = Callable[..., Any]


def folder_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def state_of(out: Path) -> dict[str, Any]:
    return json.loads((folder_of(out) / "state.json").read_text())


def same_bytes(one: Path, two: Path) -> None:
    """Equal files; of zarr, all files in the folder."""
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()} or {Path()}
    assert names == ({p.relative_to(two) for p in two.rglob("*") if p.is_file()} or {Path()})
    for name in names:
        first, second = ((path / name if name.parts else path) for path in (one, two))
        assert first.read_bytes() == second.read_bytes(), name
    besides = [path.with_name(f"{path.name}.json") for path in (one, two)]
    assert besides[0].exists() == besides[1].exists() == (one.suffix in (".npy", ".parquet"))
    if besides[0].exists():
        assert besides[0].read_bytes() == besides[1].read_bytes()
