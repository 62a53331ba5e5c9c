"""Which labelled cells are learnt from, and folds that never split a group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.typed_cells import typed_cells

from cellscribe.annotation.labels import Labelled, choose_folds, read_labels
from cellscribe.cells.counts import open_counts
from cellscribe.errors import InputError


def read(adata: Any, *, group: str | None = "donor", fewest: int = 10) -> tuple[Labelled, list]:
    said: list[str] = []
    counts = open_counts(adata)
    return read_labels([counts], "cell_type", group, fewest, log=said.append), said


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=12, max_size=80),
    st.integers(2, 6),
    st.integers(0, 5),
)
@settings(max_examples=60)
def test_no_group_is_in_two_folds(cells: list[tuple[int, int]], folds: int, seed: int) -> None:
    truth = np.array([t for t, _ in cells])
    groups = np.array([f"g{g}" for _, g in cells], dtype=object)
    truth[:2], groups[:2] = [0, 0], ["g0", "g1"]
    fold = choose_folds(truth, groups, folds, seed)
    assert fold.min() == 0
    assert set(fold) == set(range(fold.max() + 1))
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    np.testing.assert_array_equal(fold, choose_folds(truth, groups, folds, seed))


def test_random_folds_hold_their_share_of_each_class() -> None:
    truth = np.repeat([0, 1], [100, 25])
    fold = choose_folds(truth, None, 5, 0)
    assert [np.bincount(truth[fold == f]).tolist() for f in range(5)] == [[20, 5]] * 5
    assert (choose_folds(truth, None, 5, 1) != fold).any()


def test_cells_without_a_label_and_rare_labels_are_left_out_and_told() -> None:
    adata = typed_cells(90)
    names = adata.obs["cell_type"].astype(object)
    for row, odd in enumerate(["Unknown", "UNASSIGNED", "", " nan ", np.nan, None, "rare", "rare"]):
        names.iloc[row] = odd
    adata.obs["cell_type"] = names.to_numpy()
    adata.obs["donor"] = adata.obs["donor"].astype(object)
    adata.obs.loc["cell20", "donor"] = np.nan
    labelled, said = read(adata)
    assert labelled.labels == ["type 0", "type 1", "type 2"]
    assert labelled.left_out == {"no label": 6, "no group": 1, "rare: fewer than 10 cells": 2}
    assert labelled.rows[0].tolist() == [*range(8, 20), *range(21, 90)]
    assert [f"type {c}" for c in labelled.truth] == list(names.iloc[labelled.rows[0]])
    assert len(said) == 3
    assert sum(labelled.counts().values()) == 81


def test_many_rare_labels_are_told_in_one_line() -> None:
    adata = typed_cells(120)
    adata.obs["cell_type"] = [f"id {i}" if i < 30 else kind for i, kind in
                              enumerate(adata.obs["cell_type"])]  # fmt: skip
    labelled, said = read(adata)
    assert labelled.left_out == {"30 labels of fewer than 10 cells": 30}
    assert said == ["30 cells are left out (30 labels of fewer than 10 cells)."]
    assert len(labelled.truth) == 90


def test_several_sources_are_one() -> None:
    first, second = typed_cells(60), typed_cells(30, seed=1)
    with open_counts(first) as a, open_counts(second) as b:
        labelled = read_labels([a, b], "cell_type", "donor", 10, log=print)
    assert [len(rows) for rows in labelled.rows] == [60, 30]
    kept = labelled.keep(np.arange(90) % 2 == 0)
    assert [len(rows) for rows in kept.rows] == [30, 15]
    assert kept.left_out == {"no count on a gene that the model knows": 45}
    assert kept.truth.tolist() == labelled.truth[::2].tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda obs: obs.rename(columns={"cell_type": "celltype"}), "near it: celltype"),
        (lambda obs: obs.drop(columns="donor"), "no column 'donor' (--group)"),
        (lambda obs: obs.assign(cell_type="one"), "cell_type has only 'one'"),
        (lambda obs: obs.assign(cell_type="unknown"), "cell_type has none"),
        (lambda obs: obs.assign(donor="x"), "all labelled cells are of one donor ('x')"),
    ],
)
def test_labels_that_cannot_be_learnt(change: Any, told: str) -> None:
    adata = typed_cells(60)
    adata.obs = change(adata.obs)
    with pytest.raises(InputError) as refusal:
        read(adata)
    assert told in str(refusal.value)
