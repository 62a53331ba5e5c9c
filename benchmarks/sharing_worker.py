"""The worker of the benchmark `sharing`: as `cellscribe.atlas.child`, without a model.

A shard takes as long as the task says; its result is a thousand bytes. All workers begin at a time
that the task says, when each has its modules and has taken the job's address.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from cellscribe.atlas import child
from cellscribe.atlas.job import Job
from cellscribe.atlas.worker import Joined, work
from cellscribe.callbacks import Progress
from cellscribe.cells.source_lists import Shard

CELLS = 5000


def run(task: dict[str, Any], shards: list[Shard]) -> None:
    """Work as `child.run_verb` does, from its look at the output on."""

    def make(shard: Shard, path: Path, progress: Progress) -> dict[str, Any]:
        facts = {"cells": CELLS, "warnings": [], "began": began, "cpu_s": time.process_time()}
        time.sleep(task["seconds"])
        path.write_bytes(os.urandom(1000))
        return facts

    Job(task["out"], None, task["suffix"])  # loads what a place of this kind needs
    time.sleep(max(0.0, task["start"] - time.time()))
    began = time.process_time()
    job = Job(task["out"], task["about"], task["suffix"])
    job.reopen_changed(shards)
    work(
        job,
        shards,
        make,
        patience=task["sharing"]["patience"],
        joined=Joined(failed_before=task["failed_before"], begin=task.get("begin")),
        listener=child.Teller(),
    )


if __name__ == "__main__":
    child.end(child.main(run))
