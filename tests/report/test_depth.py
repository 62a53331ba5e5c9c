"""Vectors that follow depth are told from those that do not, on cells whose truth is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import f_oneway
from support.browser import Page
from support.simulate import simulate
from support.tiny import N_GENES, real_genes

from cellscribe.cells.counts import open_counts
from cellscribe.report import depth, embedding_files
from cellscribe.report.depth import depth_explained, eta_squared


@pytest.fixture(scope="module")
def cells() -> Any:
    """360 cells of four types, of which depth is independent."""
    return simulate(real_genes(N_GENES)[0], cells=360, type_strength=1.5, depth_spread=0.6, seed=4)


def totals(cells: Any) -> np.ndarray:
    return np.asarray(cells.X.sum(1)).ravel()


def vectors_of(cells: Any, weight: float) -> np.ndarray:
    """A vector of the type, with noise, and log depth times a weight."""
    rng = np.random.default_rng(0)
    kinds = pd.get_dummies(cells.obs["cell_type"]).to_numpy(float)
    known = [kinds + rng.normal(0, 0.2, kinds.shape), rng.normal(0, 0.2, (len(kinds), 3))]
    return np.column_stack([*known, weight * np.log(totals(cells))])


def test_eta_squared_is_what_an_analysis_of_variance_has() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 5, 200)
    values = rng.normal(size=200) + groups / 3
    found = eta_squared(groups, values)
    by_f = f_oneway(*(values[groups == group] for group in range(5))).statistic
    assert (found / 4) / ((1 - found) / 195) == pytest.approx(by_f)
    assert eta_squared(groups, groups * 2.0) == pytest.approx(1)
    # a number that no cell has is no group
    assert eta_squared(groups * 2, values) == pytest.approx(found)


def test_vectors_with_depth_in_them_are_warned_of(cells: Any) -> None:
    follows = depth_explained(vectors_of(cells, 3.0), cells.X)
    ignores = depth_explained(vectors_of(cells, 0.0), cells.X)
    assert follows is not None
    assert ignores is not None
    assert follows.vectors > 0.9
    assert f"explain {follows.vectors:.0%} of its variance" in follows.warning
    # 15 clusters of 360 cells explain 14 of 359 parts by chance
    assert ignores.vectors < 0.12
    assert ignores.warning == ""
    assert ignores.pca == follows.pca < follows.vectors
    assert follows.n_cells == 360


def test_pca_itself_is_no_reason_to_warn(cells: Any) -> None:
    from cellscribe.evaluation.stats.features import pca

    same = depth_explained(pca(cells.X), cells.X)
    assert same is not None
    assert same.vectors == same.pca
    assert same.warning == ""


def test_few_cells_or_equal_depth_are_not_measured(cells: Any) -> None:
    few = depth.LEAST_CELLS - 1
    assert depth_explained(vectors_of(cells, 1.0)[:few], cells.X[:few]) is None
    even = csr_matrix(np.random.default_rng(0).permuted(np.tile([5, 3, 2, 0], (320, 1)), axis=1))
    assert depth_explained(np.random.default_rng(0).normal(size=(320, 4)), even) is None


def test_rows_are_those_of_the_file(cells: Any) -> None:
    rows = np.array([0, 1, 3, 9, 40, 41, 90, 359])
    found = embedding_files.read_rows(open_counts(cells), rows)
    np.testing.assert_array_equal(found.toarray(), cells.X[rows].toarray())


def test_a_report_of_cells_that_follow_depth_returns_its_warning(
    cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From vectors and opened counts to the page; the first cell has no known gene."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(embedding_files, "umap_coordinates", lambda vectors: vectors[:, :2])
    n_known = np.asarray((cells.X > 0).sum(1)).ravel()
    n_known[0] = 0
    umis = totals(cells).astype(np.int64)
    result: Any = type("Embedded", (), {
        "n_cells": 360, "seconds": 1.0, "cells_per_second": 360.0, "warnings": ["another"],
        "shown": np.arange(360), "vectors": vectors_of(cells, 3.0),
        "cells": {"umis": umis, "umis_known": umis, "genes": n_known, "genes_known": n_known,
                  "tokens": n_known},
        "provenance": dict.fromkeys(embedding_files.FACTS, "x"),
        "genes": type("Genes", (), {"key": "var_names", "summary": lambda self: "All found."})(),
    })()  # fmt: skip
    page = tmp_path / "report.html"
    found = embedding_files.draw(result, open_counts(cells), context=99, report=page)
    measured = depth_explained(vectors_of(cells, 3.0).astype(np.float32)[1:], cells.X[1:])
    assert measured is not None
    assert found == [measured.warning]
    text = Page(page.read_text()).text
    assert measured.warning in text
    assert "another" in text
