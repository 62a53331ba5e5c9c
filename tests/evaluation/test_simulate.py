"""Simulated counts hold the truth they claim, and a strength of 0 leaves none of it."""

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support.probe import linear_accuracy
from support.simulate import simulate

from cellscribe.evaluation.stats.features import pca
from cellscribe.evaluation.stats.metrics import explained_by_batch

GENES = [f"ENSG{number:011d}" for number in range(300)]


def readable(adata, column):
    """How well a linear classifier on the standard features reads a column of obs."""
    features = pca(adata.X, components=20)
    return linear_accuracy(features, adata.obs[column].to_numpy(object), folds=3)


def shares_of(adata):
    counts = adata.X.toarray()
    return counts / counts.sum(axis=1, keepdims=True)


def log_change(adata, condition):
    """Log ratio of genes' shares in cells of a condition and in controls."""
    shares = shares_of(adata)
    conditions = adata.obs["condition"].to_numpy()
    means = [shares[conditions == name].mean(axis=0) + 1e-7 for name in (condition, "ctrl")]
    return np.log(means[0] / means[1])


def test_counts_are_raw_and_labels_even():
    adata = simulate(GENES, cells=200, types=4, donors=2, batches=5)
    assert isinstance(adata.X, csr_matrix)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.data.min() >= 1
    assert adata.var_names.tolist() == GENES
    for column, each in (("cell_type", 50), ("donor", 100), ("batch", 40)):
        assert set(adata.obs[column].value_counts()) == {each}
    assert set(adata.obs["condition"]) == {"ctrl"}


def test_same_seed_same_counts_whatever_the_strengths_of_labels():
    first, second = simulate(GENES, cells=80, seed=3), simulate(GENES, cells=80, seed=3)
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    other = simulate(GENES, cells=80, seed=4)
    assert (first.X != other.X).nnz > 0
    weak = simulate(GENES, cells=80, seed=3, type_strength=0.0)
    assert weak.obs.equals(first.obs)
    assert (first.X != weak.X).nnz > 0


def test_library_sizes_are_log_normal_around_the_depth():
    adata = simulate(GENES, cells=2_000, depth=1_500, depth_spread=0.3)
    totals = adata.X.sum(axis=1)
    assert totals.mean() == pytest.approx(1_500, rel=0.05)
    assert np.log(adata.obs["depth"]).std() == pytest.approx(0.3, rel=0.1)
    assert np.corrcoef(np.asarray(totals).ravel(), adata.obs["depth"])[0, 1] > 0.9
    even = simulate(GENES, cells=50, depth_spread=0.0)
    np.testing.assert_allclose(even.obs["depth"], 3_000)


def test_counts_vary_more_than_poisson():
    counts = simulate(GENES, cells=1_000, depth_spread=0.0, type_strength=0.0).X.toarray()
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    common = mean > 5
    assert common.sum() > 50
    dispersion = (variance - mean)[common] / mean[common] ** 2
    assert 0.2 < np.median(dispersion) < 0.4


def test_types_are_as_far_apart_as_their_strength():
    assert readable(simulate(GENES, type_strength=1.0), "cell_type") > 0.95
    assert readable(simulate(GENES, type_strength=0.0), "cell_type") < 0.35
    truth = simulate(GENES, cells=50, type_strength=0.0).uns["truth"]["types"]
    assert not any(shift.any() for shift in truth.values())


def test_type_truth_is_what_cells_show():
    adata = simulate(GENES, cells=1_000, types=2)
    shares = shares_of(adata)
    types = adata.obs["cell_type"].to_numpy()
    seen = np.log(shares[types == "type 0"].mean(axis=0) + 1e-6)
    seen -= np.log(shares[types == "type 1"].mean(axis=0) + 1e-6)
    truth = adata.uns["truth"]["types"]
    assert np.corrcoef(seen, truth["type 0"] - truth["type 1"])[0, 1] > 0.95


@pytest.mark.parametrize("column", ["batch", "donor"])
def test_batches_and_donors_shift_genes_by_their_strength(column):
    numbers = {"batches" if column == "batch" else "donors": 3}
    found = {}
    for strength in (0.0, 1.0):
        adata = simulate(GENES, type_strength=0.0, batch_strength=strength, **numbers)
        values = adata.obs[column].cat.codes.to_numpy()
        found[strength] = explained_by_batch(pca(adata.X), values)
    # Two degrees of freedom of 599 are explained by chance.
    assert found[0.0] < 0.01
    assert found[1.0] > (0.1 if column == "batch" else 0.03)


def test_knocked_down_gene_falls_to_a_fifth_and_targets_follow():
    adata = simulate(GENES, cells=4_000, types=1, knockdowns=4, depth=10_000)
    conditions = adata.obs["condition"].value_counts()
    assert conditions["ctrl"] == 2_000
    truth = adata.uns["truth"]
    assert set(conditions.index) == {"ctrl", *(f"{gene}+ctrl" for gene in truth["knockdowns"])}
    for gene, change in truth["knockdowns"].items():
        regulator = truth["regulators"][gene]
        targets = adata.var_names.get_indexer(regulator["targets"])
        np.testing.assert_allclose(change[targets], np.log(0.2) * regulator["weights"])
        seen = log_change(adata, f"{gene}+ctrl")
        seen -= np.median(seen[change == 0])
        own = adata.var_names.get_loc(gene)
        assert np.exp(seen[own]) == pytest.approx(0.2, rel=0.2)
        assert np.corrcoef(seen[targets], change[targets])[0, 1] > 0.9
        assert np.count_nonzero(change) == len(targets) + 1


def test_knock_down_without_effect_is_a_label_only():
    settings = {"cells": 2_000, "types": 1, "knockdowns": 2}
    for effect, least, most in ((0.0, 0.0, 0.06), (1.0, 0.15, 3.0)):
        adata = simulate(GENES, knockdown_effect=effect, **settings)
        gene = next(iter(adata.uns["truth"]["knockdowns"]))
        common = np.asarray(adata.X.mean(axis=0)).ravel() > 5
        spread = log_change(adata, f"{gene}+ctrl")[common].std()
        assert least <= spread <= most


def test_regulators_of_a_module_do_alike():
    adata = simulate(GENES, cells=20)
    regulators = list(adata.uns["truth"]["regulators"].values())
    signs = {}
    for regulator in regulators:
        for target, weight in zip(regulator["targets"], regulator["weights"], strict=True):
            signs.setdefault(target, set()).add(weight)
    assert all(len(each) == 1 for each in signs.values())
    shared = sum(map(len, (regulator["targets"] for regulator in regulators)))
    assert shared > 1.5 * len(signs)
    assert adata.var["regulator"].sum() == len(regulators)


@pytest.mark.parametrize("n_genes", [20, 30_000])
def test_any_number_of_genes(n_genes):
    adata = simulate([f"g{number}" for number in range(n_genes)], cells=30, knockdowns=3)
    assert adata.shape == (30, n_genes)
    assert len(adata.uns["truth"]["knockdowns"]) == 3
    assert (adata.X.sum(axis=1) > 0).all()


def test_survives_a_file(tmp_path):
    adata = simulate(GENES, cells=40, knockdowns=2)
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    read = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    assert (read.X != adata.X).nnz == 0
    for gene, change in adata.uns["truth"]["knockdowns"].items():
        np.testing.assert_array_equal(read.uns["truth"]["knockdowns"][gene], change)


@pytest.mark.parametrize(
    ("genes", "settings"),
    [(GENES[:5], {}), (["a"] * 40, {}), (GENES, {"cells": 0}), (GENES, {"knockdowns": 200})],
)
def test_nonsense_is_refused(genes, settings):
    with pytest.raises(ValueError, match=r"genes|cells"):
        simulate(genes, **settings)
