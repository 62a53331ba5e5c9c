"""The peers must do the same work as we do: same tokens, same vectors."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks import peers
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.cells.rank import rank_cells
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.model.checkpoint import save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise

datasets = pytest.importorskip("datasets", reason="needs the dependency group bench")
pytest.importorskip("transformers", reason="needs the dependency group bench")

GENES = [f"ENSG{i:011d}" for i in range(120)]
CONTEXT = 20


@pytest.fixture
def vocabulary() -> Vocabulary:
    # Irrational medians: no two genes of a cell tie.
    return Vocabulary.build(GENES[:100], [""] * 100, np.sqrt(np.arange(2, 102) + 0.1234))


@pytest.fixture
def counts() -> csr_matrix:
    rng = np.random.default_rng(1)
    return csr_matrix(rng.poisson(0.4, size=(1_100, len(GENES))).astype(np.float32))


@pytest.fixture
def source(tmp_path: Path, counts: csr_matrix) -> Path:
    path = tmp_path / "cells.h5ad"
    obs = pd.DataFrame(
        {"n_counts": np.asarray(counts.sum(1)).ravel()},
        index=[str(i) for i in range(counts.shape[0])],
    )
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    return path


def expected_tokens(counts: csr_matrix, vocabulary: Vocabulary, context: int) -> list[np.ndarray]:
    column = np.array([vocabulary.token_of.get(name, -1) for name in GENES], dtype=np.int32)
    ranked = rank_cells(counts, column, vocabulary.medians, context)
    return np.split(ranked.tokens, ranked.offsets[1:-1])


def test_the_loop_ranks_as_our_kernel_does(
    source: Path, counts: csr_matrix, vocabulary: Vocabulary
) -> None:
    ranked = list(peers.rank_cells_one_by_one(source, vocabulary))
    for mine, theirs in zip(expected_tokens(counts, vocabulary, 10_000), ranked, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("cls_token", [True, False])
def test_the_dataset_on_disk_holds_the_cut_tokens(
    source: Path, counts: csr_matrix, vocabulary: Vocabulary, tmp_path: Path, cls_token: bool
) -> None:
    out = tmp_path / "dataset"
    peers.tokenize_peer(
        source, out, vocabulary, context=CONTEXT, cls_token=cls_token, processes=None
    )
    rows = datasets.load_from_disk(str(out))
    expected = expected_tokens(counts, vocabulary, CONTEXT)
    front = [CLS] if cls_token else []
    assert rows["input_ids"][:] == [[*front, *cell.tolist()] for cell in expected]
    assert rows["length"][:] == [len(front) + len(cell) for cell in expected]


def test_a_wrong_rank_is_counted_and_a_tie_is_not(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(GENES[:3], [""] * 3, np.array([1.0, 2.0, 1.0]))
    source = tmp_path / "cells.h5ad"
    # Genes 0 and 1 tie, gene 2 is lower.
    anndata.AnnData(
        csr_matrix(np.tile(np.float32([2, 4, 1]), (3, 1))),
        obs=pd.DataFrame({"n_counts": [7, 7, 7]}, index=list("abc")),
        var=pd.DataFrame(index=GENES[:3]),
    ).write_h5ad(source)
    ours, peer = tmp_path / "ours.parquet", tmp_path / "peer"
    theirs = [[5, 6, 7], [5, 6, 7], [5, 6, 7]]
    datasets.Dataset.from_dict({"input_ids": theirs}).save_to_disk(peer)
    mine = pa.array([[5, 6, 7], [CLS, 6, 5, 7], [7, 5, 6]], pa.list_(pa.uint16()))
    pq.write_table(pa.table({"input_ids": mine}), ours)
    assert peers.compare_tokens(source, ours, peer, vocabulary) == ([3, 3, 3], 1)


def test_the_totals_are_asked_for(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "no_totals.h5ad"
    adata = anndata.AnnData(csr_matrix((2, 2), dtype=np.float32))
    adata.write_h5ad(path)
    with pytest.raises(InputError, match="n_counts"):
        list(peers.rank_cells_one_by_one(path, vocabulary))


@pytest.mark.parametrize("cls_token", [True, False])
def test_a_padded_batch_gives_each_cell_its_own_vector(tmp_path: Path, cls_token: bool) -> None:
    """Compared with BERT run on one cell at a time, where there is nothing to pad or to sort."""
    vocabulary = Vocabulary.build(GENES[:100], [""] * 100, np.ones(100))
    config = ModelConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        context=32,
        cls_token=cls_token,
    )
    network = MaskedGeneModel(config)
    initialise(network, seed=3)
    save_checkpoint(tmp_path / "model", network, vocabulary, {})
    bert = peers.load_bert(tmp_path / "model")
    rng = np.random.default_rng(0)
    cells = [rng.integers(5, len(vocabulary), rng.integers(1, 33)) for _ in range(37)]
    vectors = peers.embed_peer(bert, cells, cls_token=cls_token)
    front = [CLS] if cls_token else []
    for cell, vector in zip(cells, vectors, strict=True):
        with torch.inference_mode():
            hidden = bert(torch.tensor([[*front, *cell.tolist()]])).last_hidden_state
        alone = hidden[0, len(front) :].mean(0).numpy()
        np.testing.assert_allclose(vector, alone, atol=1e-5)
