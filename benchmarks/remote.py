"""Remote sources: obstore next to s3fs, and embedding from a bucket next to local files.

Everything goes through a proxy that adds a time to each request (`delay`) to an S3 server whose
address and keys the environment holds. What the proxy itself costs is measured with a time of 0.
The two sides of each comparison take turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.delay import delayed
from benchmarks.record import write_result
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.download import download
from cellscribe.errors import InputError

READ, AT_ONCE, IN_TURN, CHUNKS = 64 << 10, 2000, 200, 300
"""Bytes of a small read; how many at once and one after the other; chunks of the zarr array."""
WHOLE = 128 << 20
WORKERS = 16
OURS, PEER = "obstore", "s3fs"
Sides = dict[str, Callable[[], object]]


def libraries(place: str, folder: Path) -> dict[str, Sides]:
    """Make what is timed, with a store of each library at the address in the environment.

    Parameters
    ----------
    place
        URL of the prefix with the objects of `upload`.
    folder
        Takes downloads.

    Returns
    -------
    dict
        What is done -> side -> a function that does it.
    """
    import obstore
    import s3fs
    import zarr
    from zarr.storage import FsspecStore, ObjectStore

    bucket, path = Bucket(place), place.removeprefix("s3://")
    keys = {"key": os.environ["AWS_ACCESS_KEY_ID"], "secret": os.environ["AWS_SECRET_ACCESS_KEY"]}
    client = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    fs: Any = s3fs.S3FileSystem(**keys, client_kwargs=client, use_listings_cache=False)
    options = {**keys, "client_kwargs": client}
    peer = FsspecStore.from_url(place, storage_options=options, read_only=True)
    starts = np.random.default_rng(0).integers(0, WHOLE - READ, AT_ONCE).tolist()
    ends, paths = [start + READ for start in starts], [f"{path}/big"] * AT_ONCE
    big, array = bucket.at("big"), bucket.at("array.zarr")

    def in_threads() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            read = lambda start: obstore.get_range(bucket.store, big, start=start, length=READ)
            assert all(len(found) == READ for found in pool.map(read, starts))

    def in_turn() -> None:
        for start in starts[:IN_TURN]:
            obstore.get_range(bucket.store, big, start=start, length=READ)

    def in_turn_s3fs() -> None:
        for start in starts[:IN_TURN]:
            fs.cat_file(f"{path}/big", start=start, end=start + READ)

    def read_zarr(store: Any, at: str) -> None:
        found: Any = zarr.open_array(store, path=at, mode="r")
        assert int(found[:].sum()) == CHUNKS * READ

    return {
        f"{AT_ONCE:,} reads of 64 KiB, {WORKERS} at once": {
            OURS: in_threads,
            PEER: lambda: fs.cat_ranges(paths, starts, ends, batch_size=WORKERS),
        },
        f"{IN_TURN} reads of 64 KiB, one after the other": {OURS: in_turn, PEER: in_turn_s3fs},
        f"one object of {WHOLE >> 20} MiB to a file": {
            OURS: lambda: download(bucket, "big", folder / OURS),
            PEER: lambda: fs.get_file(f"{path}/big", str(folder / PEER)),
        },
        f"a zarr array of {CHUNKS} chunks of 64 KiB": {
            OURS: lambda: read_zarr(ObjectStore(bucket.store, read_only=True), array),
            PEER: lambda: read_zarr(peer, "array.zarr"),
        },
    }


def upload(place: str) -> None:
    """Put the objects of `libraries` into a bucket."""
    import zarr

    bucket = Bucket(place)
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder) / "big"
        big.write_bytes(np.random.default_rng(0).bytes(WHOLE))
        bucket.take_in("big", big)
        array = zarr.create_array(
            Path(folder) / "array.zarr",
            shape=(CHUNKS * READ,),
            chunks=(READ,),
            dtype="u1",
            compressors=None,
        )
        array[:] = 1
        bucket.take_in("array.zarr", Path(folder) / "array.zarr")


def take_turns(sides: Sides, rounds: int) -> dict[str, list[float]]:
    """Time each side so many times, one after the other; the first round is not counted."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side in list(sides)[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            sides[side]()
            print(f"{side}: {time.perf_counter() - began:.2f} s", file=sys.stderr, flush=True)
            if turn:
                seconds[side].append(time.perf_counter() - began)
    return seconds


def embedding(sources: Sequence[Path], place: str, folder: Path) -> Sides:
    """Embed sources into a new folder each time: local ones, and the same in a bucket."""
    from cellscribe.api.atlas import embed_files
    from cellscribe.config import EmbedOptions

    bucket = Bucket(place)
    for source in sources:
        # the copy leaves the file for the other side
        bucket.take_in(source.name, Path(shutil.copy(source, folder / "upload")))
    words = {
        "local": [str(source) for source in sources],
        "remote": [f"{place}/{source.name}" for source in sources],
    }

    def embed(side: str) -> None:
        out = folder / side
        shutil.rmtree(out, ignore_errors=True)
        run = embed_files(words[side], out, EmbedOptions(device="cpu"), log=lambda line: None)
        if run.failures:
            raise InputError(f"{side}: {run.failures}")

    return {side: lambda side=side: embed(side) for side in words}  # type: ignore[misc]


def bench_remote(
    data: Path, bucket: str, milliseconds: float, rounds: int, sources: int, cells: int, out: Path
) -> Path:
    """Measure, and write the result.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    bucket
        URL of a prefix on the server that the environment names.
    milliseconds
        Added to each request.
    rounds
        Measurements of each side.
    sources
        Files that are embedded.
    cells
        First cells of each.
    out
        Folder of results.
    """
    server = os.environ.get("AWS_ENDPOINT_URL", "")
    if not server.startswith("http://"):
        raise InputError("AWS_ENDPOINT_URL names no server on loopback; start one")
    upload(bucket)
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [
            _first_cells(path, cells, Path(folder))
            for path in sorted(data.glob("*.h5ad"))[:sources]
        ]
        whole = lambda: download(Bucket(bucket), "big", Path(folder) / "whole")
        direct = take_turns({"direct": whole}, rounds)
        for name, delay in (("proxy of 0 ms", 0.0), ("", milliseconds / 1e3)):
            with delayed(server, delay) as address:
                os.environ["AWS_ENDPOINT_URL"] = address
                if name:
                    direct |= take_turns({name: whole}, rounds)
                    continue
                for what, sides in libraries(bucket, Path(folder)).items():
                    seconds[what] = take_turns(sides, rounds)
                embedded = take_turns(embedding(files, bucket, Path(folder)), rounds)
        os.environ["AWS_ENDPOINT_URL"] = server
    figures = {
        "whole_object_s": direct,
        "seconds": seconds,
        "embedding_s": embedded,
        "load_average": os.getloadavg(),
        "table": _table(seconds, embedded, milliseconds, f"{len(files)} files of {cells} cells"),
    }
    settings = {
        "milliseconds": milliseconds,
        "rounds": rounds,
        "sources": [path.name for path in files],
        "cells": cells,
    }
    return write_result(out, "remote", "remote", settings, figures)


def _first_cells(path: Path, cells: int, folder: Path) -> Path:
    """Write the first cells of a file, as it stores them, to a file of the same name."""
    import anndata

    anndata.read_h5ad(path)[:cells].copy().write_h5ad(folder / path.name)
    return folder / path.name


def _table(
    seconds: dict[str, dict[str, list[float]]],
    embedded: dict[str, list[float]],
    milliseconds: float,
    files: str,
) -> dict[str, Any]:
    rows = []
    for what, sides in seconds.items():
        ours, peer = (statistics.median(sides[side]) for side in (OURS, PEER))
        rows.append([what, f"{ours:.2f} s", f"{peer:.2f} s", f"{peer / ours:.1f}×"])
    local, remote = (statistics.median(embedded[side]) for side in ("local", "remote"))
    what, ratio = f"embed {files}: bucket, and local files", f"{local / remote:.2f}×"
    rows.append([what, f"{remote:.2f} s", f"{local:.2f} s", ratio])
    columns = [f"{milliseconds:g} ms added to each request", OURS, "s3fs, or local", "ratio"]
    return {"columns": columns, "rows": rows}
