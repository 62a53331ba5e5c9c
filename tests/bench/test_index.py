"""What is measured of an index: vectors made of cells, recall, and what cells are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.bundled_index import outcomes
from benchmarks.index import (
    derive,
    faster_from,
    measure_own,
    of_33_million,
    own_index,
    recall,
    standardised,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_derived_vectors_lie_among_the_real_ones() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 8)).astype(np.float32)
    real[100:] += 20
    made = derive(real, 1_000, rng)
    assert made.shape == (1_000, 8)
    near = np.linalg.norm(made[:, None] - real[None], axis=2).min(axis=1)
    assert near.max() < np.linalg.norm(real[:100, None] - real[None, :100], axis=2).max()
    assert 300 < (made.mean(axis=1) > 10).sum() < 700


def test_the_change_over_is_where_approximate_stays_faster() -> None:
    def row(exact: float, approximate: float) -> dict[str, dict[str, float]]:
        return {"exact": {"query_s": exact}, "approximate": {"query_s": approximate}}

    assert faster_from({10: row(1, 2), 20: row(3, 2), 30: row(9, 3)}) == 20
    assert faster_from({10: row(2, 1), 20: row(2, 3), 30: row(9, 3)}) == 30
    assert faster_from({10: row(1, 2)}) is None


def test_recall_is_a_share_of_the_wanted() -> None:
    assert recall(np.array([[1, 2], [3, 9]]), np.array([[2, 1], [3, 4]])) == 0.75


def test_own_search_is_compared_with_all_products(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    cells = standardised(rng.normal(size=(600, 16)).astype(np.float32), np.zeros(16), np.ones(16))
    rows, wanted = measure_own(own_index(cells, tmp_path), cells[:20])
    products = cells[:20] @ cells.T
    assert (wanted[:, 0] == products.argmax(axis=1)).all()
    assert 0.5 < rows["approximate"]["recall"] <= 1
    large = of_33_million(rows, 600, 16)
    # a bit a dimension, two float32 and an id of eight bytes
    assert large["bytes_a_cell"] == pytest.approx(16 / 8 + 8 + 8, rel=0.3)
    assert large["vectors_gb"] == pytest.approx(33e6 * 16 * 2 / 1e9)


def test_what_cells_are_called_is_judged_along_the_ontology() -> None:
    cd4, t_cell, treg, b_cell = "CL:0000624", "CL:0000084", "CL:0000792", "CL:0000236"
    given = ["", cd4, t_cell, treg, b_cell]
    names = ["unknown", "CD4", "T cell", "Treg", "B cell"]
    found = outcomes(pd.DataFrame({"cell_type": names, "cell_type_ontology_id": given}), [cd4] * 5)
    shares = ("unknown", "exact", "broader", "narrower", "wrong")
    assert [found[name] for name in shares] == [0.2] * 5
    assert (found["cells"], found["called"]) == (5, "B cell")
