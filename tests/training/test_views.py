"""Two views of a cell: how many counts and genes they keep, and whose draws they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from support.training import SHAPE, SHORT, lines_of, run_training

import cellscribe
from cellscribe.config import BuildOptions, SplitOptions, TrainOptions
from cellscribe.corpus.build.build import build_corpus
from cellscribe.corpus.components import fit_components, read_components
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.errors import InputError
from cellscribe.training import training_counts
from cellscribe.training import views as views_room
from cellscribe.training.masking import MaskedBatch
from cellscribe.training.training_counts import TrainingCounts
from cellscribe.training.views import Views

SAMPLE = Path(training_counts.__file__).parents[1] / "bundled/pbmc3k_sample.h5ad"
HEADED = replace(
    SHAPE, context=1_024, max_position_embeddings=1_025, cell_vector_size=8, cell_scores=8
)
ON = TrainOptions(regression_weight=1.0, contrast_weight=0.3, mlm_probability=0.0)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("corpus") / "out"
    options = BuildOptions(genes=1_500)
    return build_corpus([SAMPLE], out, options, SplitOptions(holdout=0), log=lambda line: None)


@pytest.fixture(scope="module")
def counts(corpus: Corpus) -> TrainingCounts:
    return TrainingCounts(corpus, "views")


def views(corpus: Corpus, cells: np.ndarray, epoch: int = 0, **changes: Any) -> list[list[Any]]:
    """Tokens and places of each view of each cell, without [CLS]: first views, then second."""
    batch = draw(corpus, cells, epoch, **changes)
    ends = np.cumsum(batch.cells.lengths)[:-1]
    shown = batch.tokens_N.numpy().copy()
    shown[batch.chosen_M] = batch.targets_M
    split = [np.split(part, ends) for part in (shown, batch.positions_N.numpy())]
    return [[part[1:] for part in each] for each in split]


def draw(
    corpus: Corpus, cells: np.ndarray, epoch: int, *, whole: bool = False, **changes: Any
) -> MaskedBatch:
    return Views(corpus, HEADED, replace(ON, **changes)).masked(cells, epoch, whole=whole)


def numbers(counts: TrainingCounts, n: int) -> np.ndarray:
    return counts.numbers[:n].copy()


def test_a_view_of_all_counts_is_the_cell(corpus: Corpus, counts: TrainingCounts) -> None:
    cells = numbers(counts, 20)
    tokens, places = views(corpus, cells, least_share=1.0)
    for place, cell in enumerate([*cells, *cells]):
        row = counts.rows(np.array([cell]))
        order = np.argsort(-(row.data / corpus.vocabulary.medians[row.indices]), kind="stable")
        assert sorted(tokens[place]) == sorted(row.indices)
        ranked = row.indices[order]
        value = dict(
            zip(row.indices, row.data / corpus.vocabulary.medians[row.indices], strict=True)
        )
        assert [value[t] for t in tokens[place]] == [value[t] for t in ranked]
        assert places[place].tolist() == list(range(1, len(row.indices) + 1))


def test_views_keep_what_downsampling_keeps(corpus: Corpus, counts: TrainingCounts) -> None:
    """A gene of count c is seen with probability 1 - (1 - p)^c, p being log-uniform."""
    cells = numbers(counts, 150)
    tokens, _ = views(corpus, cells, least_share=0.2, least_counts=1)
    p = np.exp(np.linspace(np.log(0.2), 0, 201))
    expected = [
        np.mean([(1 - (1 - q) ** counts.rows(np.array([cell])).data).sum() for q in p[::10]])
        for cell in cells
    ]
    seen = np.array([len(view) for view in tokens]).reshape(2, -1)
    assert seen.mean() == pytest.approx(np.mean(expected), rel=0.04)
    # independent: cells alike in size do not make the views' shares go together
    shares = seen / np.diff(counts.rows(cells).indptr)
    assert abs(np.corrcoef(shares)[0, 1]) < 0.3


def test_no_view_aims_below_the_least_counts(corpus: Corpus, counts: TrainingCounts) -> None:
    cells = numbers(counts, 30)
    few, _ = views(corpus, cells, least_counts=10**9)
    whole, _ = views(corpus, cells, least_share=1.0)
    assert all((a == b).all() for a, b in zip(few, whole, strict=True))


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_views_may_share_some_genes_only(
    corpus: Corpus, counts: TrainingCounts, shared: float
) -> None:
    cells = numbers(counts, 60)
    tokens, places = views(corpus, cells, least_share=1.0, shared_genes=shared)
    whole, _ = views(corpus, cells, least_share=1.0)
    both = []
    for cell in range(60):
        first, second = set(tokens[cell]), set(tokens[60 + cell])
        assert first | second == set(whole[cell])
        both.append(len(first & second) / len(whole[cell]))
        # at their ranks in the whole view
        assert (whole[cell][places[cell] - 1] == tokens[cell]).all()
    assert np.mean(both) == pytest.approx(shared, abs=0.02)


def test_sizes_are_drawn_between_their_bounds(corpus: Corpus, counts: TrainingCounts) -> None:
    cells = numbers(counts, 100)
    bounds = {"genes_per_cell": 60, "min_genes_per_cell": 20, "least_share": 1.0}
    tokens, places = views(corpus, cells, **bounds)
    sizes = np.array([len(view) for view in tokens])
    assert sizes.min() >= 20 and sizes.max() <= 60
    assert sizes.mean() == pytest.approx(40, abs=3)
    assert all((np.diff(each) > 0).all() for each in places)
    longer, _ = views(corpus, cells, whole=True, **bounds)
    assert [len(view) for view in longer[:100]] == np.diff(counts.rows(cells).indptr).tolist()


def test_a_draw_belongs_to_seed_epoch_cell_and_view(corpus: Corpus, counts: TrainingCounts) -> None:
    cells = numbers(counts, 12)
    some = {"genes_per_cell": 50}
    tokens, _ = views(corpus, cells, **some)
    few, _ = views(corpus, cells[3:5], **some)
    assert [t.tolist() for t in few] == [tokens[i].tolist() for i in (3, 4, 15, 16)]
    for other in ({"seed": 1}, {"epoch": 1}):
        changed, _ = views(corpus, cells, **some, **other)
        assert all(a.tolist() != b.tolist() for a, b in zip(tokens, changed, strict=True))


def test_scores_are_those_of_the_whole_cell(corpus: Corpus, counts: TrainingCounts) -> None:
    """And the axes are those of scikit-learn's PCA, the corpus being one dataset."""
    cells = numbers(counts, 40)
    made = Views(corpus, HEADED, ON)
    dense = counts.at(np.arange(len(counts))).toarray()
    logs = np.log1p(1e4 * dense / dense.sum(1, keepdims=True))
    wanted = PCA(8, svd_solver="full").fit(logs)
    axes = np.zeros((dense.shape[1], 8))
    axes[made.components.tokens] = made.components.loadings
    # the later ones are of nearly one variance, between which any rotation is as good
    angles = subspace_angles(axes[:, :3], wanted.components_[:3].T)
    assert np.degrees(angles).max() < 3
    rows = counts.rows(cells).toarray()
    own = np.log1p(1e4 * rows / rows.sum(1, keepdims=True)) @ axes
    own -= made.components.mean @ made.components.loadings
    batch = made.masked(cells, 0, whole=False)
    assert batch.scores_BK is not None
    np.testing.assert_allclose(
        batch.scores_BK, own * made.components.target_scale, rtol=1e-3, atol=1e-3
    )
    assert batch.scores_BK.square().mean() == pytest.approx(1, abs=0.5)


def test_a_large_dataset_does_not_own_the_axes() -> None:
    """A gene that varies in 400 cells of one dataset, and one that varies in 25 of another."""
    rng = np.random.default_rng(0)
    dense = np.full((425, 40), 50)
    dense[:400, 0] += rng.integers(0, 30, 400)
    dense[400:, 1] += rng.integers(0, 200, 25)
    datasets = np.r_[np.zeros(400, int), np.ones(25, int)]
    found = fit_components(csr_matrix(dense), datasets, 2, seed=0)
    assert abs(found.loadings[1, 0]) > abs(found.loadings[0, 0])


def test_components_are_read_as_they_were_written(corpus: Corpus, tmp_path: Path) -> None:
    made = Views(corpus, HEADED, ON).components
    path = made.save(tmp_path)
    found = read_components(tmp_path)
    assert found is not None
    for name, value in vars(made).items():
        np.testing.assert_array_equal(vars(found)[name], value)
    assert read_components(tmp_path / "elsewhere") is None
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="damaged"):
        read_components(tmp_path)


def test_too_many_components_are_refused() -> None:
    cells = csr_matrix(np.random.default_rng(0).poisson(1.0, (30, 40)))
    assert fit_components(cells, np.zeros(30, int), 5, seed=0).loadings.shape == (40, 5)
    with pytest.raises(InputError, match="30 components cannot be fitted on 30 cells"):
        fit_components(cells, np.zeros(30, int), 30, seed=0)


def test_counts_too_many_for_memory_are_packed_and_mapped(
    corpus: Corpus, counts: TrainingCounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same counts, hence the same views, from files that are made once."""
    own = open_corpus(shutil.copytree(corpus.path, tmp_path / "own"))
    monkeypatch.setattr(training_counts, "MOST_VALUES", 1_000)
    packed = TrainingCounts(own, "views")
    assert isinstance(packed._values, np.memmap)
    cells = numbers(counts, 300)[::-3]
    assert (packed.rows(cells) != counts.rows(cells)).nnz == 0
    assert (packed.rows(cells).indices == counts.rows(cells).indices).all()
    files = sorted((own.path / training_counts.FOLDER).iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    TrainingCounts(own, "views")
    assert [file.stat().st_mtime_ns for file in files] == before
    np.save(own.path / training_counts.FOLDER / "numbers.npy", np.arange(5))
    with pytest.raises(InputError, match="is not of this corpus"):
        TrainingCounts(own, "views")


def test_components_of_a_large_corpus_are_fitted_on_some_cells(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(counts: csr_matrix, datasets: np.ndarray, n: int, *, seed: int) -> Any:
        seen.append(counts.shape[0])
        assert len(datasets) == counts.shape[0]
        return fit_components(counts, datasets, n, seed=seed)

    monkeypatch.setattr(views_room, "MOST_CELLS", 100)
    monkeypatch.setattr(views_room, "fit_components", watched)
    Views(corpus, HEADED, ON)
    assert seen == [100]


def test_a_run_goes_on_with_the_same_bits_and_ends_in_a_model(
    corpus: Corpus, tmp_path: Path
) -> None:
    shape = replace(SHAPE, context=40, cell_vector_size=8, cell_scores=8)
    options = replace(SHORT, regression_weight=1.0, contrast_weight=0.3, min_genes_per_cell=6)
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_training(corpus.path, whole, shape=shape, options=options)
    run_training(corpus.path, run, shape=shape, options=options, steps=6)
    run_training(corpus.path, run, shape=shape, options=options, resume=True)
    for name in ("loss", "regression", "contrast", "gradient_norm"):
        assert [line[name] for line in lines_of(run)] == [line[name] for line in lines_of(whole)]
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()

    model = cellscribe.load(run / "model", device="cpu", precision="float32", threads=1)
    assert "cell head" in model.pooling
    assert model.embed(SAMPLE).shape == (700, 8)
    mean = cellscribe.load(run / "model", device="cpu", pool="genes")
    assert mean.width == shape.hidden_size
    assert read_components(run / "model") is not None
    with pytest.raises(InputError, match="reads the last one; leave it out"):
        cellscribe.load(run / "model", hidden_layer=-2)


def test_a_head_without_the_objective_and_the_objective_without_a_head(
    corpus: Corpus, tmp_path: Path
) -> None:
    shape = replace(SHAPE, context=40, cell_vector_size=8, cell_scores=8)
    run_training(corpus.path, tmp_path / "plain", shape=shape)
    with pytest.raises(InputError, match="it has genes, cls"):
        cellscribe.load(tmp_path / "plain/model", pool="head")
    on = replace(SHORT, contrast_weight=1.0)
    with pytest.raises(InputError, match="set cell_vector_size"):
        run_training(corpus.path, tmp_path / "run", options=on)
    # a model of masked genes alone gets a head, and keeps it
    headed = tmp_path / "headed"
    run_training(corpus.path, headed, shape=shape, options=on, init_from=tmp_path / "plain/model")
    assert cellscribe.load(headed / "model").width == 8
