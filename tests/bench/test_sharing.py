"""The benchmark of sharing does all shards, and reckons from what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.render_tables import shared_tables
from benchmarks.sharing import bench_sharing


def test_every_shard_is_done_once_and_none_again(tmp_path: Path) -> None:
    path = bench_sharing(tmp_path / "new", None, 12, 3, 0.02, tmp_path)
    result = json.loads(path.read_text())
    found = result["folder"]
    assert found["shards"] == 12
    assert found["done_again"] == 0
    assert found["ideal_s"] == pytest.approx(4 * 0.02)
    assert found["lost"] == pytest.approx(1 - found["ideal_s"] / found["wall_s"])
    assert found["cpu_ms_a_shard"] > 0
    manifest = json.loads((tmp_path / "new" / "out" / "manifest.json").read_text())
    assert {shard["status"] for shard in manifest["shards"]} == {"done"}


def test_the_reckoning() -> None:
    found = {"shards": 10, "workers": 2, "wall_s": 6.0, "lost": 1 / 6}
    found |= {"ms_a_shard": 100.0, "end_s": 0.1, "again_s": 0.2, "cpu_ms_a_shard": 4.0}
    settings = {"seconds": 0.9, "cells": 5000}
    text = shared_tables([{"settings": settings, "folder": found}])
    # 10,000 shards on 8 workers: 1125 s at work, 125 s lost
    assert "| 50 M cells | 10,000 | 19 min | 2.1 min | 10.0% |" in text
    row = "| local folder | 10 x 0.9 s | 2 | 6.0 s | 16.7% | 100 ms | 4.0 ms | 0.1 s | 0.2 s |"
    assert row in text
