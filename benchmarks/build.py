"""`bench build`: a file of counts to a corpus, in a process of its own: rate and memory.

The command is the one that a user types; interpreter, imports and the reading of gene tables are
in its time. The file is of real cells, which repeat, so duplicates are kept. No other program goes
from counts to a shuffled, split and tokenised store, so there is no peer; where an interpreter with
annbatch is named, its own shuffle of the same counts (no tokens, no splits) is timed as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.memory import measure_memory
from benchmarks.real_cells import real_cells
from benchmarks.record import write_result
from cellscribe.callbacks import log_stderr
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.writing import size_of

RESULTS = Path("benchmarks/results")
CURVE_POINTS = 60
SHUFFLE = """
import sys, time, warnings
warnings.simplefilter("ignore")
import annbatch, zarr
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
start = time.perf_counter()
collection = annbatch.DatasetCollection(sys.argv[2], mode="a")
collection.add_adatas([sys.argv[1]], shuffle=True, dataset_size=100_000)
print(time.perf_counter() - start)
"""


def bench_build(
    data: Path,
    cells: int = 1_000_000,
    compression: str = "gzip",
    scratch: Path | None = None,
    annbatch_python: Path | None = None,
    out: Path = RESULTS,
) -> Path:
    """Measure cells/s and resident memory of ``cellscribe corpus build`` on one large h5ad.

    Parameters
    ----------
    data
        Folder of real h5ad files, see `real_cells`.
    cells
        Cells of the file; a million take 4 GB, the build 12 GB more while it works.
    compression
        Of the h5ad: gzip (as the Census's are), lzf or none.
    scratch
        Where to put file and corpus; the system's folder for temporary files if not given.
    annbatch_python
        Interpreter that can import annbatch and zarrs; without it that figure is left out.
    out
        Folder of results.

    Raises
    ------
    InputError
        The build failed. A failure of annbatch is logged and noted in the result.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        source, built = folder / "cells.h5ad", folder / "corpus"
        made_of = real_cells(
            data, cells, source, compression=None if compression == "none" else compression
        )
        command = [sys.executable, "-m", "cellscribe", "corpus", "build", str(source)]
        command += ["-o", str(built), "--keep-duplicates", "--obs", "dataset_id=source_dataset"]
        curve = measure_memory(command)
        corpus = open_corpus(built)
        written = sum(size["cells"] for size in corpus.splits.values())
        shuffle, failed = None, None
        if annbatch_python is not None:
            try:
                shuffle = _shuffle(annbatch_python, source, folder / "collection.zarr")
            # what was measured before it is worth more than a row without it
            except InputError as error:
                failed = str(error)
                log_stderr(f"Warning: {failed}")
        sizes = {
            "source": source.stat().st_size / cells,
            "counts": size_of(built / "counts") / written,
            "tokens": size_of(built / "tokens") / written,
        }
    thin = curve.thinned(CURVE_POINTS)
    figures: dict[str, Any] = {
        "cells_from": made_of,
        "cells_written": written,
        "dropped": corpus.manifest["dropped"],
        "splits": {name: size["cells"] for name, size in corpus.splits.items()},
        "medians": corpus.manifest["vocabulary"]["medians"],
        "seconds": curve.seconds[-1],
        "cells_per_second": cells / curve.seconds[-1],
        "annbatch_shuffle_seconds": shuffle,
        "annbatch_failed": failed,
        "bytes_per_cell": sizes,
        "peak_mb": curve.peak_mb,
        "growth_mb": round(curve.growth_mb(), 1),
        "curve": {"seconds": thin.seconds, "rss_mb": thin.rss_mb},
    }
    settings = {"cells": cells, "compression": compression}
    figures["table"] = _table(settings, figures)
    return write_result(out, "build", "build", settings, figures)


def _table(settings: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """README's row."""
    shuffle, sizes = figures["annbatch_shuffle_seconds"], figures["bytes_per_cell"]
    columns = ["build a corpus", "cellscribe", "peak memory", "source", "counts", "tokens"]
    row = [
        f"{settings['cells']:,} cells, {settings['compression']}",
        f"{figures['cells_per_second']:,.0f} cells/s",
        f"{figures['peak_mb'] / 1e3:.2f} GB",
        *(f"{sizes[what] / 1e3:.2f} KB a cell" for what in ("source", "counts", "tokens")),
    ]
    if shuffle is not None:
        columns.insert(2, "annbatch's shuffle of the counts")
        row.insert(2, f"{settings['cells'] / shuffle:,.0f} cells/s")
    return {"columns": columns, "rows": [row]}


def _shuffle(python: Path, source: Path, target: Path) -> float:
    """Seconds of annbatch's own shuffle of the counts."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", SHUFFLE, source, target],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise InputError(f"{python} cannot be started ({error.strerror}); name a Python") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"annbatch failed with status {done.returncode}: {last}; it needs annbatch[zarrs]"
        )
    return float(done.stdout.split()[-1])
