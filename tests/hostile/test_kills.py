"""A run that was killed leaves nothing half written, and the same call again ends as if it had not.

``-m slow`` kills each verb three times; `benchmarks/results/hostile.json` has hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostile import kills
from hostile.judge import Case
from hostile.pool import Worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("kills")
    made = Worker(folder / "farm", folder / "scratch", folder / "errors.txt")
    made.seconds = 120.0
    yield made
    made.close()


@pytest.mark.parametrize("verb", ["embed to .npy", "embed to .zarr", "tokenize", "import"])
def test_a_verb_that_is_killed(verb: str, worker: Worker) -> None:
    verdict = worker.run(Case(verb, kills.KILL, kills.KILL, 0))
    assert verdict.outcome == "ok", verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("verb", kills.VERBS)
def test_every_verb_that_is_killed(verb: str, seed: int, worker: Worker) -> None:
    verdict = worker.run(Case(verb, kills.KILL, kills.KILL, seed))
    assert verdict.outcome == "ok", verdict
