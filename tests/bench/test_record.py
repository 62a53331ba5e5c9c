"""Results, memory and peak: facts that can be checked against another source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import memory, record
from benchmarks.commands import _cosines, _in_turns, _quantiles, _rates

from cellscribe.errors import InputError
from cellscribe.model import peak

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commit_and_changes(tmp_path: Path) -> None:
    assert record.commit_state(tmp_path) == {"hash": None, "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "new.json").write_text("{}")
    assert record.commit_state(tmp_path / "src") == {"hash": head, "dirty": False}
    (tmp_path / "src" / "code.py").write_text("2")
    assert record.commit_state(tmp_path / "src") == {"hash": head, "dirty": True}


def test_cpu_facts_are_read_from_the_first_core(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16\n\n"
        "processor\t: 1\nmodel name\t: Another\nflags\t\t: avx512f\n"
    )
    assert record.cpu_facts(path) == {"model": "Some CPU", "features": ["avx2", "avx512_bf16"]}
    assert record.cpu_facts(tmp_path / "none")["features"] == []


def test_a_result_comes_back_and_names_nobody(tmp_path: Path) -> None:
    for name, bench in [("embed-b", "embed"), ("embed-a", "embed"), ("tokenize", "tokenize")]:
        record.write_result(tmp_path / "new", name, bench, {"cells": 3}, {"seconds": [1.5]})
    results = record.read_results(tmp_path / "new", "embed")
    assert [r["name"] for r in results] == ["embed-a", "embed-b"]
    assert results[0]["settings"] == {"cells": 3}
    assert results[0]["seconds"] == [1.5]
    assert results[0]["machine"]["packages"]["torch"] == torch.__version__
    text = json.dumps(results)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert not list((tmp_path / "new").glob("*.partial"))


def test_a_foreign_file_among_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(InputError, match=r"notes\.json"):
        record.read_results(tmp_path, "embed")


@needs_proc
def test_memory_of_a_child_is_seen() -> None:
    """A process that keeps 200 MB of written pages, in a child of the one that is started."""
    child = "import time; kept = bytearray(b'x') * 200_000_000; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    curve = memory.measure_memory([sys.executable, "-c", parent], interval=0.05)
    assert 200 < curve.peak_mb < 300
    assert curve.rss_mb[0] < 100
    assert len(curve.seconds) == len(curve.rss_mb)
    thin = curve.thinned(5)
    assert len(thin.rss_mb) == 5
    assert max(thin.rss_mb) == max(curve.rss_mb)


def test_growth_leaves_the_start_up_out() -> None:
    def growth(rss_mb: list[float]) -> float:
        seconds = [float(i) for i in range(len(rss_mb))]
        return memory.MemoryCurve(seconds=seconds, rss_mb=rss_mb, peak_mb=max(rss_mb)).growth_mb()

    assert growth([1, 1, 50, 50, 50, 50, 50, 50, 50, 50]) == 0
    assert growth([float(i) for i in range(100)]) == 60


@needs_proc
def test_a_failing_command_passes_its_last_line_on() -> None:
    with pytest.raises(InputError, match="status 2: it is wrong"):
        memory.measure_memory(
            [sys.executable, "-c", "import sys; print('it is wrong', file=sys.stderr); sys.exit(2)"]
        )


def test_peaks_are_named_by_dtype_and_shape() -> None:
    peaks = peak.measure_peak("cpu", seconds=0, shapes=((8, 8, 8), (16, 4, 2)))
    assert {dtype: set(by_shape) for dtype, by_shape in peaks.items()} == {
        "float32": {"8x8x8", "16x4x2"},
        "bf16": {"8x8x8", "16x4x2"},
    }
    assert peak.highest({"float32": {"a": 1.0, "b": 7.0}, "bf16": {"a": 3.0}}) == 7.0


def test_sides_take_turns_and_the_ratio_is_of_medians() -> None:
    order: list[str] = []
    sides = {"cellscribe": lambda turn: order.append(f"a{turn}")}
    sides["peer"] = lambda turn: order.append(f"b{turn}")
    seconds = _in_turns(sides, 2)
    assert order == ["a0", "b0", "a1", "b1"]
    assert {side: len(each) for side, each in seconds.items()} == {"cellscribe": 2, "peer": 2}
    rates = _rates({"cellscribe": [1.0, 9.0, 2.0], "peer": [8.0, 6.0, 90.0]}, 100)
    assert rates["ratio_of_medians"] == 4.0
    assert rates["cells_per_second"] == {"cellscribe": 50.0, "peer": 12.5}


def test_cosines_and_quantiles() -> None:
    left = np.array([[1, 0], [1, 1], [2, 0]], np.float32)
    right = np.array([[5, 0], [1, 0], [-1, 0]], np.float32)
    np.testing.assert_allclose(_cosines(left, right), [1, np.sqrt(0.5), -1])
    assert _quantiles(range(101))["p95"] == 95.0
