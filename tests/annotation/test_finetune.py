"""Heads and layers that are trained: against scikit-learn, and bit for bit where none may move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.typed_cells import typed_cells

from cellscribe.annotation.calibration import log_loss
from cellscribe.annotation.held_out import pick
from cellscribe.annotation.labels import Labelled
from cellscribe.annotation.linear import fit_head, fit_linear
from cellscribe.annotation.targets import ClassTarget
from cellscribe.annotation.tuning import (
    CellClassifier,
    add_adapters,
    draw_places,
    merge_adapters,
    predict,
    tune,
)
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import CLS
from cellscribe.cells.pipeline import ranked_blocks
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import FinetuneOptions
from cellscribe.families.base import copy_of
from cellscribe.families.bert.model import Bert
from cellscribe.inference.embedder import load
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import load_checkpoint
from cellscribe.model.heads import Head

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cells(tiny_model: Any) -> dict[str, Any]:
    """Tokens, vectors, classes and donors of ninety cells, and the model that reads them."""
    adata, checkpoint = typed_cells(90), load_checkpoint(tiny_model)
    with open_counts(adata) as counts:
        genes = map_genes(counts.var, checkpoint.vocabulary, name="cells")
        blocks = ranked_blocks(counts, genes, checkpoint.vocabulary, checkpoint.config.context)
        ranked = CellTokens.concatenate(list(blocks))
    vectors = load(tiny_model, device="cpu", precision="float32").embed(adata)
    truth = np.arange(90) % 3
    groups = adata.obs["donor"].to_numpy(dtype=object)
    head = fit_linear(vectors.astype(np.float64), truth, 3, 0.1)
    return locals() | {"head": head, "model": Bert(checkpoint)}


def options(mode: Any, **more: Any) -> FinetuneOptions:
    return FinetuneOptions(label="cell_type", mode=mode, layers=1, epochs=2, **more)


def train(cells: dict[str, Any], chosen: FinetuneOptions, stop: Any = None) -> Any:
    learn = np.arange(60)
    target = ClassTarget(truth=cells["truth"], n_labels=3)
    return tune(
        cells["model"], [cells["head"]], cells["ranked"], [target], learn, stop, chosen,
        epochs=chosen.epochs, device=CPU, dtype=torch.float32,
    )  # fmt: skip


@pytest.mark.parametrize("n_labels", [2, 3])
def test_head_equals_scikit_learn(n_labels: int) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(90) % n_labels
    vectors = rng.normal(3, 1e-2, (90, 6)) + 1e-2 * np.eye(n_labels, 6)[truth]
    vectors[:, 5] = 1.0
    head = fit_linear(vectors, truth, n_labels, 0.1)
    weight, bias = head.folded()
    ours = Head(
        labels=["a", "b", "c"][:n_labels],
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=1.0,
        threshold=0.5,
        about={},
    )
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5_000))
    expected = theirs.fit(vectors, truth).predict_proba(vectors)
    np.testing.assert_allclose(ours.probabilities(vectors), expected, atol=1e-4)


def labelled_as(truth: np.ndarray, groups: np.ndarray) -> Labelled:
    return Labelled(
        rows=[np.arange(len(truth))],
        labels=["a", "b", "c"][: truth.max() + 1],
        truth=truth,
        groups=groups.astype(object),
        sources=[],
        left_out={},
    )


def test_held_out_scores_never_saw_their_group() -> None:
    """Vectors that name the donor and nothing else: known donors are easy, new ones a guess."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(24), 10)
    truth = donor % 2
    vectors = np.eye(24)[donor] + rng.normal(0, 0.01, (240, 24))
    labelled = labelled_as(truth, donor)
    _, grouped, tested = fit_head(vectors, labelled, donor // 2 % 6)
    _, split, _ = fit_head(vectors, labelled, np.arange(240) % 5)
    assert tested.all()
    assert (split.argmax(1) == truth).mean() == 1
    assert (grouped.argmax(1) == truth).mean() < 0.75


def test_a_label_of_one_group_is_learnt_but_tested_nowhere() -> None:
    truth, fold = np.arange(90) % 3, np.arange(90) // 3 % 3
    kept = (truth != 2) | (fold == 1)
    truth, fold = truth[kept], fold[kept]
    vectors = np.random.default_rng(0).normal(size=(len(truth), 5)) + 4 * np.eye(3, 5)[truth]
    head, logits, tested = fit_head(vectors, labelled_as(truth, fold), fold)
    assert (tested == (truth != 2)).all()
    assert np.isneginf(logits[(fold == 1)[tested], 2]).all()
    assert np.isfinite(logits[np.arange(len(logits)), truth[tested]]).all()
    assert (head.logits(vectors)[truth == 2].argmax(1) == 2).mean() > 0.8


def test_the_classifier_reads_what_embed_gives(cells: dict[str, Any]) -> None:
    model = CellClassifier(cells["model"], [cells["head"]]).eval()
    with torch.no_grad():
        vectors = model.model.forward(cells["ranked"], np.arange(20)).numpy()
    np.testing.assert_allclose(vectors, cells["vectors"][:20], atol=1e-5)
    np.testing.assert_allclose(
        predict(model, cells["ranked"], np.arange(90))[0],
        cells["head"].logits(cells["vectors"]),
        atol=1e-3,
    )


@pytest.mark.parametrize("mode", ["last", "all"])
def test_frozen_parameters_stay_bit_for_bit_and_trained_ones_move(
    mode: Any, cells: dict[str, Any]
) -> None:
    done = train(cells, options(mode))
    before, after = cells["model"].network.state_dict(), done.model.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trained = set(before) if mode == "all" else {n for n in before if n.startswith("blocks.1.")}
    assert moved == trained
    assert not np.array_equal(done.model.linear_heads()[0].weight, cells["head"].weight)


def test_training_depends_on_the_seed_alone(cells: dict[str, Any]) -> None:
    chosen = options("all", genes_per_cell=20)
    one, two, other = (
        train(cells, each).model.state_dict() for each in (chosen, chosen, replace(chosen, seed=1))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_training_lowers_the_loss(cells: dict[str, Any]) -> None:
    learn = np.arange(60)
    done = train(cells, replace(options("all", learning_rate=1e-3), epochs=6))
    truth = cells["truth"][learn]
    after = log_loss(predict(done.model, cells["ranked"], learn)[0], truth)
    assert after < log_loss(cells["head"].logits(cells["vectors"][learn]), truth)


def test_the_best_pass_is_kept(cells: dict[str, Any]) -> None:
    """With labels that are wrong on the cells of `stop`, every pass makes it worse there."""
    stop = np.arange(60, 90)
    truth = cells["truth"].copy()
    truth[stop] = (truth[stop] + 1) % 3
    done = train(cells | {"truth": truth}, options("all", learning_rate=3e-3), stop)
    logits = predict(done.model, cells["ranked"], stop)[0]
    assert done.losses[done.epochs] == min(done.losses)
    assert log_loss(logits, truth[stop]) == pytest.approx(min(done.losses))


def test_merged_adapters_give_the_same(cells: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    plain = CellClassifier(cells["model"], [cells["head"]])
    model = CellClassifier(copy_of(cells["model"]), [cells["head"]])
    parts, rows = model.model.trained_parts(), np.arange(20)
    add_adapters(parts, 4)
    torch.manual_seed(0)
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    apart = predict(model, cells["ranked"], rows)[0]
    merge_adapters(parts)
    assert model.network.state_dict().keys() == plain.network.state_dict().keys()
    merged = predict(model, cells["ranked"], rows)[0]
    np.testing.assert_allclose(merged, apart, atol=1e-4)
    assert np.abs(merged - predict(plain, cells["ranked"], rows)[0]).max() > 0.1


def test_a_subset_of_genes_keeps_their_ranks(cells: dict[str, Any]) -> None:
    """Against the network on tokens and positions that are spelt out."""
    ranked, rng, model = cells["ranked"], np.random.default_rng(0), cells["model"]
    rows = np.array([4, 7])
    places = draw_places(ranked, rows, 10, rng)
    assert [len(set(some.tolist())) for some in places] == [10, 10]
    assert all((np.diff(some) > 0).all() for some in places)
    vectors = model.forward(ranked, rows, places)
    for row, some, vector in zip(rows, places, vectors, strict=True):
        tokens = ranked.tokens[ranked.offsets[row] : ranked.offsets[row + 1]].astype(np.int64)
        shown = torch.tensor([[CLS, *tokens[some]]])
        where = Lengths((11,), CPU)
        hidden = model.network(shown, where, torch.tensor([[0, *(some + 1)]]))
        torch.testing.assert_close(vector, hidden[0, 1:].mean(0), rtol=0, atol=1e-5)


def test_picked_cells_are_the_same(cells: dict[str, Any]) -> None:
    ranked, rows = cells["ranked"], np.array([5, 2, 80])
    some = pick(ranked, rows)
    for place, row in enumerate(rows):
        one, same = some.slice(place, place + 1), ranked.slice(row, row + 1)
        np.testing.assert_array_equal(one.tokens, same.tokens)
        assert one.umis == same.umis
