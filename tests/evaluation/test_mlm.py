"""The task mlm: beside training's own validation, torch, and what was made up or planted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from evaluation.masked import (
    N_SPECIAL,
    OPTIONS,
    case_of,
    packed,
    scores_of,
    shuffled,
    values,
    vocabulary,
)
from scipy.sparse import csr_matrix
from support.corpus import write_corpus
from support.tiny import CONTEXT, N_GENES, real_genes, save_model, some_counts
from support.training import SHAPE, SHORT, planted_corpus, run_training

from cellscribe.cells.gene_names.vocabulary import MASK, Vocabulary
from cellscribe.config import ModelConfig, TrainOptions
from cellscribe.corpus.store import Corpus, open_corpus
from cellscribe.evaluation.data import Data, read_cells
from cellscribe.evaluation.models import Method, Model, read_models
from cellscribe.evaluation.scores import UnfitError
from cellscribe.evaluation.suite import run_suite
from cellscribe.evaluation.tasks.mlm import baselines, data, masked, task
from cellscribe.evaluation.tasks.mlm.masked import MaskedCells, Prediction, mask, predict_masked
from cellscribe.families.registry import ModelHeader
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise
from cellscribe.training.distributed import Team
from cellscribe.training.objective import Objective
from cellscribe.training.validation import read_validation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus") / "made-up"
    splits = {"train": [100], "val": [40], "test": [20], "test_unseen": [24]}
    return open_corpus(write_corpus(folder, splits))


def save_bert(
    folder: Path, table: Vocabulary, config: ModelConfig = SHAPE, *, head: bool = True
) -> Path:
    network = MaskedGeneModel(replace(config, vocab_size=len(table)))
    initialise(network, seed=4)
    if not head:
        with torch.no_grad():
            network.transform.weight.zero_()
    save_checkpoint(folder, network, table, {"trained on": ["train-0 (9 cells)"]})
    return folder


def data_of(corpus: Corpus) -> Data:
    return Data(name=corpus.path.name, path=corpus.path, corpus=corpus)


# --- masks ---


def test_masks_are_the_cards_and_depend_on_the_seed_alone() -> None:
    cells = packed(shuffled(400, 40, least=20))
    first, again, other = (mask(cells, vocabulary(40), seed) for seed in (0, 0, 1))
    assert np.array_equal(first.given_N, again.given_N)
    assert not np.array_equal(first.given_N, other.given_N)
    np.testing.assert_array_equal(np.diff(first.bounds), np.rint(0.15 * cells.lengths_B))
    shares = np.bincount(first.corruptions_M, minlength=3) / len(first.chosen_M)
    # 1,800 places: three standard deviations are 0.03
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    same = np.setdiff1d(np.arange(len(first.given_N)), first.chosen_M)
    np.testing.assert_array_equal(first.given_N[same], cells.tokens_N[same])
    for cell in (0, 7):
        start, end = first.bounds[cell : cell + 2]
        everything = [*first.visible(cell), *first.targets_M[start:end]]
        start, end = cells.offsets[cell : cell + 2]
        assert sorted(everything) == sorted(cells.tokens_N[start:end])


# --- networks ---


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("sep_token", [True, False])
def test_a_network_is_read_as_torch_reads_it(cls_token: bool, sep_token: bool) -> None:
    """One cell after the other, all logits at once, and torch's own cross-entropy."""
    table = vocabulary(40)
    config = replace(
        SHAPE, vocab_size=len(table), cls_token=cls_token, sep_token=sep_token,
        num_hidden_layers=2, initializer_range=0.3,
    )  # fmt: skip
    network = MaskedGeneModel(config).eval()
    initialise(network, 1)
    with torch.no_grad():
        network.bias.copy_(torch.randn(len(table), generator=torch.Generator().manual_seed(0)))
    masked_cells = mask(packed(shuffled(20, 40)), table, 2)
    around = table.around(cls_token, sep_token)
    prediction = predict_masked(network, masked_cells, around, N_SPECIAL, threads=2)
    for cell in range(20):
        start, end = masked_cells.ranked.offsets[cell : cell + 2]
        tokens = torch.tensor([*around[0], *masked_cells.given_N[start:end], *around[1]])
        here = slice(masked_cells.bounds[cell], masked_cells.bounds[cell + 1])
        places = masked_cells.chosen_M[here] - start + len(around[0])
        with torch.no_grad():
            logits = network(tokens[None], Lengths((len(tokens),), torch.device("cpu")))[0, places]
        targets = torch.from_numpy(masked_cells.targets_M[here])
        losses = F.cross_entropy(logits, targets, reduction="none")
        np.testing.assert_allclose(prediction.losses_M[here], losses.numpy(), rtol=1e-4, atol=1e-5)
        order = logits[:, N_SPECIAL:].argsort(1, descending=True) + N_SPECIAL
        above = (order == targets[:, None]).nonzero()[:, 1]
        np.testing.assert_array_equal(prediction.above_M[here], above.numpy())
    assert (prediction.ties_M == 1).all()


def test_the_loss_is_that_of_trainings_validation(corpus: Corpus, tmp_path: Path) -> None:
    options = replace(OPTIONS, max_cells=50)
    models = read_models([save_bert(tmp_path / "bert", corpus.vocabulary)], options)
    cases = {p.name: p for p in task.load(data_of(corpus), models, options)}
    assert list(cases) == ["made-up val", "made-up test", "made-up test_unseen"]
    checkpoint = load_checkpoint(tmp_path / "bert")
    # so few cells that which are read counts too
    for seed, n_cells in ((0, 40), (1, 40), (0, 15)):
        training = TrainOptions(seed=seed, validation_cells=n_cells, micro_batch=8)
        validation = read_validation(corpus, checkpoint.config, training, Team())
        wanted = validation.losses(Objective(checkpoint.model), torch.device("cpu"), Team())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "CELLS", n_cells)
            posed = {p.name: p for p in task.load(data_of(corpus), models, options)}
        for split, loss in wanted.items():
            case = posed[f"made-up {split}"]
            (method,) = task.methods(case, models[0])
            scores = task.score(case, method.predict(), seed)
            assert scores.estimates["loss"].value == pytest.approx(loss, abs=1e-4)
            # cells differ in length: the other mean is another number
            assert abs(scores.estimates["loss_per_token"].value - loss) > 1e-4


def test_random_weights_know_nothing_and_training_teaches(tmp_path: Path) -> None:
    folder = planted_corpus(tmp_path / "corpus")
    training = replace(
        SHORT, schedule_steps=100, global_batch=20, micro_batch=20, genes_per_cell=None,
        full_length_steps=0, learning_rate=5e-3, warmup_steps=10, validate_every=100,
    )  # fmt: skip
    trained = run_training(folder, tmp_path / "run", options=training)
    assert trained is not None
    models = read_models([trained], OPTIONS)
    for case in task.load(data_of(open_corpus(folder)), models, OPTIONS):
        found = {name: values(each) for name, each in scores_of(case).items()}
        ours, twin = (found[model.name] for model in models)
        assert twin["loss"] == pytest.approx(math.log(155), rel=0.02)
        assert twin["top1"] < 0.1
        assert ours["loss"] < found[baselines.RANK]["loss"] - 0.2
        assert found[baselines.RANK]["loss"] < found[baselines.UNIGRAM]["loss"] - 0.5
        assert ours["top1"] > found[baselines.RANK]["top1"]


def test_the_twin_has_a_new_head_as_well(corpus: Corpus, tmp_path: Path) -> None:
    models = read_models([save_bert(tmp_path / "bert", corpus.vocabulary)], OPTIONS)
    case = task.load(data_of(corpus), models, OPTIONS)[0]
    found: dict[str, Prediction] = {}
    for model in (models[1], Model(**{**vars(models[1]), "random": False})):
        (method,) = task.methods(case, model)
        found[method.kind] = method.predict()(case.masked_cells(0))
    assert not np.allclose(found["random"].losses_M, found["model"].losses_M)
    network = load_checkpoint(tmp_path / "bert").model
    initialise(network, seed=OPTIONS.seed + 1)
    prediction = predict_masked(network, case.masked_cells(0), ((0,), ()), N_SPECIAL)
    np.testing.assert_allclose(found["random"].losses_M, prediction.losses_M, rtol=1e-5)


# --- scores ---


def told_by(rule: Callable[[MaskedCells], np.ndarray]) -> Callable[[MaskedCells], Prediction]:
    def predict(masked_cells: MaskedCells) -> Prediction:
        losses = rule(masked_cells)
        n = len(losses)
        return Prediction(
            losses_M=losses, above_M=np.zeros(n, np.int64), ties_M=np.ones(n, np.int64)
        )

    return predict


def test_who_knows_everything_loses_nothing() -> None:
    case = case_of(shuffled(30, 40), 40, shuffled(5, 40))
    scores = task.score(case, told_by(lambda q: np.zeros(len(q.chosen_M))), 0)
    losses = dict.fromkeys(("masked_loss", "loss", "loss_per_token"), 0)
    assert values(scores) == losses | {"top1": 1, "top5": 1}
    for estimate in scores.estimates.values():
        assert estimate.low == estimate.value == estimate.high


def test_hits_among_ties_are_expected_ones() -> None:
    prediction = Prediction(losses_M=np.zeros(5), above_M=np.array([0, 0, 4, 5, 3]),
                ties_M=np.array([1, 4, 1, 1, 4]))  # fmt: skip
    assert prediction.hits_M(1).tolist() == [1, 0.25, 0, 0, 0]
    assert prediction.hits_M(5).tolist() == [1, 1, 1, 0, 0.5]


def test_breakdowns_recombine_to_the_totals() -> None:
    """Losses are made up of everything that breakdowns look at."""
    case = case_of(shuffled(200, 150), 150, shuffled(5, 150))
    q = case.masked_cells(0)
    lengths = q.ranked.lengths_B
    losses = 1.0 * q.corruptions_M + q.ranks_M / 50 + lengths[q.cells_M] / 100
    scores = task.score(case, told_by(lambda _: losses), 0)
    means = np.array([losses[q.cells_M == cell].mean() for cell in range(200)])
    assert values(scores)["loss"] == pytest.approx(means.mean(), rel=1e-12)
    assert values(scores)["loss_per_token"] == pytest.approx(losses.mean(), rel=1e-12)
    masked = [(q.cells_M == cell) & (q.given_N[q.chosen_M] == MASK) for cell in range(200)]
    of_masked = [losses[here].mean() for here in masked if here.any()]
    assert len(of_masked) < 200, "of some short cells nothing is masked"
    assert values(scores)["masked_loss"] == pytest.approx(np.mean(of_masked), rel=1e-12)
    rows = scores.breakdowns
    assert list(rows["by corruption"]) == ["mask", "random", "kept"]
    assert list(rows["by rank"]) == ["1–10", "11–30", "31–100", "101–300"]
    assert list(rows["by length"]) == ["1–100", "101–300"]
    n_kind = np.bincount(q.corruptions_M)
    n_rank = np.histogram(q.ranks_M + 1, [1, 11, 31, 101, 301])[0]
    n_length = np.histogram(lengths, [1, 101, 301])[0]
    for title, counts, total in (
        ("by corruption", n_kind, losses.mean()),
        ("by rank", n_rank, losses.mean()),
        ("by length", n_length, means.mean()),
    ):
        row = list(rows[title].values())
        assert row == sorted(row), "each was made to rise"
        assert np.average(row, weights=counts) == pytest.approx(total, rel=1e-12)
    curve = scores.curves["loss by rank"]
    assert curve.x[0] == 1
    assert curve.x == sorted(curve.x)
    assert len(curve.x) == len(curve.y) > 10
    first = losses[q.ranks_M == 0]
    assert curve.y[0] == pytest.approx(first.mean(), rel=1e-12)


def test_intervals_hold_the_figure_and_narrow_with_more_cells() -> None:
    widths = []
    for n_cells in (20, 500):
        case = case_of(shuffled(n_cells, 40, least=10), 40, shuffled(5, 40))
        scores = task.score(case, told_by(lambda q: 1.0 * q.ranks_M), 0)
        for estimate in scores.estimates.values():
            assert estimate.low <= estimate.value <= estimate.high
        for name in ("loss", "loss_per_token"):
            widths.append(scores.estimates[name].high - scores.estimates[name].low)
    assert widths[2] < widths[0] / 2
    assert widths[3] < widths[1] / 2


# --- cases ---


def file_of(n_cells: int = 60) -> Data:
    counts = ad.AnnData(csr_matrix(some_counts(n_cells).astype(np.float32)))
    counts.var_names = real_genes(N_GENES)[0]
    cells = read_cells(counts, OPTIONS, name="cells")
    return Data(name="cells", path=Path("cells.h5ad"), cells=cells)


def test_a_file_is_read_as_the_model_reads_it(tiny_model: Path) -> None:
    models = read_models([tiny_model], OPTIONS)
    data = file_of()
    (case,) = task.load(data, models, OPTIONS)
    assert case.name == "cells"
    assert case.models == models
    assert case.provenance.names == {"cells"}
    # one of them is empty
    assert case.about["cells"] == 59
    assert case.about["cells without a known gene"] == 1
    assert data.cells is not None
    bert = models[0].embedder.cells
    genes = models[0].header.map_genes(data.cells.var)
    theirs = bert.tokenize(data.cells.counts, genes.token)
    np.testing.assert_array_equal(case.ranked.tokens_N, theirs.tokens)
    assert 3 not in case.ranked.numbers_B
    assert case.ranked.lengths_B.max() == CONTEXT
    assert case.identity["data"] == data.cells.hash


def test_what_differs_in_reading_is_a_problem_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_model)
    for name, changed in (("short", {"context": 20}), ("bare", {"cls_token": False})):
        config = replace(checkpoint.config, **changed)
        network = MaskedGeneModel(config)
        initialise(network, 0)
        save_checkpoint(tmp_path / name, network, checkpoint.vocabulary, {})
    models = read_models([tiny_model, tmp_path / "short", tmp_path / "bare"], OPTIONS)
    cases = task.load(file_of(), models, OPTIONS)
    assert [p.name for p in cases] == [
        "cells (context 48, [CLS])",
        "cells (context 20, [CLS])",
        "cells (context 48, no [CLS])",
    ]
    assert [[m.name.split(",")[0] for m in p.models] for p in cases] == [
        [name] * 2 for name in ("tiny", "short", "bare")
    ]
    assert len({str(p.identity) for p in cases}) == 3


def test_provenance_of_a_split(corpus: Corpus, tmp_path: Path) -> None:
    models = read_models([save_bert(tmp_path / "bert", corpus.vocabulary)], OPTIONS)
    for case in task.load(data_of(corpus), models, OPTIONS):
        split = case.name.split()[1]
        table = pq.read_table(corpus.token_files(split)[0]).to_pandas()
        hashes = table.set_index("cell").loc[case.ranked.numbers_B, "cell_hash"]
        assert case.provenance.hashes is not None
        np.testing.assert_array_equal(case.provenance.hashes, hashes)
        assert case.provenance.names == set(table["dataset_id"])
    # a dataset with other cells in train does not mark a model by its name
    corpus.manifest["datasets"]["val-0"]["side"] = "train"
    origin = data._provenance(corpus, "val", np.arange(100, 140))
    corpus.manifest["datasets"]["val-0"]["side"] = "holdout"
    assert origin.names == {"val-1", "val-2"}


def test_baselines_of_a_corpus_are_counted_in_its_training_cells(
    corpus: Corpus, tmp_path: Path
) -> None:
    models = read_models([save_bert(tmp_path / "bert", corpus.vocabulary)], OPTIONS)
    case = task.load(data_of(corpus), models, OPTIONS)[0]
    ((cells, counts),) = case.count(5)
    assert cells.all()
    train = pq.read_table(corpus.token_files("train")[0])["input_ids"].to_pylist()
    wanted = Counter(gene for cell in train for gene in cell)
    assert {gene: n for gene, n in enumerate(counts.sum(0)) if n} == wanted


# --- what does not fit ---


def test_models_without_a_head_are_told_so(corpus: Corpus, tmp_path: Path) -> None:
    bert = save_bert(tmp_path / "bert", corpus.vocabulary)
    bare = save_bert(tmp_path / "bare", corpus.vocabulary, head=False)
    models = read_models([bert, bare], OPTIONS)
    other = models[0].header
    header = ModelHeader(name="scgpt", directory=other.directory, family="scgpt",
                         table=other.table, provenance={})  # fmt: skip
    stranger = Model(name="scgpt", path="", options=OPTIONS, header=header)
    cases = task.load(data_of(corpus), [*models, stranger], OPTIONS)
    assert [len(p.models) for p in cases] == [4, 3, 3]
    with pytest.raises(UnfitError, match="bare is left out: it came without a masked-gene head"):
        task.methods(cases[0], models[1])
    with pytest.raises(UnfitError, match="scgpt is left out: mlm asks BERTs of ranked genes"):
        task.methods(cases[0], stranger)
    methods: list[Method] = task.methods(cases[0], models[0])
    assert [(m.name, m.kind) for m in methods] == [("bert", "model")]
    with pytest.raises(UnfitError, match=r"no model is one \(scgpt\)"):
        task.load(data_of(corpus), [stranger], OPTIONS)


def test_a_corpus_of_other_genes_and_one_without_a_holdout(
    corpus: Corpus, tiny_model: Path, tmp_path: Path
) -> None:
    strangers = read_models([tiny_model], OPTIONS)
    with pytest.raises(UnfitError, match="no model has the corpus's gene table"):
        task.load(data_of(corpus), strangers, OPTIONS)
    ours = read_models([save_bert(tmp_path / "bert", corpus.vocabulary)], OPTIONS)
    case, *_ = task.load(data_of(corpus), [*ours, *strangers], OPTIONS)
    with pytest.raises(UnfitError, match="tiny is left out: its gene table"):
        task.methods(case, strangers[0])
    whole = open_corpus(write_corpus(tmp_path / "whole", {"train": [60]}))
    with pytest.raises(UnfitError, match="all cells are for training"):
        task.load(data_of(whole), ours, OPTIONS)


def test_a_file_of_too_few_cells(tiny_model: Path) -> None:
    with pytest.raises(UnfitError, match="8 cells show a gene that tiny knows"):
        task.load(file_of(9), read_models([tiny_model], OPTIONS), OPTIONS)


def test_the_suite_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path / "tiny")
    cells = file_of().cells
    assert cells is not None
    cells.adata.write_h5ad(tmp_path / "cells.h5ad")
    options = replace(OPTIONS, seeds=2)
    arguments = ([model], [tmp_path / "cells.h5ad"], tmp_path / "out", options, ["mlm"])
    results = run_suite(*arguments)
    assert len(results) == 2 * (2 + len(task.BASELINES))
    assert {r.method for r in results} == {"tiny", "tiny, random weights", *task.BASELINES}
    losses = {r.seed: r.scores.estimates["loss"].value for r in results if r.method == "tiny"}
    assert losses[0] != losses[1]
    # all is on disk now: nothing is predicted again
    monkeypatch.setattr(task, "score", None)
    monkeypatch.setattr(masked, "mask", None)
    again = run_suite(*arguments)
    assert [r.scores.estimates for r in again] == [r.scores.estimates for r in results]
