"""Damaged files of every kind: refused in one line, or read as an independent reader reads them.

A few hundred cases run with the other tests; ``-m slow`` runs thousands, and
``python -m benchmarks hostile`` writes down what became of ten thousand. One case again, with its
traceback: ``python -m hostile.once KIND TARGET HOW SEED`` in ``tests``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile.cases import cases
from hostile.judge import Case, Verdict
from hostile.pool import run_cases

QUICK = (1_000, 1_004)
"""Seeds; the others' findings are in `test_reduced.py`."""
SLOW = (2_000, 2_040)


def faults(first: int, last: int, folder: Path) -> list[str]:
    """Run the cases of some seeds; one line for each that cellscribe is at fault in."""
    found: list[str] = []
    n_cases = 0

    def keep(case: Case, verdict: Verdict) -> None:
        nonlocal n_cases
        n_cases += 1
        if verdict.fault:
            again = f"{case.kind} {case.target} {case.how} {case.seed}"
            found.append(f"{verdict.outcome}: {again}: {verdict.told}: {verdict.detail}")

    # one process where pytest runs one for each core
    n_workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(os.cpu_count() or 1, 4)
    run_cases(cases(first, last), folder / "farm", folder / "scratch", n_workers, keep)
    assert n_cases > 90 * (last - first)
    return found


def test_a_few_hundred(tmp_path: Path) -> None:
    assert not faults(*QUICK, tmp_path)


@pytest.mark.slow
def test_thousands(tmp_path: Path) -> None:
    assert not faults(*SLOW, tmp_path)
