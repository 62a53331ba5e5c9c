"""A worker in a process of its own, and a machine's worth of them.

The process reads its task from standard input, tells what it does in lines on standard output, and
stops by itself when its standard input ends: when it is asked to, and when whoever started it is
gone, however that came about.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from cellscribe.callbacks import Log, number_of

GRACE = 30.0
"""Seconds that a worker has to let go of its shard when it is asked to stop."""
REFUSED = 2
"""Exit status of a worker that could not work, with its reason as the last line on stderr."""
KEPT_LINES = 20
WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    # glibc keeps memory for each of its arenas, of which many threads get many: of 54 shards of
    # 5,000 cells a worker kept 1.16 GB, with two arenas 0.96 GB
    "MALLOC_ARENA_MAX": "2",
}
"""What a worker's environment has, unless it is set."""


@dataclass(frozen=True)
class End:
    """How a worker ended."""

    kind: Literal["finished", "refused", "crashed", "killed"]
    """All shards are done; it cannot work here; by an error of its own; from outside."""
    how: str = ""
    """The reason, in a few words."""


Event: TypeAlias = tuple[int, str | End]
"""Place of a worker, and a line that it told or how it ended."""
ENGINE = -1
"""Place of what starts the workers, where it cannot go on itself."""


class WorkerProcess:
    """One worker's process.

    Parameters
    ----------
    task
        Its ``program`` is the module that is run, which reads it all.
    environment
        Its environment.
    put
        Called with each line that it tells, then once with its end, in a thread.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        environment: Mapping[str, str],
        put: Callable[[str | End], None],
    ) -> None:
        self._put, self._over, self.ended = put, threading.Event(), threading.Event()
        self._errors: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", str(task["program"])],
            env={**WORKER_ENVIRONMENT, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the parent, which asks each worker once
        )
        for use in (lambda: self._feed(json.dumps(task)), self._read):
            threading.Thread(target=use, daemon=True).start()

    def stop(self) -> None:
        """Ask the worker to let go of its shard and end."""
        self._over.set()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()

    def _feed(self, task: str) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as words:
                words.write(task + "\n")
                words.flush()
                self._over.wait()
        except BrokenPipeError:
            return  # it has ended, which `_read` tells

    def _read(self) -> None:
        assert self._process.stdout is not None
        keep = threading.Thread(target=self._keep_errors, daemon=True)
        keep.start()
        with self._process.stdout as lines:
            for line in lines:
                self._put(line)
        status = self._process.wait()
        keep.join()
        self._over.set()
        self._put(_end(status, self._errors[-1] if self._errors else ""))
        self.ended.set()

    def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if line.strip():
                    self._errors = [*self._errors[-KEPT_LINES:], line.strip()[:500]]


def _end(status: int, last: str) -> End:
    if status == 0:
        return End("finished")
    if status == REFUSED:
        return End("refused", last or "a worker stopped")
    number = -status if status < 0 else status - 128
    if number <= 0:
        return End("crashed", last or f"status {status}")
    # what killed it from outside has nothing to do with its last words
    words = f": {last}" if last and number not in (9, 15) else ""
    return End("killed", f"signal {number}{words}")


class LocalEngine:
    """Workers on this machine, each with its part of the cores and, where there are any, a GPU.

    Parameters
    ----------
    task
        What every worker reads.
    n
        Workers.
    log
        Called with a line where workers share a GPU.
    """

    is_prompt = True

    def __init__(self, task: Mapping[str, Any], n: int, log: Log) -> None:
        from cellscribe.cells.pipeline import usable_cores

        self.n, self.events = n, queue.Queue[Event]()
        self._task = {**task, "threads": max(1, usable_cores() // n)}
        self._workers: dict[int, WorkerProcess] = {}
        device = str(task["options"].get("device", "cpu"))
        self._gpus = visible_gpus() if device in ("auto", "cuda") else []
        shared = 1 if device.startswith("cuda:") else len(self._gpus)
        if 0 < shared < n:
            log(f"{n} workers share {number_of(shared, 'GPU')}")

    def start(self, place: int) -> None:
        """Start a worker in a place that is free."""
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        self._workers[place] = WorkerProcess(
            {**self._task, "begin": place / self.n},
            environment,
            lambda heard: self.events.put((place, heard)),
        )

    def stop(self) -> None:
        """End all workers, and return when they have ended."""
        for worker in self._workers.values():
            worker.stop()
        for worker in self._workers.values():
            if not worker.ended.wait(GRACE):
                worker.kill()
                worker.ended.wait()


def has_driver() -> bool:
    """Whether this machine may have GPUs: told by device files, as torch takes a second to load."""
    if not sys.platform.startswith("linux"):
        return True
    names = ("nvidia", "nvhost", "nvgpu", "dxg", "kfd")
    return any(entry.startswith(names) for entry in os.listdir("/dev"))


def visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Where that variable is set they are its entries: numbers, or UUIDs of GPUs or MIG slices. As
    CUDA does, what comes after an invalid number is left out.
    """
    if not has_driver():
        return []
    import torch

    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(i) for i in range(torch.cuda.device_count())]
    names = [name.strip() for name in given.split(",")]
    if any(name.startswith("MIG-") for name in names):
        return names  # of several slices a process sees one, so the count says nothing
    return names[: torch.cuda.device_count()]
