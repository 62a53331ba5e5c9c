"""`cellscribe explore` at its limit: how long its UMAPs take, how large the page is, how it moves.

Cells are real ones, drawn again and again, with every count kept with probability one half, so that
no two are the same. Their vectors are principal components of those counts, as wide as those of
``mini``: a UMAP takes as long whatever its vectors mean, and embedding would take hours here. In
Chromium graphics are drawn by the processor (SwiftShader): with any graphics card frames come
faster.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy.sparse import csr_matrix, vstack

import cellscribe
from benchmarks.devtools import Tab, open_tab
from benchmarks.record import write_result
from cellscribe.explorer import layouts
from cellscribe.explorer.vectors import OURS
from cellscribe.report.umap import umap_coordinates

FILES = ("pbmc_facs_zheng2017", "pbmc3k_10x", "pbmc_frozen_donorA_10x", "pancreas_baron_human_came")
GENES = (
    *("CD3D", "CD3E", "CD8A", "CD8B", "MS4A1", "CD79A", "LYZ", "CD14", "FCGR3A", "NKG7"),
    *("GNLY", "CST3", "ACTB", "CD4", "PPBP", "CD34", "IL7R", "CCR7", "S100A8", "FCER1A"),
)
OBS = ("cell_type", "donor", "tissue", "assay", "source_dataset", "n_counts", "n_genes")
WIDTH, PCS, PART = 128, 50, 20_000
FRAMES = """(async () => {
  const [view] = explorer.views;
  const times = [];
  for (let i = 0; i < 40; i++) {
    const start = performance.now();
    view.zoom(i % 4 < 2 ? 0.98 : 1 / 0.98);
    await new Promise((done) => view.plot.subscribe("draw", done, 1));
    times.push(performance.now() - start);
  }
  return times;
})()"""
UNTIL_DRAWN = """(async (change) => {
  const start = performance.now();
  change();
  do await new Promise((done) => setTimeout(done, 5)); while (explorer.maps.busy);
  return performance.now() - start;
})"""


def bench_explore(data: Path, n: int, folder: Path, out: Path) -> Path:
    """Measure once, and write ``explore.json``.

    Parameters
    ----------
    data
        Folder of real h5ad files.
    n
        Cells.
    folder
        Where cells and page are kept; cells that are there are not made again.
    out
        Folder of results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, page = folder / f"vectors-{n}.h5ad", folder / f"map-{n}.html"
    if not source.exists():
        make_cells(data, n).write_h5ad(source)
    adata = read_h5ad(source)
    maps, seconds = {}, {}
    for key in (OURS, "X_pca"):
        start, cpu = time.perf_counter(), time.process_time()
        maps[f"X_map_of_{key}"] = umap_coordinates(np.asarray(adata.obsm[key]))
        seconds[key] = {
            "width": adata.obsm[key].shape[1],
            "elapsed": round(time.perf_counter() - start, 1),
            "of_one_core": round(time.process_time() - cpu, 1),
        }
    adata.obsm.update(maps)
    start = time.perf_counter()
    made = cellscribe.explore(
        adata, page, basis=list(maps), use_rep=OURS, gene=GENES, overwrite=True
    )
    packed = round(time.perf_counter() - start, 1)
    with tempfile.TemporaryDirectory() as profile, open_tab(Path(profile), page.resolve()) as tab:
        browser = measure_page(tab)
    figures = {
        "umap_seconds": seconds,
        "page_seconds": packed,
        "page_bytes": page.stat().st_size,
        "columns": len(made.columns),
        "genes": len(made.genes),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "browser_ms": browser,
    }
    figures["table"] = table_of(n, figures)
    figures["note"] = (
        "Other work shared the machine, so the UMAPs' seconds of one core are told too. Frames are "
        "drawn by the processor, without a graphics card."
    )
    return write_result(out, "explore", "explore", {"cells": n, "runs": 1}, figures)


def make_cells(data: Path, n: int) -> AnnData:
    """Draw `n` real cells, each with half of its counts, and compute their vectors."""
    rng = np.random.default_rng(0)
    read = [read_h5ad(data / f"{name}.h5ad") for name in FILES]
    for adata in read:
        adata.var_names = adata.var["ensembl_id"].astype(str)
    read = [a[:, (a.var_names != "") & ~a.var_names.duplicated()] for a in read]
    common = sorted(set.intersection(*(set(a.var_names) for a in read)))
    counts = csr_matrix(vstack([a[:, common].X for a in read]))
    obs = pd.concat([a.obs.reindex(columns=list(OBS)) for a in read])
    rows = rng.integers(0, counts.shape[0], n)
    parts = []
    for first in range(0, n, PART):
        part = counts[rows[first : first + PART]].copy()
        part.data = rng.binomial(part.data.astype(np.int64), 0.5).astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    thinned = csr_matrix(vstack(parts))
    drawn = obs.iloc[rows].copy()
    for name in OBS[:5]:
        drawn[name] = drawn[name].astype(str).astype("category")
    drawn["thinned_counts"] = np.asarray(thinned.sum(axis=1)).ravel()
    drawn["thinned_genes"] = np.diff(thinned.indptr)
    drawn["batch"] = pd.Categorical(rng.integers(0, 12, n).astype(str))
    letters = rng.choice(list("ACGT"), (n, 16))
    drawn.index = pd.Index(["".join(row) for row in letters])
    var = pd.DataFrame({"gene_symbol": read[1][:, common].var["gene_symbol"].astype(str)})
    made = AnnData(thinned, obs=drawn, var=var.set_axis(common))
    vectors = layouts.principal_components(thinned, WIDTH)
    made.obsm[OURS] = vectors.astype(np.float16)
    made.obsm["X_pca"] = np.ascontiguousarray(vectors[:, :PCS])
    return made


def measure_page(tab: Tab) -> dict[str, Any]:
    """Milliseconds of what a user does with an opened page."""
    tab.resize(1400, 900)
    start = time.perf_counter()
    tab.wait("document.body.dataset.ready")
    ready = 1e3 * (time.perf_counter() - start)

    def drawn(change: str) -> float:
        return round(tab.value(f"{UNTIL_DRAWN}(() => {{ {change} }})"), 1)

    frames = tab.value(FRAMES)
    return {
        "ready": round(ready),
        "frame_median": round(float(np.median(frames)), 1),
        "frame_p90": round(float(np.quantile(frames, 0.9)), 1),
        "colour": drawn("explorer.state.colourBy(5)"),
        "hide": drawn("explorer.state.colourBy(0); explorer.state.hide(new Set([0]))"),
        "select": drawn("explorer.state.clearFilters(); explorer.panels.open(7)"),
    }


def table_of(n: int, figures: dict[str, Any]) -> dict[str, Any]:
    """Rows of the documents' table."""
    browser = figures["browser_ms"]
    rows = [
        [
            f"UMAP of {each['width']} columns",
            f"{each['elapsed']:,.0f} s ({each['of_one_core']:,.0f} s of one core)",
        ]
        for each in figures["umap_seconds"].values()
    ]
    what = f"two maps, {figures['columns']} columns, {figures['genes']} genes, neighbors"
    rows += [
        [f"page of {what}", f"{figures['page_bytes'] / 1e6:,.1f} MB"],
        ["making it, neighbors included, maps not", f"{figures['page_seconds']:,.0f} s"],
        ["memory", f"{figures['peak_memory_gb']:,.1f} GB"],
        ["opening it", f"{browser['ready'] / 1e3:,.1f} s"],
        [
            "a frame of one map while it moves, median and 90th percentile",
            f"{browser['frame_median']:,.0f} and {browser['frame_p90']:,.0f} ms",
        ],
        ["another colour, both maps", f"{browser['colour']:,.0f} ms"],
        ["hide a class, both maps", f"{browser['hide']:,.0f} ms"],
    ]
    return {"columns": [f"{n:,} cells", ""], "rows": rows}
