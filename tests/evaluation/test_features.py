"""Features of baselines: each against an independent way of computing it, or a planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import silhouette_score
from support.probe import linear_accuracy
from support.simulate import simulate
from support.tiny import real_genes

from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.data import Cells, read_cells
from cellscribe.evaluation.stats.features import (
    harmony,
    hvg,
    log_norm,
    most_variable,
    pca,
    scvi_latent,
)


def some_counts(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.negative_binomial(1, 0.3, (60, 80)) * (rng.random(80) < rng.random((60, 80)))


def simulated(**settings: object) -> Cells:
    adata = simulate(real_genes(150)[0], cells=240, types=3, seed=1, **settings)  # type: ignore[arg-type]
    return read_cells(adata, EvaluateOptions())


def test_log_norm_gives_every_cell_one_sum() -> None:
    counts = some_counts()
    counts[7] = 0
    logs = log_norm(csr_matrix(counts), target=500.0)
    sums = np.expm1(logs.toarray()).sum(axis=1)
    np.testing.assert_allclose(np.delete(sums, 7), 500.0)
    assert sums[7] == 0


def test_log_norm_keeps_what_it_is_given() -> None:
    counts = csr_matrix(some_counts().astype(np.float32))
    before = counts.data.copy()
    log_norm(counts)
    np.testing.assert_array_equal(counts.data, before)


def test_most_variable_are_those_of_the_highest_variance() -> None:
    logs = log_norm(csr_matrix(some_counts()))
    chosen = most_variable(logs, 20)
    variance = logs.toarray().var(axis=0)
    assert (np.diff(chosen) > 0).all()
    assert variance[chosen].min() >= np.delete(variance, chosen).max()


def test_hvg_are_columns_of_the_normalised_counts() -> None:
    counts = csr_matrix(some_counts())
    logs = log_norm(counts).toarray()
    np.testing.assert_allclose(hvg(counts, 20), logs[:, most_variable(log_norm(counts), 20)])
    np.testing.assert_allclose(hvg(counts), logs)


def test_pca_gives_no_more_components_than_there_can_be() -> None:
    assert pca(csr_matrix(some_counts()[:12]), 50).shape == (12, 12)
    assert pca(csr_matrix(some_counts()), 50, genes=9).shape == (60, 9)


def test_harmony_mixes_batches_and_keeps_types() -> None:
    pytest.importorskip("harmonypy")
    cells = simulated(batches=2, batch_strength=0.7)
    batch = cells.obs["batch"].to_numpy()
    before = pca(cells.counts, 10)
    after = harmony(before, batch)
    assert after.shape == before.shape
    assert silhouette_score(before, batch) > 0.08
    assert silhouette_score(after, batch) < 0.5 * silhouette_score(before, batch)
    types = cells.obs["cell_type"].to_numpy()
    assert silhouette_score(after, types) > silhouette_score(before, types)
    np.testing.assert_array_equal(harmony(before, batch), after)


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellscribe.evaluation.stats.features.SCVI_EPOCHS", 20)


@pytest.mark.usefixtures("few_epochs")
def test_scvi_finds_types_silently_and_leaves_the_seeds_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("scvi")
    import torch

    cells = simulated(type_strength=1.5)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    latent = scvi_latent(cells, seed=3)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.random(3), expected[1])  # noqa: NPY002
    assert capfd.readouterr() == ("", "")
    assert latent.shape == (240, 10)
    types = cells.obs["cell_type"].to_numpy(dtype=object)
    assert linear_accuracy(latent, types) > 0.8
    np.testing.assert_array_equal(scvi_latent(cells, seed=3), latent)


@pytest.mark.usefixtures("few_epochs")
def test_scvi_gives_zeros_to_a_cell_without_counts_and_takes_batches() -> None:
    pytest.importorskip("scvi")
    cells = simulated(batches=2, batch_strength=2.0)
    counts = cells.counts.copy()
    counts.data[counts.indptr[4] : counts.indptr[5]] = 0
    emptied = Cells(
        name="made up", counts=csr_matrix(counts), obs=cells.obs, var=pd.DataFrame(cells.var),
        gene_key=None, n_in_file=cells.n_cells,
    )  # fmt: skip
    batch = cells.obs["batch"].to_numpy(dtype=object)
    latent = scvi_latent(emptied, batch)
    assert np.isfinite(latent).all()
    assert (latent[4] == 0).all()
    assert (latent[np.arange(240) != 4] != 0).any(axis=1).all()
    blind = scvi_latent(emptied)
    assert silhouette_score(latent, batch) < silhouette_score(blind, batch)


def dense_pca(counts: np.ndarray, genes: int, components: int) -> np.ndarray:
    """scanpy's normalize_total, log1p, most variable by plain variance, pca; on dense numbers."""
    totals = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / np.where(totals > 0, totals, 1) * 1e4)
    most = np.argsort(logs.var(axis=0))[::-1][:genes]
    centred = logs[:, most] - logs[:, most].mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :components] * values[:components]


@pytest.mark.parametrize(("genes", "dtype"), [(30, np.float32), (80, np.int32), (500, np.uint16)])
def test_pca_equals_the_dense_way(genes: int, dtype: type) -> None:
    rng = np.random.default_rng(5)
    counts = rng.negative_binomial(1, 0.3, (60, 80)) * (rng.random(80) < rng.random((60, 80)))
    counts[7] = 0  # an empty cell
    ours = pca(csr_matrix(counts.astype(dtype)), genes=genes, components=6)
    expected = dense_pca(counts.astype(np.float64), genes, 6)
    assert ours.shape == (60, 6)
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-8)


def test_pca_does_not_see_depth() -> None:
    counts = csr_matrix(np.random.default_rng(6).poisson(2.0, (40, 50)))
    deeper = csr_matrix(counts.multiply(np.arange(1, 41)[:, None]))
    np.testing.assert_allclose(
        np.abs(pca(deeper, components=5)),
        np.abs(pca(counts, components=5)),
        atol=1e-8,
    )
