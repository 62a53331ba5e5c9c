"""A file whose genes were shuffled among its cells is warned of, by the report and by the card."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from support.tiny import real_genes

import cellscribe
from cellscribe.cells.coexpression import GENES
from cellscribe.corpus.card import describe
from cellscribe.report.data_card import checks, warnings

N_CELLS = 400


def cells(folder: Path, name: str, *, shuffled: bool, seed: int) -> Path:
    """Cells whose ribosomal genes share a factor, as in real ones; or do so no more."""
    rng = np.random.default_rng(seed)
    genes = list(dict.fromkeys([*GENES.values(), *real_genes(180)[0]]))
    level = np.full((N_CELLS, len(genes)), 12.0)
    level[:, : len(GENES)] *= np.exp(0.6 * rng.normal(size=(N_CELLS, 1)))
    counts = rng.poisson(level)
    if shuffled:
        counts = rng.permuted(counts, axis=0)
    obs = pd.DataFrame(index=[f"{name}{i}" for i in range(N_CELLS)])
    made = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))
    made.write_h5ad(folder / f"{name}.h5ad")
    return folder / f"{name}.h5ad"


def test_the_card_names_the_source(tmp_path: Path) -> None:
    files = [
        cells(tmp_path, "real", shuffled=False, seed=0),
        cells(tmp_path, "mixed", shuffled=True, seed=1),
    ]
    options = cellscribe.BuildOptions(min_genes=2, genes=150)
    split = cellscribe.SplitOptions(holdout=0)
    corpus = cellscribe.build_corpus(
        files, tmp_path / "corpus", options, split, log=lambda line: None
    )
    card = describe(corpus)
    (found,) = [check for check in checks(card) if "shuffled" in check.name]
    assert not found.passed
    assert "mixed" in found.text and "real.h5ad" not in found.text
    assert any("shuffled" in line for line in warnings(card))


def test_the_card_passes_real_ones(tmp_path: Path) -> None:
    files = [cells(tmp_path, "real", shuffled=False, seed=0)]
    options = cellscribe.BuildOptions(min_genes=2, genes=150)
    split = cellscribe.SplitOptions(holdout=0)
    corpus = cellscribe.build_corpus(
        files, tmp_path / "corpus", options, split, log=lambda line: None
    )
    (found,) = [check for check in checks(describe(corpus)) if "shuffled" in check.name]
    assert found.passed and "mean correlation" in found.text


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_report_warns(shuffled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap")
    from cellscribe.report import embedding_files

    def anywhere(vectors: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(len(vectors), 2))

    monkeypatch.setattr(embedding_files, "umap_coordinates", anywhere)
    page = tmp_path / "report.html"
    done = cellscribe.embed_file(
        cells(tmp_path, "some", shuffled=shuffled, seed=2),
        tmp_path / "out.npy",
        model="mini",
        report=page,
        device="cpu",
        precision="float32",
        log=lambda line: None,
    )
    text = page.read_text()
    assert "mean correlation" in text
    assert ("may have been shuffled" in text) == shuffled
    assert any("may have been shuffled" in line for line in done.warnings) == shuffled
