"""Real cells express ribosomal genes together, shuffled ones do not; few cells say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from cellscribe.cells.coexpression import GENES, THRESHOLD, coexpression
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import human_genes

IDS = [*GENES.values(), *(f"gene{i}" for i in range(60))]


def made(n_cells: int, *, together: float, depth: float = 60.0, seed: int = 0) -> sp.csr_matrix:
    """Cells whose ribosomal genes share a factor of so much (log) spread."""
    rng = np.random.default_rng(seed)
    level = np.full((n_cells, len(IDS)), depth)
    level[:, : len(GENES)] *= np.exp(together * rng.normal(size=(n_cells, 1)))
    return sp.csr_matrix(rng.poisson(level))


def shuffled(counts: sp.csr_matrix, seed: int = 0) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(seed).permuted(counts.toarray(), axis=0))


def test_the_genes_are_those_of_the_table() -> None:
    table = human_genes().set_index("ensembl_id")["symbol"]
    assert {symbol: gene for symbol, gene in GENES.items() if table[gene] == symbol} == GENES


def test_one_cluster_is_numpys_correlation_of_log_normalised_counts() -> None:
    counts = made(250, together=0.5)
    dense = counts.toarray().astype(float)
    logs = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))[:, : len(GENES)]
    pairs = [np.corrcoef(logs[:, i], logs[:, j])[0, 1] for i in range(len(GENES)) for j in range(i)]
    found = coexpression(counts, IDS)
    assert found.correlation == pytest.approx(np.mean(pairs))
    assert found.n_cells == 250 and found.n_genes == len(GENES)
    assert not found.warning and "0.15" in found.sentence


def test_shuffled_genes_are_warned_of() -> None:
    found = coexpression(shuffled(made(600, together=0.5)), IDS)
    assert found.correlation is not None and abs(found.correlation) < THRESHOLD
    assert "shuffled" in found.warning


@pytest.mark.parametrize(
    ("counts", "ids", "reason"),
    [
        (made(150, together=0), IDS, "150 cells"),
        (made(300, together=0, depth=1.0), IDS, "too few"),
        (made(300, together=0), [f"ENSMUSG{i:011}" for i in range(len(IDS))], "0 of the 12 human"),
        (made(300, together=0)[:, 6:], IDS[6:], "6 of the 12 human genes"),
    ],
)
def test_what_cannot_be_judged_is_not_warned_of(
    counts: sp.csr_matrix, ids: list[str], reason: str
) -> None:
    found = coexpression(counts, ids)
    assert found.correlation is None and not found.warning
    assert reason in found.reason and "not judged" in found.sentence


@pytest.mark.parametrize("name", ["pbmc3k_10x", "lung_hlca_query_delorey", "pbmc_facs_zheng2017"])
def test_real_cells_and_the_same_cells_shuffled(name: str, shared_data: Path) -> None:
    with open_counts(shared_data / f"{name}.h5ad") as opened:
        counts = next(opened.blocks(1_500))
        ids = opened.var["ensembl_id"].astype(str).tolist()
    real = coexpression(counts, ids)
    assert real.correlation is not None and real.correlation > 2 * THRESHOLD
    # the commonest genes are enough, and quick to shuffle
    often = np.argsort(-np.asarray(counts.sum(axis=0)).ravel())[:2_000]
    mixed = coexpression(shuffled(counts[:, often]), [ids[gene] for gene in often])
    assert mixed.correlation is not None and mixed.correlation < THRESHOLD
    assert mixed.warning and not real.warning
