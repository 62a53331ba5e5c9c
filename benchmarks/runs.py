"""What training runs came to, beside counting and beside PCA: losses, and cell types read off.

Losses are those of each run's own validations, at the step that was best on val; the baselines are
asked under the masks of the first run, so all runs must have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import FILES, FOLDS, PCA, labelled
from benchmarks.record import write_result
from cellscribe.config import ModelConfig, TrainOptions, from_mapping
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.training.runs import Run, best, loss_at, read_run

SPLITS = ("val", "test_unseen")
MASKS = ("seed", "chosen_share", "masked_share", "random_share", "validation_cells", "lanes")
PROBED = 1_500
"""Cells of a labelled file that the linear probe looks at."""
Row = dict[str, Any]


def bench_runs(
    folders: Sequence[Path],
    corpus: Path,
    data: Path,
    name: str = "runs",
    out: Path = Path("benchmarks/results"),
) -> Path:
    """Measure finished runs side by side.

    Parameters
    ----------
    folders
        Runs that ended, on one corpus, with the same masks and validation cells.
    corpus
        The store they were trained on.
    data
        Folder of labelled files; those whose cells are in the training split are left out.
    name
        Of the result.
    out
        Folder of results.

    Raises
    ------
    InputError
        A run is of another corpus, has other masks, or is not finished.
    """
    store = open_corpus(corpus)
    runs = [read_run(folder) for folder in folders]
    _check(runs, folders, store)
    rows = [*_baselines(store, runs[0]), *(_losses(run) for run in runs)]
    files = [file for file in FILES if side_of(store, file) != "train"]
    for file in files:
        _probe(rows, data / f"{file}.h5ad", file, folders)
    columns = ["", "steps", "val", "unseen data", *(FILES[file] for file in files)]
    table = [
        [
            row["name"],
            f"{row['steps']:,}" if row["steps"] else "–",
            *(f"{row[split]:.3f}" if row.get(split) else "–" for split in SPLITS),
            *(f"{row[file]:.3f}" if file in row else "–" for file in files),
        ]
        for row in rows
    ]
    figures = {"rows": rows, "table": {"columns": columns, "rows": table}}
    settings = {"runs": [run.name for run in runs], "corpus": store.hash}
    return write_result(out, name, name, settings, figures)


def side_of(store: Corpus, dataset: str) -> str | None:
    """Which side of the split a dataset is on; None if the corpus does not hold it."""
    return store.manifest["datasets"].get(dataset, {}).get("side")


def _check(runs: Sequence[Run], folders: Sequence[Path], store: Corpus) -> None:
    for run, folder in zip(runs, folders, strict=True):
        if run.header["corpus"]["hash"] != store.hash:
            raise InputError(f"{folder} was trained on another corpus than {store.path}")
        if not (folder / "model").is_dir():
            raise InputError(f"{folder} is not finished; let it go on with --resume first")
        for key in MASKS:
            ours, first = run.header["training"][key], runs[0].header["training"][key]
            if ours != first:
                raise InputError(
                    f"{folder} has {key} {ours}, {folders[0]} {first}: their losses are not "
                    "of the same question; compare runs that are"
                )


def _baselines(store: Corpus, run: Run) -> list[Row]:
    from cellscribe.evaluation.tasks.mlm.unigram import unigram_losses

    config = from_mapping(ModelConfig, dict(run.header["model"]), run.name)
    options = from_mapping(TrainOptions, dict(run.header["training"]), run.name)
    counted = unigram_losses(store, config, options)
    guess = math.log(store.vocabulary.n_genes)
    return [
        {"name": "all genes alike", "steps": 0, **dict.fromkeys(counted, guess)},
        {"name": "unigram", "steps": 0, **{s: each["unigram"] for s, each in counted.items()}},
        {
            "name": "unigram given the rank",
            "steps": 0,
            **{s: each["rank"] for s, each in counted.items()},
        },
        {"name": PCA, "steps": 0},
    ]


def _losses(run: Run) -> Row:
    lowest = best(run)
    step = lowest[0] if lowest else len(run.step)
    losses = {split: loss_at(run, step, split) for split in SPLITS if split in run.validation}
    hours = float(run.seconds[-1]) / 3600
    return {"name": run.name, "steps": len(run.step), "best_step": step, "hours": hours, **losses}


def _probe(rows: Sequence[Row], path: Path, file: str, folders: Sequence[Path]) -> None:
    """Add the accuracy of a linear probe to the rows that have vectors."""
    import cellscribe
    from cellscribe.evaluation.stats.probe import linear_probe, log_norm_pca

    cells, classes = labelled(path)
    # Few enough that ten runs take minutes; every type keeps its share.
    some = np.random.default_rng(0).permutation(cells.n_obs)[:PROBED]
    cells, classes = cells[some].copy(), classes[some]
    common = np.unique(classes, return_counts=True)
    keep = np.isin(classes, common[0][common[1] >= FOLDS])
    cells, classes = cells[keep].copy(), classes[keep]
    features: dict[str, Any] = {PCA: log_norm_pca(cells.X)}
    for folder in folders:
        features[folder.resolve().name] = cellscribe.load(folder / "model").embed(cells)
    for row in rows:
        if row["name"] in features:
            row[file] = linear_probe(np.asarray(features[row["name"]]), classes).accuracy
