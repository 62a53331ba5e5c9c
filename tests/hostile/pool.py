"""Cases on worker processes, which are started anew when a case ends one, or takes too long."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hostile.judge import Case, Verdict, to_line

import cellscribe

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0
"""A case may take so long; the inputs are of kilobytes."""
START_SECONDS = 300.0


class Worker:
    """One process that forks the processes that cases run in."""

    def __init__(
        self, clean: Path, scratch: Path, errors: Path, seconds: float | None = None
    ) -> None:
        self.seconds = SECONDS if seconds is None else seconds
        self.restarts = 0
        once = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_ARENA_MAX")
        path = os.pathsep.join(
            [str(Path(cellscribe.__file__).parents[1]), str(ROOT / "tests"), str(ROOT)]
        )
        with errors.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hostile.worker", clean, scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **dict.fromkeys(once, "1"), "PYTHONPATH": path},
                bufsize=0,
                cwd=ROOT / "tests",
            )
        self.child = 0
        self._rest = b""
        self._await_child(START_SECONDS)

    def run(self, case: Case) -> Verdict:
        """Run one case; one that took too long has a second try, for the machine may be busy."""
        verdict = self._run(case, self.seconds)
        return self._run(case, 2 * self.seconds) if verdict.outcome == "hang" else verdict

    def _run(self, case: Case, seconds: float) -> Verdict:
        assert self.process.stdin is not None
        self.process.stdin.write(to_line(case))
        answer = self._answer(seconds)
        while answer is not None and "ready" in answer:  # a fresh child takes the case
            self.child = int(answer["ready"])
            answer = self._answer(seconds)
        if answer is None:
            os.kill(self.child, signal.SIGKILL)
            self._answer(10)
            self._await_child(60)
            return Verdict("hang", f"seed {case.seed}", f"more than {seconds:g} s")
        if "died" in answer:
            self._await_child(60)
            code = int(answer["died"])
            name = signal.Signals(code).name if code > 0 else f"status {-code}"
            return Verdict("signal", f"seed {case.seed}", name)
        return Verdict(**answer)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _await_child(self, seconds: float) -> None:
        answer = self._answer(seconds)
        if answer is None or "ready" not in answer:
            self.process.kill()
            raise RuntimeError(f"the worker did not start: {answer}")
        self.child = int(answer["ready"])

    def _answer(self, seconds: float) -> dict[str, str] | None:
        """The next line, or None after so long."""
        assert self.process.stdout is not None
        handle, end = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                return None
            data = os.read(handle, 65_536)
            if not data:
                raise RuntimeError("the worker went away")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, str] = json.loads(line)
        return found


@contextmanager
def workers(clean: Path, scratch: Path, n_workers: int) -> Iterator[list[Worker]]:
    """Start workers, and end them."""
    started: list[Worker] = []
    try:
        for number in range(n_workers):
            folder = scratch / f"worker{number}"
            folder.mkdir(parents=True, exist_ok=True)
            started.append(Worker(clean, folder, scratch / "errors.txt"))
        yield started
    finally:
        for worker in started:
            worker.close()


def run_cases(
    cases: Iterable[Case],
    clean: Path,
    scratch: Path,
    n_workers: int,
    keep: Callable[[Case, Verdict], None],
) -> None:
    """Run cases on several workers; `keep` is called with each verdict, in any order."""
    source = iter(cases)
    with workers(clean, scratch, n_workers) as team:

        def work(worker: Worker) -> None:
            # next() of one iterator is safe between threads: nothing else runs meanwhile
            for case in source:
                keep(case, worker.run(case))

        if len(team) == 1:
            work(team[0])
            return
        with ThreadPoolExecutor(len(team)) as pool:
            list(pool.map(work, team))
