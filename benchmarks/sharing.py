"""What it costs to share shards out: workers that sleep in place of embedding.

The run is that of ``cellscribe embed --workers N`` but for the model: processes of their own
(`sharing_worker`) look at what is done, claim shards with their pulse, sleep as long as the cells
of one take, write a small result, take it in and tell of it; the process that started them shows
nothing, ends them when all is done, and writes the manifest. What the whole took beyond
``shards / workers`` such times is lost to coordination.

Not counted is how long the interpreters take to start, which on many machines happens at once;
their CPU time is told. The store is a folder, or an S3 server that the environment names. All runs
on one machine, so that workers, launcher and server share its cores.
"""

from __future__ import annotations

import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.record import write_result

CELLS = 5000
ATLASES = {"50 M cells": 50_000_000, "500 M cells": 500_000_000}
GPUS = 8
START = 0.25
"""Seconds for each interpreter to start, before the work begins."""


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
        ``wall_s`` from the common start until the manifest is written and all workers have ended,
        ``ideal_s``, ``lost`` (share of the wall), ``ms_a_shard`` (of a worker's time), ``end_s``
        (from the last result to the end), ``again_s`` (a worker finds that nothing is left to do),
        ``cpu_ms_a_shard`` of workers and launcher after the start, ``start_cpu_s`` of all workers
        before it, and ``shards`` that were recorded.
    """
    from cellscribe.cells.source_lists import Shard

    source = folder / "cells.h5ad"
    source.write_bytes(b"cells")
    listed = [
        Shard(name=f"s{i:06}", path=str(source), rows=(i * CELLS, (i + 1) * CELLS))
        for i in range(shards)
    ]
    before, ours = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
    start = time.time() + 1 + START * workers
    first = _run(place, listed, seconds, workers, start)
    end, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    records = [shard for shard in first["manifest"]["shards"] if shard["status"] == "done"]
    begun = sum({shard["worker"]: shard["began"] for shard in records}.values())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - begun
    cpu += time.process_time() - ours
    again = time.time() + 1 + START
    last = _run(place, listed, seconds, 1, again)
    again_s = time.time() - again
    # the last round may be half empty: no sharing out could end earlier
    ideal, wall = -(-shards // workers) * seconds, end - start
    return {
        "shards": len(records),
        "workers": workers,
        "seconds_a_shard": seconds,
        "wall_s": wall,
        "ideal_s": ideal,
        "lost": 1 - ideal / wall,
        "ms_a_shard": 1e3 * (wall - ideal) * workers / shards,
        "end_s": end - first["last"],
        "again_s": again_s,
        "cpu_ms_a_shard": 1e3 * cpu / shards,
        "start_cpu_s": begun,
        "done_again": last["n_done"],
    }


def _run(
    place: str, shards: list[Any], seconds: float, workers: int, start: float
) -> dict[str, Any]:
    """Start the workers and write the manifest, as `cellscribe.atlas.run` does."""
    from cellscribe.atlas.claims import Claims, Worker
    from cellscribe.atlas.job import Job
    from cellscribe.atlas.launch import launch
    from cellscribe.atlas.listener import Listener
    from cellscribe.config import ShardOptions

    class Ended(Listener):
        n_done, last = 0, start

        def on_shard(self, shard: str, what: str) -> None:
            self.n_done, self.last = self.n_done + 1, time.time()

    job, ended = Job(place, None, ".parquet"), Ended()
    claims = Claims(job.state, [shard.name for shard in shards], Worker())
    task = {
        "program": "benchmarks.sharing_worker",
        "shards": [asdict(shard) for shard in shards],
        "out": place,
        "about": {"verb": "sleep"},
        "suffix": job.suffix,
        "options": {"device": "cpu"},
        "sharing": asdict(ShardOptions().of_one_worker()),
        "failed_before": claims.failed_before,
        "seconds": seconds,
        "start": start,
    }
    records = launch(task, job, ShardOptions(workers=workers), listener=ended, log=print)
    manifest = job.write_manifest(shards, claims, records)
    return {"manifest": manifest, "last": ended.last, "n_done": ended.n_done}


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
            f"{found['cpu_ms_a_shard']:.1f} ms" if "cpu_ms_a_shard" in found else "–",
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
                "CPU time, a shard",
                "end",
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
