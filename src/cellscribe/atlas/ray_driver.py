"""The process that speaks to Ray, ``python -m cellscribe.atlas.ray_driver``, run by `ray_engine`.

It starts an actor for each place that it is asked for, hands on what they tell, and says in one
line why it cannot go on. It stands apart because a driver of Ray may hang for minutes or end its
process when the head does not answer, prints what it likes, and takes over signals.

Orders come as JSON lines on standard input, the set-up first, then places; when they end, so do the
actors. Reports go out as JSON lines on standard output.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from typing import Any, TextIO

from cellscribe.atlas.processes import GRACE
from cellscribe.callbacks import number_of
from cellscribe.errors import InputError

POLL = 2.0
"""Seconds in which an actor whose worker is silent answers."""
TURN = 0.2
"""Seconds that orders wait at most."""
CONNECT = 10.0
"""Seconds in which the head's port has to take a connection."""


def main() -> int:
    """Serve a run; 2 and a last report if it cannot go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # standard input says when to end
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no report
    setup = json.loads(sys.stdin.readline())
    orders: queue.Queue[int | None] = queue.Queue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    try:
        crew = _Crew(setup, reports)
    except InputError as error:
        _report(reports, refused=str(error))
        return 2
    try:
        crew.serve(orders)
    except InputError as error:
        crew.stop()
        _report(reports, refused=str(error))
        return 2
    crew.stop()
    return 0


def _read_orders(orders: queue.Queue[int | None]) -> None:
    for line in sys.stdin:
        orders.put(int(line))
    orders.put(None)


def _report(reports: TextIO, **what: Any) -> None:
    try:
        print(json.dumps(what), file=reports, flush=True)
    except BrokenPipeError:
        return  # standard input has ended too, which says what to do


class _Crew:
    """The actors of a run."""

    def __init__(self, setup: dict[str, Any], reports: TextIO) -> None:
        self._ray = connect(setup["address"])
        from cellscribe.atlas.ray_worker import NodeWorker

        self._setup, self._reports = setup, reports
        self._cpus, self._gpus = setup["cpus"], setup["gpus"]
        self._actors: dict[int, Any] = {}
        self._hearing: dict[Any, int] = {}
        """Places by what is awaited of their actors."""
        self._started: set[int] = set()
        self._last_started = time.monotonic()
        """When an actor was last at work; while there is none, when we began to wait."""
        self._kind = self._ray.remote(NodeWorker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._task = self._ray.put(json.dumps(setup["task"]))  # once for all actors
        has = self._ray.cluster_resources()
        n = setup["workers"] or _workers_for(has, self._cpus, self._gpus)
        _report(reports, workers=n, gpus=has.get("GPU", 0))

    def serve(self, orders: queue.Queue[int | None]) -> None:
        """Start actors as ordered and hand on what they tell, until the orders end."""
        while True:
            try:
                while True:
                    place = orders.get(timeout=0 if self._hearing else TURN)
                    if place is None:
                        return
                    self._start(place)
            except queue.Empty:
                pass
            self._hear()
            if self._started or not self._actors:
                self._last_started = time.monotonic()
            elif time.monotonic() - self._last_started > self._setup["deadline"]:
                raise InputError(self._waiting())

    def _start(self, place: int) -> None:
        setup = self._setup
        actor = self._kind.remote(
            self._task, setup["state"], setup["token"], setup["version"], self._gpus > 0
        )
        self._actors[place] = actor
        self._hearing[actor.hear.remote(0)] = place

    def _hear(self) -> None:
        if not self._hearing:
            return
        ready, _ = self._ray.wait(list(self._hearing), num_returns=1, timeout=TURN)
        for awaited in ready:
            place = self._hearing.pop(awaited)
            try:
                heard = self._ray.get(awaited)
            except self._ray.exceptions.RayError as error:
                self._ended(place, end_of_lost(error))
                continue
            self._started.add(place)
            for what in heard:
                if isinstance(what, str):
                    _report(self._reports, place=place, line=what)
                else:
                    self._ended(place, what)
            if place in self._actors:
                self._hearing[self._actors[place].hear.remote(POLL)] = place

    def _ended(self, place: int, end: dict[str, str]) -> None:
        self._ray.kill(self._actors.pop(place))
        self._started.discard(place)
        _report(self._reports, place=place, end=end)
        if end["kind"] != "finished":
            return
        for awaited, other in list(self._hearing.items()):
            if other not in self._started:  # still waits for room, and nothing is left to do
                del self._hearing[awaited]
                self._ray.kill(self._actors.pop(other))
                _report(self._reports, place=other, end=end)

    def _waiting(self) -> str:
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        n = len(self._actors)
        asked = f"{number_of(self._cpus, 'CPU')}" + (f" and {self._gpus:g} GPU" * bool(self._gpus))
        there = ", and ".join(
            f"{has.get(kind, 0):g} {kind}s, {has.get(kind, 0) - free.get(kind, 0):g} in use"
            for kind in ("CPU", *(["GPU"] if self._gpus else []))
        )
        return (
            f"no worker has started in {self._setup['deadline']:g} s; waiting for "
            f"{number_of(n, 'worker')} of {asked}{' each' * (n > 1)}: the cluster has {there}; "
            "free some, ask for less, or wait longer with --deadline"
        )

    def stop(self) -> None:
        """Have the workers let go of their shards, hear them out, and leave the cluster clean."""
        for place in set(self._actors) - self._started:
            self._ray.kill(self._actors.pop(place))
        self._hearing = {
            ref: place for ref, place in self._hearing.items() if place in self._actors
        }
        for actor in self._actors.values():
            actor.stop.remote()
        end = time.monotonic() + GRACE
        while self._hearing and time.monotonic() < end:
            self._hear()
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()


def connect(address: str) -> Any:
    """Connect to a cluster, and return the module ray.

    Raises
    ------
    InputError
        Nobody listens there, or Ray refuses.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # a worker without GPUs has none in its environment, by `NodeWorker`; this is about a warning
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'cellscribe[ray]'") from None

    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT).close()
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"no Ray cluster at {address}: {error}; check --address") from None
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=True,
        )
    except ConnectionError as error:
        if address == "auto":
            raise InputError(
                "no Ray cluster runs on this machine; start one with ray start --head, or name its "
                "head with --address HOST:PORT"
            ) from None
        raise InputError(f"no Ray cluster at {address}: {_first_line(error)}") from None
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise InputError(f"Ray at {address}: {_first_line(error)}") from None
    return ray


def _workers_for(has: dict[str, float], cpus: int, gpus: float) -> int:
    """Count the workers that a cluster has room for, with one CPU left for everything else."""
    n = (int(has.get("CPU", 0)) - 1) // cpus
    if gpus:
        n = min(n, int(has.get("GPU", 0) / gpus + 1e-9))
    return max(1, n)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


def end_of_lost(error: BaseException) -> dict[str, str]:
    """Say as an `End` how an actor was lost, by what Ray says of it."""
    text = " ".join(str(error).split()).partition(" Some common causes")[0]
    if missing := re.search(r"No module named '[^']*'", text):
        return {
            "kind": "refused",
            "how": f"a node lacks what a worker needs ({missing[0]}); install cellscribe on it",
        }
    how = f"Ray: {text[-200:]}"
    if "running low on memory" in text:
        how = "ended by Ray, as its node ran out of memory"
    elif "node has died" in text or "node died" in text or "is unavailable" in text:
        how = "its node was lost"
    return {"kind": "killed", "how": how}


if __name__ == "__main__":
    sys.exit(main())
