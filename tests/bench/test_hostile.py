"""Counts of damaged files and of kills: what is listed, what is a fault, and that a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import hostile
from hostile.judge import RIGHT, Case, Verdict
from hostile.pool import run_cases as real_run_cases

from cellscribe.errors import InputError

ROWS: list[dict[str, Any]] = [
    {"kind": kind, "target": "embed", "how": how, "seed": seed, "outcome": outcome, "detail": "x"}
    for kind, how, seed, outcome in (
        ("h5ad_rich", "bytes", 0, "ok"),
        ("h5ad", "lie", 1, "refused"),
        ("h5ad_csc", "lie", 1, "changed"),
        ("reference", "lie", 1, "unjudged"),
        ("published_scgpt", "lie", 1, "traceback"),
        ("train", "kill", 1, "ok"),
        ("train", "kill", 2, "partial"),
    )
]


def test_every_outcome_is_counted_once() -> None:
    found = hostile.counted(ROWS)
    assert found["formats"]["h5ad"] == {"ok": 1, "refused": 1, "changed": 1, "unjudged": 1}
    assert found["formats"]["published models"] == {"traceback": 1}
    assert found["verbs"] == {"train": {"ok": 1, "partial": 1}}
    assert [each["outcome"] for each in found["faults"]] == ["traceback", "partial"]
    columns, rows = hostile.hostile_table(found)
    assert rows[-1] == ["all", "5", "1", "1", "1", "1", *("1" if fault == "traceback" else "0"
                        for fault in hostile.FAULTS)]  # fmt: skip
    assert all(len(row) == len(columns) for row in rows)
    columns, rows = hostile.kills_table(found)
    assert rows == [["train", "2", "1", "1", "0", "0", "0"], ["all", "2", "1", "1", "0", "0", "0"]]
    assert len(columns) == len(rows[0])


def test_no_outcome_is_both_right_and_a_fault() -> None:
    assert not set(RIGHT) & set(hostile.FAULTS)


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Case] = []

    def pretend(cases: Any, clean: Any, scratch: Any, jobs: Any, keep: Any) -> None:
        for number, case in enumerate(cases):
            if number == 3 and not (tmp_path / "second").exists():
                raise KeyboardInterrupt
            ran.append(case)
            keep(case, Verdict("refused", "told", "detail"))

    monkeypatch.setattr("hostile.pool.run_cases", pretend)
    assert real_run_cases is not pretend
    with pytest.raises(KeyboardInterrupt):
        hostile.bench_hostile(5, 2, 7, tmp_path / "work", 1, tmp_path)
    (tmp_path / "second").touch()
    path = hostile.bench_hostile(5, 2, 7, tmp_path / "work", 1, tmp_path)
    assert len(ran) == len(set(ran)) == 7
    told = json.loads(path.read_text())
    assert sum(sum(counts.values()) for counts in told["formats"].values()) == 5
    assert sum(sum(counts.values()) for counts in told["verbs"].values()) == 2
    record = tmp_path / "work" / "cases.jsonl"
    record.write_text(record.read_text().replace('"commit": "', '"commit": "other'))
    with pytest.raises(InputError, match="is of commit other"):
        hostile.bench_hostile(5, 2, 7, tmp_path / "work", 1, tmp_path)
