"""What it costs to share shards out: workers that sleep in place of embedding.

Each of `workers` processes does all that a worker of ``cellscribe embed`` does but for the model:
it looks at what is done, claims shards with their pulse, sleeps as long as the cells of one take,
writes a small result, takes it in, and at the end has a manifest. What the whole took beyond
``shards / workers`` such times is lost to coordination. The store is a folder, or an S3 server that
the environment names. All workers run on this machine, so where they and the server are short of
cores it is that which is measured; `cpu_s` tells.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import write_result

if TYPE_CHECKING:
    from cellscribe.cells.source_lists import Shard

CELLS = 5000
ATLASES = {"50 M cells": 50_000_000, "500 M cells": 500_000_000}
GPUS = 8


def measure(place: str, shards: int, workers: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Share `shards` out among `workers` processes that take `seconds` for each.

    Parameters
    ----------
    place
        Output folder or URL; empty.
    shards, workers, seconds
        The work.
    folder
        Takes a file that stands for all sources.

    Returns
    -------
    dict
        ``wall_s`` from the common start until the last worker has the manifest, ``ideal_s``,
        ``lost`` (share of the wall), ``ms_a_shard`` (of a worker's time), ``end_s`` (from the last
        result to the last manifest), ``again_s`` (one worker finds that nothing is left to do),
        ``cpu_s`` of the workers, and ``shards`` that were recorded.
    """
    from cellscribe.cells.source_lists import Shard

    source = folder / "cells.h5ad"
    source.write_bytes(b"cells")
    listed = [
        Shard(name=f"s{i:06}", path=str(source), rows=(i * CELLS, (i + 1) * CELLS))
        for i in range(shards)
    ]
    # forked, so that what is imported is in memory once
    context = multiprocessing.get_context("fork")
    ends: Any = context.SimpleQueue()
    start = time.time() + 1 + 0.1 * workers
    words = (place, listed, seconds, start, ends)
    children = [context.Process(target=_work, args=words) for _ in range(workers)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for child in children:
        child.start()
    found = [ends.get() for _ in children]
    for child in children:
        child.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = context.Process(target=_work, args=(place, listed, seconds, time.time(), ends))
    again.start()
    last = ends.get()
    again.join()
    wall = max(end["end"] for end in found) - start
    # the last round may be half empty: no sharing out could end earlier
    ideal = -(-shards // workers) * seconds
    return {
        "shards": sum(end["done"] for end in found),
        "workers": workers,
        "seconds_a_shard": seconds,
        "wall_s": wall,
        "ideal_s": ideal,
        "lost": 1 - ideal / wall,
        "ms_a_shard": 1e3 * (wall - ideal) * workers / shards,
        "end_s": max(end["end"] for end in found) - max(end["last"] for end in found),
        "again_s": last["end"] - last["begin"],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "done_again": last["done"],
    }


def _work(place: str, shards: list[Shard], seconds: float, start: float, ends: Any) -> None:
    """Do what a worker does, in a process of its own."""
    from cellscribe.atlas.claims import PATIENCE
    from cellscribe.atlas.job import Job
    from cellscribe.atlas.listener import Listener
    from cellscribe.atlas.worker import work

    class Ended(Listener):
        def __init__(self) -> None:
            self.done, self.last = 0, start

        def on_shard(self, shard: str, what: str) -> None:
            self.done, self.last = self.done + 1, time.time()

    def make(shard: Shard, path: Path, progress: object) -> dict[str, Any]:
        time.sleep(seconds)
        path.write_bytes(os.urandom(1000))
        return {"cells": CELLS, "warnings": []}

    time.sleep(max(0.0, start - time.time()))
    ended, begin = Ended(), time.time()
    job = Job(place, {"verb": "sleep"}, ".parquet")
    job.reopen_changed(shards)
    claims = work(job, shards, make, patience=PATIENCE, listener=ended)
    job.write_manifest(shards, claims)
    ends.put({"done": ended.done, "begin": begin, "last": ended.last, "end": time.time()})


def bench_sharing(
    folder: Path, bucket: str | None, shards: int, workers: int, seconds: float, out: Path
) -> Path:
    """Measure a folder and, where its URL is given, a bucket; write the result.

    Parameters
    ----------
    folder
        A new folder for sources and results.
    bucket
        URL of an empty prefix, or None.
    shards, workers, seconds
        As for `measure`.
    out
        Folder of results.
    """
    folder.mkdir(parents=True)
    places = {"folder": str(folder / "out")} | ({"bucket": bucket} if bucket else {})
    figures = {
        name: measure(place, shards, workers, seconds, folder) for name, place in places.items()
    }
    settings = {"shards": shards, "workers": workers, "seconds": seconds, "cells": CELLS}
    return write_result(out, "sharing", "sharing", settings, figures)


def sharing_tables(result: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Tables of a result: what was measured, and what it comes to for an atlas on 8 GPUs."""
    settings = result["settings"]
    places = {name: result[name] for name in ("folder", "bucket") if name in result}
    measured = [
        [
            {"folder": "local folder", "bucket": "S3 server on the same machine"}[name],
            f"{found['shards']:,} x {settings['seconds']} s",
            f"{found['workers']}",
            f"{found['wall_s']:.1f} s",
            f"{found['lost']:.1%}",
            f"{found['ms_a_shard']:.0f} ms",
            f"{found['end_s']:.1f} s",
            f"{found['again_s']:.1f} s",
        ]
        for name, found in places.items()
    ]
    each = max(found["ms_a_shard"] for found in places.values()) / 1e3
    reckoned = []
    for name, cells in ATLASES.items():
        shards = -(-cells // settings["cells"])
        work, lost = shards * settings["seconds"] / GPUS, shards * each / GPUS
        reckoned.append(
            [
                name,
                f"{shards:,}",
                f"{work / 60:,.0f} min",
                f"{lost / 60:,.1f} min",
                f"{lost / (work + lost):.1%}",
            ]
        )
    return [
        (
            [
                "where",
                "shards",
                "workers",
                "took",
                "lost",
                "of a worker's time, a shard",
                "manifest",
                "a run with nothing to do",
            ],
            measured,
        ),
        (
            [
                f"reckoned: {GPUS} workers, {settings['seconds']} s a shard",
                f"shards of {settings['cells']:,} cells",
                "at work",
                "lost at the most expensive of the above",
                "share",
            ],
            reckoned,
        ),
    ]
