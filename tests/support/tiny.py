"""A model so small that tests can embed with it in no time, and cells that it can read.

The genes are real ones, so that identifiers go the way of a user's file; the weights are random.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

N_GENES = 200
CONTEXT = 48
WIDTH = 32


@cache
def _known() -> tuple[list[str], list[str]]:
    from cellscribe.cells.gene_names.genes import human_genes, resolve

    table = human_genes()
    table = table[(table["biotype"] == "protein_coding") & (table["symbol"] != "")].iloc[:400]
    table = table[np.array(resolve(table["symbol"])) == table["ensembl_id"]].iloc[:N_GENES]
    return list(table["ensembl_id"]), list(table["symbol"])


def real_genes(n_genes: int) -> tuple[list[str], list[str]]:
    """Ensembl ids and symbols of the first so many genes of the model."""
    ids, symbols = _known()
    assert n_genes <= len(ids)
    return ids[:n_genes], symbols[:n_genes]


def every_gene() -> tuple[list[str], list[str]]:
    """Ensembl ids and symbols of all human protein-coding genes."""
    from cellscribe.cells.gene_names.genes import human_genes

    table = human_genes()
    table = table[table["biotype"] == "protein_coding"]
    return list(table["ensembl_id"]), list(table["symbol"])


def save_model(
    folder: Path,
    *,
    seed: int = 0,
    changed_medians: bool = False,
    all_genes: bool = False,
    cell_vector_size: int = 0,
) -> Path:
    import torch

    from cellscribe.cells.gene_names.vocabulary import Vocabulary
    from cellscribe.config import ModelConfig
    from cellscribe.model.checkpoint import save_checkpoint
    from cellscribe.model.encoder import MaskedGeneModel, initialise

    ids, symbols = every_gene() if all_genes else real_genes(N_GENES)
    medians = np.sqrt(np.arange(2, len(ids) + 2) + 0.1234 + changed_medians)
    vocabulary = Vocabulary.build(ids, symbols, medians)
    config = ModelConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        context=CONTEXT,
        # the usual 0.02 leaves attention nearly flat, and a wrong mask or order unnoticed
        initializer_range=0.4,
        cell_vector_size=cell_vector_size,
    )
    network = MaskedGeneModel(config)
    initialise(network, seed=seed)
    if network.encoder.cell_head is not None:  # as after some training: hidden states have a say
        torch.nn.init.normal_(
            network.encoder.cell_head.out.weight, generator=torch.Generator().manual_seed(seed)
        )
    save_checkpoint(folder, network, vocabulary, {"trained on": "nothing"})
    return folder


def some_counts(n_cells: int, *, seed: int = 0, n_genes: int = N_GENES) -> np.ndarray:
    """``[n_cells, n_genes]`` int64: from few genes to more than the context; row 3 is empty."""
    rng = np.random.default_rng(seed)
    depth = np.geomspace(0.02, 2, n_cells)[rng.permutation(n_cells)]
    dense = rng.poisson(depth[:, None] * rng.gamma(1, 1, (1, n_genes)) + 0.01)
    dense[3 % n_cells] = 0
    return dense
