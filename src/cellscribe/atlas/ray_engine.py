"""Workers on a Ray cluster.

Ray finds room for the workers and starts them; who works on which shard is the workers' own
contract (`claims`), as everywhere. So a shard is worked on once also when another command works on
the same output, results are taken in as they are made, and what a dead node costs is its workers'
shards.

Each worker is an actor (`ray_worker`) that the process which speaks to Ray (`ray_driver`) starts
and asks for news. They are actors of our own and not ``map_batches`` of Ray Data, which would hand
out the shards itself. Tried with Ray 2.60 on three nodes of one CPU, that survived the loss of a
node; but with as many actors as CPUs it waited for ever without a word, as the tasks that read had
none left, and a row that kills its worker was tried without end. Here the claims count such deaths,
and those who only wait for room hold up nobody. What goes through Ray is the list of the shards,
the options, and lines of text; counts and vectors never do.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cellscribe.atlas.job import Job
from cellscribe.atlas.processes import ENGINE, GRACE, KEPT_LINES, End, Event
from cellscribe.atlas.ray_worker import marker
from cellscribe.callbacks import Log
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError

DEADLINE = 120.0
"""Seconds in which a first worker has to start."""


class RayEngine:
    """Workers on a Ray cluster.

    Parameters
    ----------
    task
        What every worker reads.
    job
        What they work on.
    sharing
        Which cluster, how many workers, and what each of them needs.
    log
        Called with a line where the cluster has more to give than is asked for.

    Raises
    ------
    InputError
        Ray is not installed, or no cluster answers.
    """

    is_prompt = False

    def __init__(self, task: Mapping[str, Any], job: Job, sharing: ShardOptions, log: Log) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._job, self._token = job, uuid.uuid4().hex
        self._errors: list[str] = []
        self._reports: queue.Queue[dict[str, Any]] = queue.Queue()
        deadline = sharing.deadline or DEADLINE
        cpus = sharing.cpus_per_worker or 1
        setup = {
            "address": sharing.address or "auto",
            "workers": sharing.workers,
            "cpus": cpus,
            "gpus": sharing.gpus_per_worker or 0,
            "deadline": deadline,
            "task": absolute({**task, "threads": cpus}),
            "state": _absolute(job.state.name),
            "token": self._token,
            "version": metadata.version("cellscribe"),
        }
        job.state.write(marker(self._token), b"{}")
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "cellscribe.atlas.ray_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._keep, self._read)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._order(json.dumps(setup))
            on_cpu = task["options"].get("device") == "cpu"
            self.n = self._connected(deadline, on_cpu, sharing, log)
        except BaseException:
            self._driver.kill()  # it may hang
            self.stop()
            raise

    def start(self, place: int) -> None:
        """Have a worker started in a place that is free, where the cluster has room."""
        self._order(str(place))

    def stop(self) -> None:
        """End all workers, and return when the cluster is clean."""
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._driver.stdin.close()
        try:
            self._driver.wait(GRACE + 10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        for reader in self._readers:
            reader.join()
        self._job.state.delete(marker(self._token))

    def _order(self, line: str) -> None:
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is among the events
            self._driver.stdin.write(line + "\n")
            self._driver.stdin.flush()

    def _connected(self, deadline: float, on_cpu: bool, sharing: ShardOptions, log: Log) -> int:
        try:
            first = self._reports.get(timeout=deadline)
        except queue.Empty:
            raise InputError(
                f"no answer from Ray at {sharing.address or 'auto'} in {deadline:g} s; is it the "
                "address of a head (HOST:6379 unless it was given another port)?"
            ) from None
        if "workers" not in first:
            raise InputError(str(first.get("refused")))
        if first["gpus"] and sharing.gpus_per_worker is None and not on_cpu:
            log(f"the cluster has {first['gpus']:g} GPUs; --gpus-per-worker 1 would use them")
        return int(first["workers"])

    def _read(self) -> None:
        assert self._driver.stdout is not None
        said_why = False
        with self._driver.stdout as lines:
            for line in lines:
                report: dict[str, Any] = json.loads(line)
                if "line" in report:
                    self.events.put((report["place"], report["line"]))
                elif "end" in report:
                    self.events.put((report["place"], End(**report["end"])))
                else:
                    self._reports.put(report)
                    if "refused" in report:
                        said_why = True
                        self.events.put((ENGINE, End("refused", report["refused"])))
        if not said_why:
            self._readers[0].join()
            last = self._errors[-1][:120] if self._errors else "no word why"
            why = f"the connection to Ray was lost ({last}); run again when the cluster is up"
            self._reports.put({"refused": why})
            self.events.put((ENGINE, End("refused", why)))

    def _keep(self) -> None:
        assert self._driver.stderr is not None
        with self._driver.stderr as lines:
            for line in lines:
                if line.strip():
                    self._errors = [*self._errors[-KEPT_LINES:], line.strip()[:300]]


def absolute(task: Mapping[str, Any]) -> dict[str, Any]:
    """Make the paths of a task such that they mean the same on every node."""
    shards = [{**shard, "path": _absolute(shard["path"])} for shard in task["shards"]]
    options = dict(task["options"])
    model = options.get("model")
    if model is not None and Path(model).is_dir():
        options["model"] = _absolute(model)
    return {**task, "shards": shards, "out": _absolute(task["out"]), "options": options}


def _absolute(place: str) -> str:
    return place if "://" in place else os.path.abspath(place)
