"""Libraries for an index of a million cells, side by side, next to exact search.

The vectors are derived from real cells: each is a convex mixture of a real cell and one of its 15
nearest, with noise of a tenth of their distance. Queries are made the same way of other real cells,
a tenth of all, which no vector of the index was made of. Distances are cosines of standardised
vectors. Recall@15 is the share of the 15 exact neighbours that are found. The first two rows are
what `cellscribe index` uses; of the libraries' own files, candidates are sorted by the same vectors
where the name says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import write_result
from cellscribe.index.nearest import Approximate, Exact, write_search
from cellscribe.index.store import Index, describe

Floats = npt.NDArray[np.float32]
K, MIXED_WITH, NOISE = 15, 15, 0.1
FEWER: dict[int, tuple[str, ...]] = {
    3_000: (),
    10_000: (),
    30_000: (),
    50_000: ("faiss IVF1024,RaBitQ", "usearch HNSW, int8"),
    100_000: (),
    300_000: (),
}
"""Cells at which both searches of `cellscribe index` are measured, to see where it is worth to
change over, and what is measured next to them: usearch took more than 20 minutes to build at a
million on a busy machine, so it is measured at 50,000 alone."""
CELLS_OF_SCGPT = 33_000_000
"""Cells of scGPT's published index, which is under 1 GB and searched on a GPU."""


def derive(real: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Mix real cells with near ones, ``[n, D]``."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=MIXED_WITH + 1).fit(real).kneighbors(real)[1][:, 1:]
    made = np.empty((n, real.shape[1]), np.float32)
    for start in range(0, n, 1 << 16):
        first = rng.integers(0, len(real), min(1 << 16, n - start))
        other = near[first, rng.integers(0, MIXED_WITH, len(first))]
        share = rng.random((len(first), 1), dtype=np.float32)
        step = real[other] - real[first]
        noise = rng.standard_normal(step.shape, dtype=np.float32)
        noise *= NOISE * np.linalg.norm(step, axis=1, keepdims=True) / np.sqrt(step.shape[1])
        made[start : start + len(first)] = real[first] + share * step + noise
    return made


def standardised(vectors: Floats, mean: Floats, scale: Floats) -> Floats:
    """Standardise and scale to length one, in place."""
    vectors -= mean
    vectors /= scale
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def rerank(
    cells: Any, queries: Floats, found: npt.NDArray[np.int64], k: int = K
) -> npt.NDArray[np.int64]:
    """Sort candidates ``[Q, M]`` by their stored vectors and keep the best ``k``."""
    kept = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 500):
        rows = found[start : start + 500]
        near = cells[np.maximum(rows, 0)].astype(np.float32)
        score = np.einsum("qmd,qd->qm", near, queries[start : start + 500])
        score[rows < 0] = -np.inf
        order = np.argsort(-score, axis=1)[:, :k]
        kept[start : start + 500] = np.take_along_axis(rows, order, 1)
    return kept


def faiss_side(factory: str, settings: dict[str, int]) -> Callable[..., Any]:
    """Give a function that builds a faiss index, saves it, and loads it again."""

    def build(cells: Floats, path: Path) -> Callable[[Floats, int], npt.NDArray[np.int64]]:
        import faiss

        index = faiss.index_factory(cells.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        index.train(cells[rng.choice(len(cells), min(len(cells), 100_000), replace=False)])
        index.add(cells)
        faiss.write_index(index, str(path))
        index = faiss.read_index(str(path))
        for name, value in settings.items():
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        return lambda queries, k: index.search(queries, k)[1]

    return build


def usearch_side(kind: str, expansion: int) -> Callable[..., Any]:
    """Give a function that builds a usearch index (HNSW) of vectors stored as `kind`."""

    def build(cells: Floats, path: Path) -> Callable[[Floats, int], npt.NDArray[np.int64]]:
        from usearch.index import Index

        made = Index(ndim=cells.shape[1], metric="cos", dtype=kind, expansion_search=expansion)
        for start in range(0, len(cells), 100_000):
            part = cells[start : start + 100_000]
            made.add(np.arange(start, start + len(part)), part, threads=2)
        made.save(str(path))
        index: Any = Index.restore(str(path))
        return lambda queries, k: index.search(queries, k, threads=2).keys.astype(np.int64)

    return build


SIDES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "faiss IVF1024,RaBitQ": (faiss_side("IVF1024,RaBitQ", {"nprobe": 16}), (0, 100)),
    "faiss IVF1024,PQ16": (faiss_side("IVF1024,PQ16", {"nprobe": 16}), (0, 100)),
    "faiss IVF1024,PQ64x4fs": (faiss_side("IVF1024,PQ64x4fs", {"nprobe": 16}), (0, 100)),
    "faiss IVF1024,SQ8": (faiss_side("IVF1024,SQ8", {"nprobe": 16}), (0,)),
    "usearch HNSW, int8": (usearch_side("i8", 64), (0,)),
}
"""Name -> how it is built, and how many candidates are sorted by their stored vectors (0: none)."""


def recall(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    """Share of the wanted ones that are found."""
    pairs = zip(found.tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def own_index(cells: Floats, folder: Path) -> Index:
    """Store vectors as an index does, without labels."""
    path = folder / "vectors-00000.npy"
    np.save(path, cells.astype(np.float16))
    width = cells.shape[1]
    part = {"name": "cells", "cells": len(cells), "vectors": describe(path)}
    header: Any = {
        "model": {"width": width},
        "parts": [part],
        "space": {"kind": "cosine", "mean": [0.0] * width, "scale": [1.0] * width},
        "search": None,
    }
    return Index(folder, header)


def timed(search: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function; its result and the seconds that it took."""
    start = time.perf_counter()
    found = search()
    return found, time.perf_counter() - start


def measure_own(index: Index, queries: Floats) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """Search with what `cellscribe index` uses; rows of the result, and the exact neighbours."""
    compared, opened = timed(partial(Exact, index))
    (_, wanted), took = timed(partial(compared.nearest, queries, K))
    stored = index.header["parts"][0]["vectors"]["bytes"]
    rows = {"exact": {"build_s": opened, "bytes": stored, "query_s": took, "recall": 1.0}}
    del compared
    path = index.folder / "search-00001.faiss"
    _, built = timed(partial(write_search, index, path))
    index.header["search"] = describe(path)
    search = Approximate(index)
    (_, found), took = timed(partial(search.nearest, queries, K))
    rows["approximate"] = {
        "build_s": built,
        "bytes": path.stat().st_size,
        "query_s": took,
        "recall": recall(found, wanted),
    }
    return rows, wanted


def measure(cells: Floats, queries: Floats, sides: list[str]) -> dict[str, Any]:
    """Build and search every side; seconds, bytes and recall."""
    with tempfile.TemporaryDirectory() as scratch:
        index = own_index(cells, Path(scratch))
        rows, wanted = measure_own(index, queries)
        print(rows, flush=True)
        stored = index.vectors[0]
        for name in sides:
            build, choices = SIDES[name]
            path = Path(scratch) / "index"
            search, built = timed(partial(build, cells, path))
            for candidates in choices:
                start = time.perf_counter()
                found = search(queries, candidates or K)
                if candidates:
                    found = rerank(stored, queries, found)
                took = time.perf_counter() - start
                said = f"{name}, {candidates} re-ranked" if candidates else name
                rows[said] = {
                    "build_s": built,
                    "bytes": path.stat().st_size,
                    "query_s": took,
                    "recall": recall(found, wanted),
                }
                print(said, rows[said], flush=True)
            path.unlink()
    return rows


def of_33_million(rows: dict[str, Any], cells: int, width: int) -> dict[str, float]:
    """Carry the size of the library's file over to as many cells as scGPT's index has.

    Its bytes are those of the lists' centres (float32, as many as the square root of the cells) and
    of the cells; the vectors that candidates are sorted by are float16 and stay on the disk.
    """
    lists = int(np.sqrt(cells))
    a_cell = (rows["approximate"]["bytes"] - lists * width * 4) / cells
    codes = a_cell * CELLS_OF_SCGPT + np.sqrt(CELLS_OF_SCGPT) * width * 4
    return {
        "bytes_a_cell": a_cell,
        "codes_gb": codes / 1e9,
        "codes_gib": codes / (1 << 30),
        "vectors_gb": CELLS_OF_SCGPT * width * 2 / 1e9,
    }


def faster_from(measured: dict[int, dict[str, Any]]) -> int | None:
    """Fewest cells from which on the approximate search took less time than the exact one."""
    found = None
    for n in sorted(measured, reverse=True):
        if measured[n]["approximate"]["query_s"] >= measured[n]["exact"]["query_s"]:
            break
        found = n
    return found


def bench_index(vectors: Path, cells: int, queries: int, sides: list[str], out: Path) -> Path:
    """Measure all sides at `cells` vectors, and exact search next to faiss at fewer.

    Parameters
    ----------
    vectors
        Folder of ``.npy`` that `cellscribe embed` wrote of real cells.
    cells, queries
        Vectors that are derived of them.
    sides
        Names of `SIDES`.
    out
        Folder of results.
    """
    import torch

    torch.set_num_threads(2)
    real = np.concatenate([np.load(path) for path in sorted(vectors.glob("*.npy"))])
    real, rng = real.astype(np.float32), np.random.default_rng(0)
    order, cut = rng.permutation(len(real)), len(real) // 10
    table = derive(real[order[cut:]], cells, rng)
    asked = derive(real[order[:cut]], queries, rng)
    mean, scale = table.mean(0), table.std(0)
    standardised(table, mean, scale)
    standardised(asked, mean, scale)
    fewer = {}
    for n, slow in FEWER.items():
        if n < cells:
            fewer[n] = measure(table[:n], asked, [name for name in slow if name in sides])
    sides = [name for name in sides if not name.startswith("usearch")]
    rows = measure(table, asked, sides)
    return write_index_result(out, rows, fewer, len(real), cells, queries, table.shape[1])


def write_index_result(
    out: Path,
    rows: dict[str, Any],
    fewer: dict[int, dict[str, Any]],
    n_real: int,
    cells: int,
    queries: int,
    width: int,
) -> Path:
    """Write what was measured, with its table."""
    named = {(cells, name): row for name, row in rows.items()}
    named |= {(n, name): row for n, each in fewer.items() for name, row in each.items()}
    large = of_33_million(rows, cells, width)
    over = faster_from({**fewer, cells: rows})
    table = {
        "columns": [
            *("cells", "search", "build, s", "file, MB"),
            *(f"{queries:,} queries, s", "recall@15"),
        ],
        "rows": [
            [
                f"{n:,}",
                name,
                f"{row['build_s']:.1f}",
                f"{row['bytes'] / 1e6:,.1f}",
                f"{row['query_s']:.1f}",
                f"{row['recall']:.3f}",
            ]
            for (n, name), row in sorted(named.items(), key=lambda each: each[0][0])
        ]
        + [
            [
                f"{CELLS_OF_SCGPT:,}, by arithmetic",
                "approximate",
                "–",
                f"{large['codes_gb'] * 1e3:,.0f}, and {large['vectors_gb'] * 1e3:,.0f} of vectors",
                "–",
                "–",
            ]
        ]
        + (
            []
            if over is None
            else [[f"{over:,}", "fewest at which approximate is faster", *4 * "–"]]
        ),
    }
    settings = {"real_cells": n_real, "cells": cells, "queries": queries, "width": width}
    figures = {
        "rows": rows,
        "fewer": fewer,
        "of_33_million": large,
        "faster_from": over,
        "table": table,
    }
    return write_result(out, "index", "index", settings, figures)
