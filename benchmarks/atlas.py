"""Many files: two workers next to one process, and memory over a million cells in 200 shards.

Both run the command line, start-up included, on files of real cells. The million is thinned to few
counts a cell, so that it takes minutes: what a worker holds in memory for a shard, and what a run
keeps of all shards, is the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from cyclopts import App

from benchmarks import memory
from benchmarks.record import write_result

RESULTS = Path("benchmarks/results")
CURVE_POINTS = 60
BASE_CELLS = 20_000
"""Real cells that the thinned ones are drawn from."""

atlas = App(name="atlas", help="Many files: workers and memory.")


@atlas.command
def workers(
    *,
    data: Path,
    files: int = 8,
    cells: int = 300,
    repeats: int = 3,
    model: str = "mini",
    scratch: Path | None = None,
    out: Path = RESULTS,
) -> None:
    """Compare two workers of one thread each with one process of two threads, on two cores.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    files
        Files that are embedded.
    cells
        Cells of each.
    repeats
        Measurements of each side.
    model
        A bundled model or a checkpoint directory.
    scratch
        Where to put the files.
    out
        Folder of results.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        made_of = write_shards(folder / "atlas", data, files, cells, counts=None)
        seconds: dict[str, list[float]] = {"two_workers": [], "one_process": []}
        loads = []
        for turn in range(repeats):
            for side, number in (("two_workers", 2), ("one_process", 1)):
                loads.append(os.getloadavg()[0])
                command = embed_command(folder / "atlas", folder / f"{side}-{turn}", model, number)
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds[side].append(time.perf_counter() - start)
    medians = {side: median(each) for side, each in seconds.items()}
    rates = {side: files * cells / each for side, each in medians.items()}
    ratio = medians["one_process"] / medians["two_workers"]
    row = [
        f"{files} files of {cells:,} cells, {Path(model).name}",
        f"{rates['two_workers']:,.1f} cells/s",
        f"{rates['one_process']:,.1f} cells/s",
        f"{ratio:.2f}×",
        f"{max(loads):.1f}",
    ]
    columns = ["embed, start-up included", "2 workers", "1 process, 2 threads", "ratio"]
    figures = {
        "cells_from": made_of,
        "seconds": seconds,
        "cells_per_second": rates,
        "ratio_of_medians": ratio,
        "load_before": loads,
        "table": {"columns": [*columns, "highest load before a run"], "rows": [row]},
    }
    settings = {"files": files, "cells": cells, "repeats": repeats, "model": Path(model).name}
    print(write_result(out, "workers", "workers", settings, figures))


@atlas.command
def shards(
    *,
    data: Path,
    shards: int = 200,
    cells: int = 5_000,
    counts: int = 40,
    workers: int = 2,
    model: str = "mini",
    scratch: Path | None = None,
    out: Path = RESULTS,
) -> None:
    """Measure memory of embedding many shards, and of joining the results.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    shards
        Files that are embedded; a tenth of them are embedded first, to compare.
    cells
        Cells of each.
    counts
        Counts that are left of a cell, on average.
    workers
        Processes.
    model
        A bundled model or a checkpoint directory.
    scratch
        Where to put the files: 2 GB for a million cells.
    out
        Folder of results.
    """
    from cellscribe.model.metadata import find_checkpoint

    few = max(1, shards // 10)
    weights = 1e-6 * (find_checkpoint(model) / "model.safetensors").stat().st_size
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        made_of = write_shards(folder / "atlas", data, shards, cells, counts=counts)
        some = folder / "some"
        some.mkdir()
        for path in sorted((folder / "atlas").iterdir())[:few]:
            (some / path.name).hardlink_to(path)
        for side, source in (("few", some), ("all", folder / "atlas")):
            command = embed_command(source, folder / f"vectors-{side}", model, workers)
            measured[side] = as_figures(memory.measure_memory(command))
        command = [sys.executable, "-m", "cellscribe", "collect", str(folder / "vectors-all")]
        measured["collect"] = as_figures(
            memory.measure_memory([*command, "-o", str(folder / "all.zarr")])
        )
    number = {"few": few, "all": shards, "collect": shards}
    verbs = {"few": "embed", "all": "embed", "collect": "collect into zarr"}
    rows = [
        [
            f"{verbs[side]}: {number[side] * cells:,} cells in {number[side]} files",
            f"{each['largest_mb'] / 1e3:.2f} GB",
            f"{each['peak_mb'] / 1e3:.2f} GB",
            f"{each['growth_mb'] / 1e3:.2f} GB",
            f"{each['seconds']:,.0f} s",
        ]
        for side, each in measured.items()
    ]
    columns = ["memory", "largest process", "all processes", "growth over the run", "time"]
    figures = {
        "cells_from": made_of,
        "weights_on_disk_mb": weights,
        **measured,
        "load_after": os.getloadavg(),
        "table": {"columns": columns, "rows": rows},
    }
    settings = {
        "shards": shards,
        "cells": cells,
        "counts": counts,
        "workers": workers,
        "model": Path(model).name,
    }
    print(write_result(out, "shards", "shards", settings, figures))


def embed_command(source: Path, out: Path, model: str, workers: int) -> list[str]:
    """Command line that embeds a folder."""
    words = [sys.executable, "-m", "cellscribe", "embed", str(source), "-o", str(out)]
    return [*words, "--model", model, "--device", "cpu", "--workers", str(workers)]


def as_figures(curve: memory.MemoryCurve) -> dict[str, Any]:
    """Figures of a result."""
    thin = curve.thinned(CURVE_POINTS)
    return {
        "peak_mb": curve.peak_mb,
        "largest_mb": curve.largest_mb,
        "growth_mb": round(curve.growth_mb(), 1),
        "seconds": curve.seconds[-1],
        "curve": {"seconds": thin.seconds, "rss_mb": thin.rss_mb},
    }


def write_shards(
    folder: Path, data: Path, files: int, cells: int, *, counts: int | None
) -> dict[str, Any]:
    """Write files of real cells, drawn without repeats within a file.

    Parameters
    ----------
    folder
        Gets ``shard000.h5ad`` and so on.
    data
        Folder of real h5ad files.
    files, cells
        Files, and cells of each.
    counts
        Thin each cell to so many counts on average; leave all if None.

    Returns
    -------
    dict
        What they are made of, as `real_cells` says it.
    """
    import anndata
    import numpy as np

    from benchmarks.real_cells import real_cells

    folder.mkdir()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        base = Path(name) / "base.h5ad"
        made_of = real_cells(data, max(cells, min(files * cells, BASE_CELLS)), base)
        pool = anndata.read_h5ad(base)
    for number in range(files):
        start = (number * cells) % pool.n_obs
        # the first files share no cells, as far as there are enough
        order = np.roll(np.arange(pool.n_obs), -start)[:cells]
        part = pool[order].copy()
        if counts is not None:
            total = np.asarray(part.X.sum(axis=1)).ravel()
            share = np.minimum(counts / np.maximum(total, 1), 1)
            part.X.data = rng.binomial(
                part.X.data.astype(np.int64), np.repeat(share, np.diff(part.X.indptr))
            ).astype(np.float32)
            part.X.eliminate_zeros()
        part.write_h5ad(folder / f"shard{number:03}.h5ad")
    return made_of
