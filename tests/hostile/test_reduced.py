"""Each failure that mutators once found stays mended: refused in one line that names the mend."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hostile.judge import REDUCED as WORD
from hostile.judge import Case
from hostile.pool import Worker
from hostile.reduced import REDUCED


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("hostile")
    made = Worker(folder / "farm", folder / "scratch", folder / "errors.txt")
    yield made
    made.close()


@pytest.mark.parametrize("name", REDUCED)
def test_it_is_refused_in_one_line(name: str, worker: Worker) -> None:
    case = REDUCED[name]
    verdict = worker.run(Case(case.kind, case.target, f"{WORD}{name}", 0))
    if case.or_same and verdict.outcome == "ok":
        return
    assert verdict.outcome == "refused", verdict
    assert re.search(case.line, verdict.detail, re.IGNORECASE), verdict
