"""What it costs to share shards out: workers that sleep in place of embedding.

Each of `workers` processes claims shards, sleeps as long as the cells of one would take, and
records a result. What the whole took beyond ``shards / workers`` such times is lost to
coordination. The store is a folder, or an S3 server on loopback that the environment names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write_result

CHILD = """
import json, sys, time
from cellscribe.atlas.claims import Claims, Worker, alive
from cellscribe.atlas.stores import open_store
place, n, seconds, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
store, done = open_store(place), 0
time.sleep(max(0.0, start - time.time()))
claims = Claims(store, [f"s{i:05}" for i in range(n)], Worker())
for claim in claims:
    with alive(claim):
        time.sleep(seconds)
    done += claim.done({"cells": 5000})
    last = time.time()
print(json.dumps({"done": done, "last": last}))
"""


def measure(place: str, shards: int, workers: int, seconds: float) -> dict[str, Any]:
    """Share `shards` out among `workers` processes that take `seconds` for each.

    Returns
    -------
    dict
        ``wall_s`` from the common start to the last result, ``ideal_s``, ``lost`` (share of the
        wall), and ``shards`` that were recorded.
    """
    start = time.time() + 3 + 0.25 * workers
    words = [sys.executable, "-c", CHILD, place, str(shards), str(seconds), str(start)]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    found = [json.loads(child.communicate()[0]) for child in children]
    wall = max(result["last"] for result in found) - start
    # the last round may be half empty: no sharing out could end earlier
    ideal = -(-shards // workers) * seconds
    return {
        "shards": sum(result["done"] for result in found),
        "workers": workers,
        "seconds_a_shard": seconds,
        "wall_s": wall,
        "ideal_s": ideal,
        "lost": 1 - ideal / wall,
        "ms_a_shard": 1e3 * (wall - ideal) * workers / shards,
    }


def bench_sharing(
    folder: Path, bucket: str | None, shards: int, workers: int, seconds: float, out: Path
) -> Path:
    """Measure a folder and, where its URL is given, a bucket; write the result.

    Parameters
    ----------
    folder
        An empty folder for the claims.
    bucket
        URL of a prefix, or None.
    shards, workers, seconds
        As for `measure`.
    out
        Folder of results.
    """
    places = {"folder": str(folder)} | ({"bucket": bucket} if bucket else {})
    figures = {name: measure(place, shards, workers, seconds) for name, place in places.items()}
    settings = {"shards": shards, "workers": workers, "seconds": seconds}
    return write_result(out, "sharing", "sharing", settings, figures)
