"""Several workers on this machine: processes that share a job's shards out among themselves.

The parent makes nothing itself. It starts the workers, each with its part of the cores and, where
there are GPUs, one of them, and hears from each of them a line for every shard. A worker that dies
is named, and its shard is free for the others at once.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from cellscribe.atlas.claims import FREE, claim_key
from cellscribe.atlas.job import Job
from cellscribe.atlas.listener import FINISHED, Listener
from cellscribe.callbacks import Log
from cellscribe.cells.pipeline import usable_cores
from cellscribe.config import ShardOptions
from cellscribe.errors import InputError


@dataclass
class _Child:
    process: subprocess.Popen[str]
    held: tuple[str, int] | None = None
    """The shard that it works on, and the number of its claim."""
    errors: list[str] = field(default_factory=list)


def launch(
    task: Mapping[str, Any], job: Job, sharing: ShardOptions, *, listener: Listener, log: Log
) -> None:
    """Run workers until they end.

    Parameters
    ----------
    task
        What `child.main` reads; every worker gets the same, and its part of the cores.
    job
        What they work on.
    sharing
        How many, and whether the first failure stops them.
    listener
        Hears what each of them tells.
    log
        Called with a line when a worker dies.

    Raises
    ------
    InputError
        No worker could work: the line of the first. With `sharing.strict`, why a shard failed.
    KeyboardInterrupt
        Ctrl-C, when the workers have ended.
    """
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    n, refusals = sharing.workers, []
    gpus = _count_gpus(task["options"].get("device", "cpu"))
    children = [_start(task, i, n, gpus, lines) for i in range(n)]
    running = n
    try:
        while running:
            i, line = lines.get()
            child = children[i]
            if line is None:
                running -= 1
                status = child.process.wait()
                if status < 0 or status > 2:
                    _bury(job, child, i, status, log)
                elif status:
                    refusals.append(child.errors[-1] if child.errors else f"status {status}")
                continue
            failure = _hear(child, line, listener)
            if failure and sharing.strict:
                raise InputError(failure)
    except BaseException:
        for child in children:
            child.process.send_signal(signal.SIGINT)
        for child in children:
            child.process.wait()
        raise
    if len(refusals) == n:
        raise InputError(refusals[0])


def _start(
    task: Mapping[str, Any],
    i: int,
    n: int,
    gpus: int,
    lines: queue.Queue[tuple[int, str | None]],
) -> _Child:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(i % gpus)
    process = subprocess.Popen(
        [sys.executable, "-m", "cellscribe.atlas.child"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = _Child(process)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin as words:
        json.dump({**task, "threads": max(1, usable_cores() // n)}, words)

    def read(stream: IO[str]) -> None:
        with stream:
            for line in stream:
                lines.put((i, line))
        lines.put((i, None))

    def keep(stream: IO[str]) -> None:
        with stream:
            for line in stream:
                child.errors = [*child.errors[-20:], line.strip()]

    threading.Thread(target=keep, args=(process.stderr,), daemon=True).start()
    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    return child


def _hear(child: _Child, line: str, listener: Listener) -> str:
    """Take in what a worker says; return why its shard failed, if it did."""
    try:
        message: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return ""
    if "claims" in message:
        child.held = (str(message["claims"]), int(message["number"]))
        listener.on_claim(*child.held)
    elif "cells" in message:
        listener.on_cells(str(message["cells"]), int(message["done"]), int(message["total"]))
    elif "seen" in message:
        listener.on_seen(message["seen"])
    elif "ended" in message:
        child.held = None
        listener.on_shard(str(message["ended"]), str(message["what"]))
        return "" if message["what"] == FINISHED else str(message["what"])
    return ""


def _count_gpus(device: str) -> int:
    """GPUs to give out, one a worker; 0 where there is none or a device is named."""
    if device not in ("auto", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _bury(job: Job, child: _Child, i: int, status: int, log: Log) -> None:
    """Say how a worker died, and free its shard."""
    how = f"signal {-status}" if status < 0 else f"status {status}"
    why = f": {child.errors[-1]}" if child.errors else ""
    at = f" at {child.held[0]}" if child.held else ""
    log(f"worker {i + 1} (process {child.process.pid}) died{at} ({how}){why}")
    if child.held is not None:
        job.state.write(claim_key(*child.held), FREE)
