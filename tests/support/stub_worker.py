"""The program of a worker without a model: ``python -m support.stub_worker``, as `child` else.

A shard's result is its name. By its path it does more: ``kill`` ends the process with SIGKILL,
``orphan`` ends what started it so (an actor of Ray) once `heard` tells that its claim was heard,
``crash`` is an error of the code, ``bad`` is refused, ``slow`` takes until it is stopped.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cellscribe.atlas import child
from cellscribe.atlas.job import Job
from cellscribe.atlas.worker import Joined, work
from cellscribe.callbacks import Progress
from cellscribe.cells.source_lists import Shard
from cellscribe.errors import InputError


def task(paths: dict[str, str], out: Path, **more: Any) -> dict[str, Any]:
    """The task of a run over shards with these names and paths."""
    from cellscribe.config import ShardOptions

    return {
        "program": "support.stub_worker",
        "shards": [asdict(Shard(name=name, path=path)) for name, path in paths.items()],
        "out": str(out),
        "verb": "embed",
        "options": {"device": "cpu"},
        "sharing": vars(ShardOptions().of_one_worker()),
        "failed_before": {},
        **more,
    }


def heard(path: Path) -> Path:
    """The file by which a test tells that it has heard of a claim of the shard at this path."""
    return path.with_suffix(".heard")


def make(shard: Shard, path: Path, progress: Progress) -> dict[str, Any]:
    what = Path(shard.path).name
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "orphan":
        while not heard(Path(shard.path)).exists():
            time.sleep(0.02)
        heard(Path(shard.path)).unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if what == "crash":
        raise RuntimeError("no such luck")
    if what == "bad":
        raise InputError("no cells in it")
    time.sleep(600 if what == "slow" else 0)
    path.write_text(shard.name)
    return {"cells": 1}


def run(given: dict[str, Any], shards: list[Shard]) -> None:
    job, sharing = Job(given["out"], {"verb": "stub"}, ".txt"), given["sharing"]
    work(
        job,
        shards,
        {"embed": make}[given["verb"]],
        patience=sharing["patience"],
        strict=sharing["strict"],
        joined=Joined(failed_before=given["failed_before"], begin=given.get("begin")),
        listener=child.Teller(),
    )


if __name__ == "__main__":
    child.end(child.main(run))
