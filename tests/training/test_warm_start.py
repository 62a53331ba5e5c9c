"""Weights counted from cells, on cells with a planted structure."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from cellscribe.cells.gene_names.vocabulary import PAD
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ModelConfig
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.warm_start import LENGTH, gene_vectors, start_from_cells

N_SPECIAL, N_GENES, N_CELLS, WIDTH = 5, 40, 600, 8
VOCABULARY = N_SPECIAL + N_GENES + 1
NEVER_SEEN = VOCABULARY - 1
FIRST, SECOND = np.arange(5, 25), np.arange(25, 45)


def as_ranked(cells: list[np.ndarray]) -> CellTokens:
    lengths = np.array([len(cell) for cell in cells])
    zeros = np.zeros(len(cells), dtype=np.int64)
    return CellTokens(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        umis=zeros,
        umis_known=zeros,
        genes=zeros.astype(np.int32),
        genes_known=zeros.astype(np.int32),
    )


@pytest.fixture(scope="module")
def cells() -> CellTokens:
    """Half of the cells show mostly the first 20 genes, the others mostly the second 20."""
    rng = np.random.default_rng(0)
    out = []
    for cell in range(N_CELLS):
        common, rare = (FIRST, SECOND) if cell % 2 else (SECOND, FIRST)
        shown = [common[rng.random(20) < 0.6], rare[rng.random(20) < 0.1]]
        out.append(rng.permutation(np.concatenate(shown)))
    return as_ranked(out)


def test_genes_of_a_group_lie_together(cells: CellTokens) -> None:
    vectors = gene_vectors(cells, VOCABULARY, WIDTH, seed=0)
    unit = vectors[5:45] / np.linalg.norm(vectors[5:45], axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, np.nan)
    same = np.repeat([0, 1], 20)[:, None] == np.repeat([0, 1], 20)
    for gene in range(40):
        assert np.nanmean(cosine[gene][same[gene]]) > np.nanmean(cosine[gene][~same[gene]]) + 0.2
    # the planted groups are the first axis, with a sign each
    assert len(set(np.sign(vectors[FIRST, 0]))) == 1
    assert (np.sign(vectors[FIRST, 0]) == -np.sign(vectors[SECOND, 0])).all()


def test_vectors_have_the_length_they_should(cells: CellTokens) -> None:
    vectors = gene_vectors(cells, VOCABULARY, WIDTH, seed=0)
    assert vectors.shape == (VOCABULARY, WIDTH)
    assert math.sqrt((vectors**2).mean()) == pytest.approx(LENGTH)
    np.testing.assert_allclose(vectors[[*range(5), NEVER_SEEN]], 0, atol=1e-12)
    np.testing.assert_array_equal(gene_vectors(cells, VOCABULARY, WIDTH, seed=0), vectors)


def test_axes_are_those_of_a_dense_decomposition(cells: CellTokens) -> None:
    shown = np.zeros((N_CELLS, VOCABULARY))
    for cell in range(N_CELLS):
        shown[cell, cells.tokens[cells.offsets[cell] : cells.offsets[cell + 1]]] = 1
    scaled = shown / np.sqrt(shown.sum(1, keepdims=True)) / np.sqrt(shown.sum(0) + 100)
    _, values, axes = np.linalg.svd(scaled, full_matrices=False)
    expected = axes[1] * np.sqrt(values[1])
    ours = gene_vectors(cells, VOCABULARY, WIDTH, seed=3)[:, 0]
    cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
    assert abs(cosine) > 0.9999


def test_start_adds_vectors_and_log_frequencies(cells: CellTokens) -> None:
    model = MaskedGeneModel(
        ModelConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=50,
            context=49,
        )
    )
    initialise(model, 1)
    noise = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_cells(model, cells, seed=0)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], noise[name])}
    assert changed == {"bias", "encoder.genes.weight"}
    added = after["encoder.genes.weight"] - noise["encoder.genes.weight"]
    vectors = torch.from_numpy(gene_vectors(cells, VOCABULARY, WIDTH, seed=0)).float()
    torch.testing.assert_close(added, vectors, rtol=0, atol=1e-7)
    assert added[PAD].abs().max() < 1e-7
    # counted in plain Python; what is never seen counts as seen once
    seen = Counter(cells.tokens.tolist())
    counts = [max(1, seen[token]) for token in range(VOCABULARY)]
    expected = [math.log(count / sum(counts)) for count in counts]
    np.testing.assert_allclose(after["bias"].numpy(), expected, rtol=1e-5)
    assert float(after["bias"].exp().sum()) == pytest.approx(1.0)
