"""How good: a linear probe for cell types on labelled files that the model never saw.

Beside the model stand the same network with random weights (what the architecture gives for
nothing) and log-normalised PCA (what the standard workflow gives without a model), on the same
cells and folds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import write_result
from cellscribe.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

FILES = {
    "pbmc_facs_zheng2017": "blood, sorted (Zheng 2017)",
    "pancreas_baron_human_came": "pancreas (Baron 2016)",
    "pbmc3k_10x": "blood (10x PBMC 3k)",
}
"""Labelled files of the data folder; those that a model was trained on are left out for it."""
LABELS = "cell_type"
NO_LABEL = ("unassigned", "nan", "")
FOLDS = 5
PCA = "log-norm PCA-50"
RANDOM = "random weights"


def bench_quality(
    data: Path,
    model: str = "mini",
    also: Sequence[Path] = (),
    out: Path = Path("benchmarks/results"),
) -> Path:
    """Measure a linear probe on vectors of a model, of random weights, and on principal components.

    Parameters
    ----------
    data
        Folder with the labelled `FILES`.
    model
        Bundled model or checkpoint directory.
    also
        Further checkpoint directories, each a column of its own.
    out
        Folder of results.

    Raises
    ------
    InputError
        A file is missing from `data`.
    """
    import cellscribe
    from cellscribe.evaluation.stats.probe import linear_probe, log_norm_pca

    scores: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        embedders = {
            Path(model).name: cellscribe.load(model),
            **{Path(path).name: cellscribe.load(path) for path in also},
            RANDOM: cellscribe.load(_random_twin(model, Path(name) / "random")),
        }
        seen = trained_on(embedders[Path(model).name].header.provenance)
        for file in FILES:
            if file in seen:
                continue
            adata, classes = labelled(data / f"{file}.h5ad")
            features = {key: embedder.embed(adata) for key, embedder in embedders.items()}
            features[PCA] = log_norm_pca(adata.X)
            probes = {key: linear_probe(x, classes, folds=FOLDS) for key, x in features.items()}
            scores[file] = {
                "cells": adata.n_obs,
                "types": len(np.unique(classes)),
                "scores": {
                    key: {
                        "accuracy": probe.accuracy,
                        "macro_f1": probe.macro_f1,
                        "fold_accuracies": probe.fold_accuracies,
                    }
                    for key, probe in probes.items()
                },
            }
    kinds = list(next(iter(scores.values()))["scores"])
    table = {
        "columns": ["linear probe: accuracy (macro F1)", "cells", "types", *kinds],
        "rows": [
            [FILES[file], f"{each['cells']:,}", each["types"], *_cells(each["scores"], kinds)]
            for file, each in scores.items()
        ],
    }
    settings = {"model": Path(model).name, "folds": FOLDS, "labels": LABELS}
    return write_result(
        out, f"quality-{Path(model).name}", "quality", settings, {"files": scores, "table": table}
    )


def labelled(path: Path) -> tuple[AnnData, npt.NDArray[np.object_]]:
    """Read the labelled cells of a file, without types of fewer than `FOLDS` cells.

    Raises
    ------
    InputError
        There is no such file.
    """
    import anndata

    if not path.exists():
        raise InputError(f"{path}: no such file; --data is the folder of labelled cells")
    cells = anndata.read_h5ad(path)
    labels = cells.obs[LABELS].astype(str)
    enough = labels.map(labels.value_counts()) >= FOLDS
    cells = cells[(enough & ~labels.isin(NO_LABEL)).to_numpy()].copy()
    return cells, cells.obs[LABELS].astype(str).to_numpy(dtype=object)


def trained_on(provenance: Mapping[str, Any]) -> set[str]:
    """Names of the datasets that a model says it was trained on: none of them tests it."""
    return {str(entry).partition(" ")[0] for entry in provenance.get("trained on", ())}


def _cells(scores: dict[str, dict[str, Any]], kinds: list[str]) -> list[str]:
    return [f"{scores[kind]['accuracy']:.3f} ({scores[kind]['macro_f1']:.3f})" for kind in kinds]


def _random_twin(model: str, target: Path) -> Path:
    """Checkpoint of the same network and gene table, its weights just initialised."""
    from cellscribe.model.checkpoint import save_checkpoint
    from cellscribe.model.encoder import MaskedGeneModel, initialise
    from cellscribe.model.metadata import read_header

    header = read_header(model)
    network = MaskedGeneModel(header.config)
    initialise(network, seed=1)
    save_checkpoint(target, network, header.vocabulary, {"weights": "random"})
    return target
