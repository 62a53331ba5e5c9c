"""What each part of training bought for the vectors: short runs that differ in one thing each.

Each run is `cellscribe train` on the corpus, in a process of its own, and kept in a folder: a
benchmark that was stopped goes on. Vectors are scored on files of labelled cells that no run saw:
macro-F1 of the probe and of the neighbours, self-match of downsampled cells, R2 of depth,
by the functions of `cellscribe evaluate`. One seed, few steps: directions, not final figures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_result
from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.data import read_data
from cellscribe.evaluation.models import read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.tasks import celltype, confounding
from cellscribe.training.runs import MODEL, read_run
from cellscribe.writing import write_json

RESULTS = Path("benchmarks/results")
FILES = ("pbmc_facs_zheng2017", "pbmc3k_10x")
CELLS = 1_000
"""Cells of each file that are scored, drawn at random."""
SHORT = {
    "global-batch": 16, "micro-batch": 16, "min-genes-per-cell": 160, "genes-per-cell": 240,
    "validation-cells": 128, "full-length-steps": 0,
}  # fmt: skip
"""Flags of every run: few cells a step and few genes a view, so that all can be compared."""
NO_OBJECTIVE = {"regression-weight": 0, "contrast-weight": 0}
METRICS = {
    celltype: ("macro_f1", "knn_macro_f1"),
    confounding: ("stays_50", "stays_25", "depth_r2"),
}
"""Task -> its estimates that a row shows."""
SHOWN = ("F1 / kNN F1", "self-match 50 % / 25 %", "R² of depth")
PCA_ROW = "log-norm PCA-50"
CORPUS = "log-norm PCA-50 of the training corpus"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A run that differs from the preset in one thing."""

    title: str
    flags: dict[str, Any] = field(default_factory=dict)
    """Flags of `cellscribe train`, without their dashes."""
    cells: int | None = None
    """Training cells; all of the corpus if not given."""
    pool: str | None = None
    without: tuple[str, ...] = ()
    """Beginnings of names of files that the corpus lacks: a tissue that the run never sees."""
    files: tuple[str, ...] = FILES
    """Labelled files that are scored."""


TISSUES = {
    "no-pancreas": Variant(
        title="pancreas", without=("pancreas",), files=("pancreas_baron_human_came",)
    ),
    "no-cell-lines": Variant(
        title="cell lines",
        without=("celllines", "hek293t"),
        files=("celllines_scmixology_sc_celseq2", "celllines_scmixology_sc_celseq2_5cl_p1"),
    ),
    "no-blood": Variant(title="blood", without=("pbmc", "malt", "celltypist")),
    "no-lung": Variant(title="lung", without=("lung",), files=("lung_hlca_query_delorey",)),
}
"""Runs without one tissue, scored on that tissue; lung has no labels, so only its depth is."""
VARIANTS = {
    "preset": Variant(title="the preset"),
    "genes": Variant(title="masked genes alone", flags=NO_OBJECTIVE),
    "contrast": Variant(title="masked genes and contrast", flags={"regression-weight": 0}),
    "regression": Variant(title="masked genes and regression", flags={"contrast-weight": 0}),
    "whole-counts": Variant(title="no thinning", flags={"least-share": 1}),
    "disjoint": Variant(title="disjoint gene sets", flags={"shared-genes": 0}),
    "width-192": Variant(title="width 192", flags={"model.hidden-size": 192}),
    "width-384": Variant(title="width 384", flags={"model.hidden-size": 384}),
    "depth-2": Variant(title="depth 2", flags={"model.num-hidden-layers": 2}),
    "depth-6": Variant(title="depth 6", flags={"model.num-hidden-layers": 6}),
    "mean": Variant(title="mean of hidden states in place of the head", pool="genes"),
    "cells-2000": Variant(title="2,000 cells", cells=2_000),
    "cells-6000": Variant(title="6,000 cells", cells=6_000),
}
"""By the name of the run's folder."""
SAME_RUN = {"mean": "preset"}
"""Variants that only read another's run in another way."""


def bench_ablation(
    data: Path,
    corpus: Path = Path("runs/corpus"),
    runs: Path = Path("runs/ablation"),
    steps: int = 200,
    preset: str = "mini",
    names: tuple[str, ...] = tuple(VARIANTS),
    out: Path = RESULTS,
) -> Path:
    """Train the variants that are not there yet, score all, and write the result.

    Parameters
    ----------
    data
        Folder of the labelled files `FILES`, and of the sources of the corpus.
    corpus
        Folder of the corpus.
    runs
        Folder of the runs.
    steps
        Of the learning-rate schedule of each.
    preset
        What the variants differ from.
    names
        Variants; all of them if not given.
    out
        Folder of results.
    """
    runs.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in names:
        run = runs / SAME_RUN.get(name, name)
        if not (run / MODEL).is_dir():
            _train(
                VARIANTS[name], run, _corpus_of(VARIANTS[name], data, corpus, runs), steps, preset
            )
        scores = _scores(run, VARIANTS[name], data)
        rows.append({"name": VARIANTS[name].title, **_losses(run), **scores})
        print(rows[-1], flush=True)
    of_file = _scores(run, VARIANTS["preset"], data, PCA_ROW)
    rows.append({"name": f"{PCA_ROW} of the file", **of_file})
    settings = {"steps": steps, "preset": preset, "flags": SHORT, "cells scored": CELLS}
    figures = {"rows": rows, "table": _table(rows)}
    return write_result(out, "vectors", "vectors", settings, figures)


def bench_transfer(
    data: Path,
    corpus: Path = Path("runs/corpus"),
    runs: Path = Path("runs/ablation"),
    steps: int = 200,
    preset: str = "mini",
    out: Path = RESULTS,
) -> Path:
    """Train without one tissue after the other, score on the one left out, and write the result.

    Each is compared with PCA-50 of the very file, and with the components of its training corpus.
    The arguments are those of `bench_ablation`.
    """
    runs.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    path = out
    for name, variant in TISSUES.items():
        run = runs / name
        if not (run / MODEL).is_dir():
            _train(variant, run, _corpus_of(variant, data, corpus, runs), steps, preset)
        facts = {"tissue": variant.title, **_losses(run)}
        for title, start in (("the preset", ""), (PCA_ROW, PCA_ROW), ("corpus PCA", CORPUS)):
            rows.append({"name": title, **facts, **_scores(run, variant, data, start)})
            print(rows[-1], flush=True)
        path = _write_transfer(rows, steps, preset, out)  # as far as it is
    return path


def _write_transfer(rows: list[dict[str, Any]], steps: int, preset: str, out: Path) -> Path:
    settings = {"steps": steps, "preset": preset, "flags": SHORT, "cells scored": CELLS}
    files_of = {variant.title: variant.files for variant in TISSUES.values()}
    lines = [
        [row["tissue"], file, row["name"], *_figures(row, file)]
        for row in rows
        for file in files_of[row["tissue"]]
    ]
    columns = ["left out", "scored on", "vectors", *SHOWN]
    figures = {"rows": rows, "table": {"columns": columns, "rows": lines}}
    return write_result(out, "transfer", "transfer", settings, figures)


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Lay out rows as Markdown has them, for `benchmarks.render_tables`."""
    columns = [
        "run",
        "cells",
        "loss on val",
        *(f"{name}, {file}" for file in FILES for name in SHOWN),
    ]
    lines = []
    for row in rows:
        cells, loss = row.get("cells"), row.get("loss val")
        facts = [f"{cells:,}" if cells else "–", f"{loss:.2f}" if loss else "–"]
        lines.append([row["name"], *facts, *(x for file in FILES for x in _figures(row, file))])
    return {"columns": columns, "rows": lines}


def _figures(row: dict[str, Any], file: str) -> list[str]:
    """Return the figures of a row for a file, two or three in a cell."""

    def joined(*names: str) -> str:
        found = [row.get(f"{file} {name}") for name in names]
        return " / ".join("–" if value is None else f"{value:.3f}" for value in found)

    return [joined("macro_f1", "knn_macro_f1"), joined("stays_50", "stays_25"), joined("depth_r2")]


def _train(variant: Variant, run: Path, corpus: Path, steps: int, preset: str) -> None:
    """Train in a process of its own; a run that was stopped goes on."""
    flags: dict[str, Any] = {
        "schedule-steps": steps, "warmup-steps": steps // 8, "validate-every": steps,
        "checkpoint-every": steps, **SHORT, **variant.flags,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "cellscribe", "train", "--preset", preset, "--resume"]
    subprocess.run([*command, "--corpus", str(corpus), "-o", str(run), *words], check=True)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _corpus_of(variant: Variant, data: Path, corpus: Path, runs: Path) -> Path:
    """Return the corpus, or one of fewer of its cells, built anew with the same genes."""
    import anndata

    if variant.cells is None and not variant.without:
        return corpus
    folder = runs / "-".join(["corpus", *map(str, variant.without or [variant.cells])])
    if (folder / "manifest.json").exists():
        return folder
    from cellscribe.corpus.store import open_corpus

    whole = open_corpus(corpus).splits["train"]["cells"]
    share = 1 if variant.cells is None else variant.cells / whole
    parts = folder.with_name(f"cells-of-{folder.name}")
    parts.mkdir(exist_ok=True)
    for path in sorted(data.glob("*.h5ad")):
        is_held_out = path.stem in FILES
        if path.stem.startswith("perturb_"):
            continue
        if variant.without and path.stem.startswith(variant.without):
            continue
        cells = anndata.read_h5ad(path)
        if share < 1 and not is_held_out:
            rows = np.random.default_rng(0).random(cells.n_obs) < share
            cells = cells[rows].copy()
        cells.write_h5ad(parts / path.name)
    words = [*map(str, sorted(parts.glob("*.h5ad"))), "-o", str(folder)]
    more = ["--vocabulary", str(corpus / "genes.tsv")]
    if any(file.startswith(variant.without or ("-",)) for file in FILES):
        # without the files that are held out there is nothing to validate on
        more += ["--obs", "tissue_general=tissue", "--obs", "dataset_id=source_dataset"]
        more += ["--holdout", "0", "--exclude", "in_came_baron=True"]
    else:
        more += ["--config", "recipes/small.toml"]
    command = [sys.executable, "-m", "cellscribe", "corpus", "build"]
    subprocess.run([*command, *words, *more], check=True)
    shutil.rmtree(parts)
    return folder


def _losses(run: Path) -> dict[str, float]:
    """Losses of the last validation, hours, and training cells."""
    found = read_run(run)
    last = {f"loss {name}": float(losses[-1]) for name, (_, losses) in found.validation.items()}
    last = {name: last[name] for name in ("loss val", "loss test_unseen") if name in last}
    return {**last, "hours": float(found.seconds[-1]) / 3600, "cells": found.train_cells or 0}


def _scores(run: Path, variant: Variant, data: Path, row: str = "") -> dict[str, float]:
    """Score a run's model on its files, or the baseline whose name begins with `row`."""
    kept = run / f"scores-{variant.pool or 'default'}-{row or 'model'}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    options = EvaluateOptions(pool=variant.pool, max_cells=CELLS, bootstrap=20)
    model = read_models([run], options)[0]
    found: dict[str, float] = {}
    for file in variant.files:
        cells = read_data(data / f"{file}.h5ad", options)
        for task, names in METRICS.items():
            try:
                [case] = task.load(cells, [model], options)
            except UnfitError:
                continue  # a file without labels has only depth to be scored
            methods = task.baselines(case) if row else task.methods(case, model)
            method = next(method for method in methods if method.name.startswith(row))
            estimates = task.score(case, method.predict(), 0).estimates
            found |= {f"{file} {name}": estimates[name].value for name in names}
    write_json(kept, found)
    return found
