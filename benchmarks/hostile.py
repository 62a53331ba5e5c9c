"""Thousands of damaged files, and hundreds of kills: what became of each, counted.

The mutators, the independent readers and the verdicts are those of ``tests/hostile``, where a part
of this runs with the other tests. Each case is written down as it ends, in ``cases.jsonl`` of the
folder of work, so that a run that was stopped goes on; what is left at the end is counts.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.record import commit_state, write_result
from cellscribe.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ("wrong", "nan", "traceback", "signal", "hang", "memory", "message", "partial", "harm")
FORMATS = {
    "h5ad": "h5ad",
    "reference": "h5ad",
    "zarr": "zarr",
    "tenx": "10x .h5",
    "mtx": "10x folders and archives",
    "loom": "loom",
    "csv": "text tables",
    "parquet_table": "text tables",
    "h5mu": "h5mu",
    "tokens": "token Parquet",
    "checkpoint": "models",
    "finetuned": "models",
    "imported": "models",
    "published": "published models",
    "corpus": "corpora",
    "run": "training runs",
    "partial": "unfinished outputs",
    "evaluation": "evaluations",
}
"""What a kind is counted under, by the beginning of its name."""
SLOW_VERBS: dict[str, int] = {}
"""Of a verb that takes long, one kill for so many of the others."""


def bench_hostile(
    files: int, kills: int, first_seed: int, work: Path, jobs: int, out: Path
) -> Path:
    """Run what is not yet written down, and count.

    Parameters
    ----------
    files
        Damaged files, over all kinds.
    kills
        Runs that are killed, over all verbs.
    first_seed
        Seeds begin here.
    work
        Folder of clean inputs, scratch and the record; a run that was stopped goes on there.
    jobs
        Processes side by side.
    out
        Folder of results.

    Returns
    -------
    pathlib.Path
        ``hostile.json``.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    pool = importlib.import_module("hostile.pool")
    work = work.resolve()  # the workers run in another folder
    record = Record(work, first_seed)
    asked = [*file_cases(files, first_seed), *kill_cases(kills, first_seed)]
    left = [case for case in asked if key(asdict(case)) not in record.done]
    pool.__dict__["SECONDS"] = 30.0
    if left:
        pool.run_cases(left, work / "farm", work / "scratch", jobs, record.keep)
    rows = [record.done[key(asdict(case))] for case in asked]
    return write_result(
        out,
        "hostile",
        "hostile",
        {"files": files, "kills": kills, "first_seed": first_seed},
        counted(rows),
    )


def file_cases(n_cases: int, first_seed: int) -> list[Any]:
    """The first so many cases, whole seeds one after the other."""
    module = importlib.import_module("hostile.cases")
    found: list[Any] = []
    seed = first_seed
    while len(found) < n_cases:
        found += module.cases(seed, seed + 1)
        seed += 1
    return found[:n_cases]


def kill_cases(n_cases: int, first_seed: int) -> list[Any]:
    """Kills of every verb in turn."""
    module, judge = (importlib.import_module(f"hostile.{name}") for name in ("kills", "judge"))

    def each() -> Iterator[Any]:
        seed = first_seed
        while True:
            for verb in module.VERBS:
                if seed % SLOW_VERBS.get(verb, 1) == 0:
                    yield judge.Case(verb, module.KILL, module.KILL, seed)
            seed += 1

    endless = each()
    return [next(endless) for _ in range(n_cases)]


class Record:
    """What became of each case, on disk as it ends."""

    def __init__(self, work: Path, first_seed: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._path = work / "cases.jsonl"
        commit = commit_state(ROOT)["hash"]
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["commit"] != commit:
                    raise InputError(
                        f"{self._path} is of commit {row['commit']}; remove it or name another "
                        "folder with --work"
                    )
                self.done[key(row)] = row
        self._commit = commit

    def keep(self, case: Any, verdict: Any) -> None:
        """Write a verdict down."""
        row = asdict(case) | asdict(verdict) | {"commit": self._commit}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            self.done[key(row)] = row
            if row["outcome"] in FAULTS:
                print(row["outcome"], key(row), row["told"], row["detail"], file=sys.stderr)


def key(row: dict[str, Any]) -> str:
    """What tells cases apart."""
    return f"{row['kind']} {row['target']} {row['how']} {row['seed']}"


def counted(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count outcomes by format and by verb; the faults themselves are listed too."""
    formats: dict[str, Counter[str]] = {}
    verbs: dict[str, Counter[str]] = {}
    ways: Counter[str] = Counter()
    faults = []
    for row in rows:
        if row["how"] == "kill":
            verbs.setdefault(row["kind"], Counter())[row["outcome"]] += 1
        else:
            formats.setdefault(format_of(row["kind"]), Counter())[row["outcome"]] += 1
            ways[row["how"]] += 1
        if row["outcome"] in FAULTS:
            told = re.sub(r"(?:/[^\s/:]+)+/", "", row["detail"])[:200]
            faults.append({"case": key(row), "outcome": row["outcome"], "detail": told})
    return {
        "formats": {name: dict(counts) for name, counts in formats.items()},
        "verbs": {name: dict(counts) for name, counts in verbs.items()},
        "ways": dict(ways),
        "faults": faults,
    }


def format_of(kind: str) -> str:
    """What a kind is counted under."""
    return next((FORMATS[start] for start in FORMATS if kind.startswith(start)), kind)


def hostile_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of files."""
    columns = ["damaged", "files", "as the clean file", "as changed, by another reader too"]
    columns += ["changed, no other reader", "refused in one line", *FAULTS]
    rows = []
    total: Counter[str] = Counter()
    for name, counts in [*result["formats"].items(), ("all", None)]:
        found = Counter(counts) if counts is not None else total
        total += found if counts is not None else Counter()
        told = [found["ok"], found["changed"], found["free"] + found["unjudged"], found["refused"]]
        figures = [sum(found.values()), *told, *(found[fault] for fault in FAULTS)]
        rows.append([name, *(f"{figure:,}" for figure in figures)])
    return columns, rows


def kills_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of kills."""
    columns = ["killed", "kills", "whole after a second run", "half written or left over"]
    columns += ["another result", "an input harmed", "the second run failed"]
    rows = []
    total: Counter[str] = Counter()
    for name, counts in [*result["verbs"].items(), ("all", None)]:
        found = Counter(counts) if counts is not None else total
        total += found if counts is not None else Counter()
        bad = [found["partial"], found["wrong"], found["harm"]]
        failed = sum(found[each] for each in ("traceback", "signal", "hang", "memory", "message"))
        figures = [sum(found.values()), found["ok"], *bad, failed]
        rows.append([name, *(f"{figure:,}" for figure in figures)])
    return columns, rows
