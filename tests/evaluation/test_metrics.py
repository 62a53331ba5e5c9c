"""Metrics against closed forms, scikit-learn and scib-metrics, and signal against none."""

import numpy as np
import pytest
from support.simulate import simulate

from cellscribe.evaluation.stats import metrics
from cellscribe.evaluation.stats.features import pca

GENES = [f"g{number}" for number in range(300)]
N_BATCHES = 3


def features(*, type_strength=1.0, batch_strength=0.0, cells=600, batches=N_BATCHES):
    """Standard features of simulated cells, with the numbers of their types and batches."""
    adata = simulate(
        GENES,
        cells=cells,
        batches=batches,
        type_strength=type_strength,
        batch_strength=batch_strength,
    )
    labels, batch = (adata.obs[name].cat.codes.to_numpy(int) for name in ("cell_type", "batch"))
    return pca(adata.X, components=20), labels, batch


@pytest.fixture(scope="module")
def mixed():
    return features()


@pytest.fixture(scope="module")
def apart():
    return features(batch_strength=1.5)


def figures(vectors, labels, batches):
    between = metrics.distances(vectors)
    clusters = metrics.cluster(vectors, len(np.unique(labels)), 0)
    rows, _ = metrics.nearest(between, metrics.CONNECTED_NEIGHBOURS)
    return {
        "nmi": metrics.nmi(labels, clusters),
        "ari": metrics.ari(labels, clusters),
        "label_asw": metrics.label_silhouettes(between, labels).mean(),
        "ilisi": metrics.ilisi(metrics.lisi(between, batches), len(np.unique(batches))),
        "kbet": metrics.mean_of_labels(metrics.kbet_by_label(between, labels, batches), labels),
        "graph_connectivity": metrics.mean_of_labels(
            metrics.connected(rows, labels).astype(float), labels
        ),
        "pcr": metrics.explained_by_batch(vectors, batches),
        "bras": metrics.mean_of_labels(metrics.batch_silhouettes(vectors, labels, batches), labels),
    }


def test_types_are_told_from_none(mixed):
    strong = figures(*mixed)
    none = figures(*features(type_strength=0.0))
    assert strong["nmi"] > 0.9 > 0.1 > none["nmi"]
    assert strong["ari"] > 0.9 > 0.1 > none["ari"]
    assert strong["label_asw"] > 0.65 > 0.55 > none["label_asw"]
    assert strong["graph_connectivity"] > 0.9 > 0.6 > none["graph_connectivity"]


def test_batches_are_told_from_none(mixed, apart):
    none, strong = figures(*mixed), figures(*apart)
    assert none["ilisi"] > 0.7 > 0.1 > strong["ilisi"]
    assert none["kbet"] > 0.9 > 0.1 > strong["kbet"]
    assert none["pcr"] < 0.02 < 0.1 < strong["pcr"]
    assert none["bras"] > 0.93 > 0.8 > strong["bras"]


def test_a_type_cut_in_two_by_its_batches_is_not_connected():
    random = np.random.default_rng(0)
    batches = np.arange(120) % 2
    labels = np.repeat([0, 1], 60)
    whole = random.normal(size=(120, 3)) + 50 * labels[:, None]
    cut = whole + np.where(labels == 0, 100 * batches, 0)[:, None]
    found = [figures(vectors, labels, batches)["graph_connectivity"] for vectors in (whole, cut)]
    assert found[0] > 0.95
    assert 0.7 < found[1] < 0.8


def test_distances_and_neighbours_are_those_of_scikit_learn(mixed):
    from sklearn.neighbors import NearestNeighbors

    vectors = mixed[0]
    far = vectors.astype(np.float32) + 1_000
    between = metrics.distances(vectors)
    assert (np.diag(between) == 0).all()
    np.testing.assert_allclose(metrics.distances(far), between, atol=2e-3)
    rows, near = metrics.nearest(between, 12)
    expected_near, expected = NearestNeighbors(n_neighbors=12).fit(vectors).kneighbors(vectors)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(near, expected_near, atol=1e-6)


def test_a_cell_is_its_own_first_neighbour_among_copies():
    between = metrics.distances(np.repeat(np.eye(3), 4, axis=0))
    rows, near = metrics.nearest(between, 4)
    assert rows[:, 0].tolist() == list(range(12))
    np.testing.assert_allclose(near, 0, atol=1e-6)
    assert metrics.nearest(between, 50)[0].shape == (12, 12)


def test_clusters_are_the_labels_where_these_lie_apart():
    labels = np.repeat([0, 1, 2], 20)
    vectors = np.random.default_rng(0).normal(size=(60, 2)) + 40 * np.eye(3, 2)[labels]
    clusters = metrics.cluster(vectors, 3, 0)
    assert metrics.nmi(labels, clusters) == pytest.approx(1)
    assert metrics.ari(labels, clusters) == pytest.approx(1)
    assert metrics.ari(labels, np.arange(60) % 2) == pytest.approx(0, abs=0.05)


def test_vectors_that_are_all_one_say_nothing():
    labels, batches = np.arange(40) % 2, np.repeat([0, 1], 20)
    clusters = metrics.cluster(np.ones((40, 3)), 2, 0)
    assert metrics.nmi(labels, clusters) == 0
    assert np.isnan(metrics.explained_by_batch(np.ones((40, 3)), batches))
    assert (metrics.batch_silhouettes(np.ones((40, 3)), labels, batches) == 1).all()
    assert np.isfinite(metrics.lisi(np.zeros((40, 40)), batches)).all()


def test_silhouette_is_that_of_scikit_learn(mixed):
    from sklearn.metrics import silhouette_score

    vectors, labels, _ = mixed
    found = metrics.label_silhouettes(metrics.distances(vectors), labels).mean()
    assert found == pytest.approx((silhouette_score(vectors, labels) + 1) / 2)


def test_mean_of_labels_counts_rare_ones_as_much():
    labels = np.array([0, 0, 0, 1, 2])
    assert metrics.mean_of_labels(np.array([1.0, 1, 1, 0, np.nan]), labels) == 0.5
    assert np.isnan(metrics.mean_of_labels(np.full(5, np.nan), labels))


def test_lisi_of_cells_at_equal_distances_is_the_simpson_index_of_the_others():
    batches = np.array([0] * 8 + [1] * 3 + [2])
    found = metrics.lisi(metrics.distances(np.eye(12)), batches)
    for batch, size in enumerate((8, 3, 1)):
        others = np.array([8, 3, 1]) - (np.arange(3) == batch)
        expected = 1 / ((others / 11) ** 2).sum()
        np.testing.assert_allclose(found[batches == batch], expected)
        assert size == (batches == batch).sum()


def test_ilisi_runs_from_batches_apart_to_an_even_mix():
    random = np.random.default_rng(0)
    vectors, batches = random.normal(size=(900, 2)), np.arange(900) % 3
    even = metrics.ilisi(metrics.lisi(metrics.distances(vectors), batches), 3)
    cut = vectors + 100 * batches[:, None]
    assert even > 0.85
    assert metrics.ilisi(metrics.lisi(metrics.distances(cut), batches), 3) == pytest.approx(0)


def test_kernel_has_the_wanted_perplexity():
    near = np.sort(np.random.default_rng(0).gamma(2, 30, (50, 89)), axis=1)
    weights = metrics._weights(near - near[:, :1], np.log(30))
    entropy = -(weights * np.log(weights)).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 30, rtol=1e-3)
    assert (np.diff(weights, axis=1) <= 0).all()


def test_kbet_is_the_chi_square_test_of_scipy():
    from scipy.stats import chisquare

    random = np.random.default_rng(0)
    batches = random.choice(3, 200, p=[0.5, 0.3, 0.2])
    rows = np.stack([random.permutation(200)[:30] for _ in range(200)])
    rows[:40] = np.flatnonzero(batches == 0)[:30]
    share = np.bincount(batches) / 200
    expected = [
        chisquare(np.bincount(batches[each], minlength=3), share * 30).pvalue >= 0.05
        for each in rows
    ]
    found = metrics.kbet(rows, batches)
    np.testing.assert_array_equal(found, expected)
    assert not found[:40].any()
    assert found[40:].mean() > 0.9


def test_kbet_does_not_blame_vectors_for_types_of_one_batch():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 200, 100])
    share = np.array([0.2, 0.8, 0.0])[labels]
    batches = (random.random(500) < share).astype(int)
    vectors = random.normal(size=(500, 4)) + 30 * labels[:, None]
    between = metrics.distances(vectors)
    found = metrics.kbet_by_label(between, labels, batches)
    assert np.isnan(found[labels == 2]).all()
    assert metrics.mean_of_labels(found, labels) > 0.9
    assert metrics.kbet(metrics.nearest(between, 40)[0], batches).mean() < 0.2


def test_connected_parts_of_a_graph_by_hand():
    # 0, 1 and 2 know each other; 3 knows 2 but nobody knows 3; 4 and 5 are of another label.
    rows = np.array([[0, 1], [1, 2], [2, 0], [3, 2], [4, 5], [5, 4]])
    labels = np.array([0, 0, 0, 0, 1, 1])
    assert metrics.connected(rows, labels).tolist() == [True, True, True, False, True, True]
    across = np.array([[0, 4], [1, 4], [2, 4], [3, 4], [4, 5], [5, 4]])
    assert metrics.connected(across, labels)[:4].sum() == 1


def test_bras_of_two_batches_is_the_cosine_silhouette(apart):
    from sklearn.metrics import silhouette_samples

    vectors, labels, batches = apart
    batches = batches % 2
    found = metrics.batch_silhouettes(vectors, labels, batches)
    for label in np.unique(labels):
        own = labels == label
        expected = 1 - np.abs(silhouette_samples(vectors[own], batches[own], metric="cosine"))
        np.testing.assert_allclose(found[own], expected, atol=1e-6)


def test_bras_sees_two_pairs_of_batches_that_overlap():
    """What the silhouette by the nearest batch is blind to."""
    from sklearn.metrics import silhouette_samples

    random = np.random.default_rng(0)
    batches = np.arange(400) % 4
    centres = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    vectors = centres[batches] + 0.1 * random.normal(size=(400, 2))
    labels = np.zeros(400, int)
    by_nearest = 1 - np.abs(silhouette_samples(vectors, batches, metric="cosine")).mean()
    assert by_nearest > 0.8
    assert metrics.batch_silhouettes(vectors, labels, batches).mean() < 0.5


def test_labels_without_two_batches_have_no_batch_silhouette():
    vectors = np.random.default_rng(0).normal(size=(30, 3))
    labels, batches = np.repeat([0, 1], 15), np.repeat([0, 1], 15)
    assert np.isnan(metrics.batch_silhouettes(vectors, labels, batches)).all()


def test_variance_by_batch_is_the_regression_of_all_components(apart):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    vectors, _, batches = apart
    pca = PCA().fit(vectors)
    components, hot = pca.transform(vectors), np.eye(N_BATCHES)[batches]
    predicted = LinearRegression().fit(hot, components).predict(hot)
    r2 = r2_score(components, predicted, multioutput="raw_values")
    expected = (r2 * pca.explained_variance_ratio_).sum()
    assert metrics.explained_by_batch(vectors, batches) == pytest.approx(expected)
    assert metrics.explained_by_batch(np.eye(2)[[0, 1, 0, 1]], np.array([0, 1, 0, 1])) == 1


def test_weights_of_cells_are_repetitions(apart):
    vectors, _, batches = apart
    rows = np.random.default_rng(0).integers(0, len(vectors), len(vectors))
    times = np.bincount(rows, minlength=len(vectors)).astype(float)
    expected = metrics.explained_by_batch(vectors[rows], batches[rows])
    assert metrics.explained_by_batch(vectors, batches, times) == pytest.approx(expected)
    assert metrics.explained_by_batch(vectors + 500, batches, times) == pytest.approx(expected)


@pytest.mark.filterwarnings("default")
def test_figures_are_those_of_scib_metrics():
    scib = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from scib_metrics.utils import principal_component_regression

    for strength in (0.2, 1.0):
        vectors, labels, batches = features(type_strength=0.3, batch_strength=strength, cells=400)
        between = metrics.distances(vectors)
        rows, near = metrics.nearest(between, 90)
        neighbours = NeighborsResults(indices=rows, distances=near)
        found = figures(vectors, labels, batches)
        expected = {
            "label_asw": scib.silhouette_label(vectors, labels),
            "ilisi": scib.ilisi_knn(neighbours, batches),
            "graph_connectivity": scib.graph_connectivity(neighbours.subset_neighbors(15), labels),
            "pcr": principal_component_regression(vectors, batches, categorical=True),
            "bras": scib.metrics.bras(vectors, labels, batches),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), abs=1e-4), name
        np.testing.assert_allclose(
            metrics.lisi(between, batches), scib.lisi_knn(neighbours, batches), atol=1e-3
        )
        accepted = scib.kbet(neighbours.subset_neighbors(50), batches)[0]
        assert metrics.kbet(rows[:, :50], batches).mean() == pytest.approx(float(accepted))
