"""The baselines: CellTypist's recipe against CellTypist itself, and the way counts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.typed_cells import typed_cells

from cellscribe.annotation.labels import read_labels
from cellscribe.annotation.peers import (
    PENALTIES,
    celltypist_scores,
    heavy_genes,
    one_against_the_rest,
    read_logs,
    regression_scores,
    standardised_and_cut,
)
from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.log_norm import log_norm
from cellscribe.inference.session import Cells
from cellscribe.model.checkpoint import load_checkpoint

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "celltypist.json").read_text())
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=sorted(GOLDEN["sets"]))
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    kept = GOLDEN["sets"][request.param]
    truth = np.array(kept["truth"])
    learn = np.arange(len(truth)) < kept["learnt"]
    logs = log_norm(csr_matrix(np.array(kept["counts"])))
    return kept | {"n": int(request.param), "truth": truth, "learn": learn, "logs": logs}


def agree(found: np.ndarray, expected: list[list[float]]) -> None:
    """To half a percent of their range, at which its solver stops too; the same labels."""
    wanted = np.array(expected)
    assert np.abs(found - wanted).max() < 0.005 * np.ptp(wanted)
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))


def test_celltypist_as_it_is_by_default(recorded: dict[str, Any]) -> None:
    learn = recorded["learn"]
    found = celltypist_scores(recorded["logs"], recorded["truth"], recorded["n"], learn, ~learn)
    agree(found, recorded["default"]["scores"])


def test_celltypist_with_its_choice_of_genes(recorded: dict[str, Any]) -> None:
    """The descent draws in another order in another release of scikit-learn: nearly its genes."""
    learn, truth, genes = recorded["learn"], recorded["truth"], recorded["chosen"]["genes"]
    learnt, scored = standardised_and_cut(recorded["logs"], learn, ~learn)
    shown = np.flatnonzero(np.asarray(recorded["logs"][learn].sum(axis=0)).ravel())
    ours = shown[heavy_genes(learnt, truth[learn], 0)]
    assert len(np.intersect1d(ours, genes)) > 0.93 * len(genes)
    assert abs(len(ours) - len(genes)) <= 2
    at = np.searchsorted(shown, genes)
    found = one_against_the_rest(learnt[:, at], truth[learn], scored[:, at])
    agree(found, recorded["chosen"]["scores"])


def test_a_label_that_is_not_there_to_be_learnt_is_impossible(recorded: dict[str, Any]) -> None:
    learn, n = recorded["learn"], recorded["n"]
    found = celltypist_scores(recorded["logs"], recorded["truth"], n + 1, learn, ~learn)
    assert np.isneginf(found[:, n]).all()
    assert np.isfinite(found[:, :n]).all()


def test_regression_equals_scikit_learn_on_the_most_variable_genes() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    counts = rng.poisson(np.where(np.arange(1_200) // 20 == truth[:, None], 3.0, 0.5))
    logs, learn = log_norm(csr_matrix(counts)), np.arange(60) < 40
    dense = logs.toarray()
    genes = np.sort(np.argsort(-dense[learn].var(axis=0), kind="stable")[:1_000])
    found = regression_scores(logs, truth, 3, learn, ~learn)
    assert list(found) == list(PENALTIES)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5_000))
    expected = theirs.fit(dense[learn][:, genes], truth[learn]).decision_function(
        dense[~learn][:, genes]
    )
    np.testing.assert_allclose(found[0.01], expected, atol=1e-3)


def test_counts_of_several_files_are_read_by_their_shared_genes(tiny_model: Path) -> None:
    one, two = typed_cells(60), typed_cells(45, seed=1)
    two = two[:, np.random.default_rng(0).permutation(two.n_vars)[:400]].copy()
    vocabulary = load_checkpoint(tiny_model).vocabulary
    with open_counts(one) as first, open_counts(two) as second:
        sources = [
            Cells(counts=each, genes=map_genes(each.var, vocabulary, name="cells"))
            for each in (first, second)
        ]
        labelled = read_labels([first, second], "cell_type", None, 5, log=lambda _: None)
        kept = np.array([0, 7, 59, 60, 61, 104])
        found = read_logs(sources, labelled.rows, kept, None)
    shared = sorted(set(one.var["gene_ids"]) & set(two.var["gene_ids"]))
    assert found.shape == (6, len(shared))
    for adata, rows, own in ((one, [0, 7, 59], found[:3]), (two, [0, 1, 44], found[3:])):
        table = adata.X.toarray().astype(float)
        logs = np.log1p(1e4 * table / table.sum(axis=1, keepdims=True))
        places = [list(adata.var["gene_ids"]).index(name) for name in shared]
        ours = np.sort(own.toarray(), axis=1)
        np.testing.assert_allclose(ours, np.sort(logs[rows][:, places], axis=1), rtol=1e-5)
