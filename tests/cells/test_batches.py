"""Batches of cells of like length."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.cells.batches import length_buckets

lengths_of = st.lists(st.integers(0, 60), max_size=80).map(
    lambda lengths: np.array(lengths, dtype=np.int64)
)


@given(lengths_of, st.integers(1, 300))
def test_every_cell_is_in_one_batch_within_the_budget(lengths: np.ndarray, budget: int) -> None:
    batches = length_buckets(lengths, budget)
    rows = [int(row) for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch)
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(lengths_of, st.integers(1, 300))
def test_longest_come_first_and_equals_keep_their_order(lengths: np.ndarray, budget: int) -> None:
    rows = [int(row) for batch in length_buckets(lengths, budget) for row in batch]
    for a, b in pairwise(rows):
        assert lengths[a] > lengths[b] or (lengths[a] == lengths[b] and a < b)


@given(lengths_of, st.integers(1, 300))
def test_no_batch_has_room_for_one_more(lengths: np.ndarray, budget: int) -> None:
    """Empty cells are taken for one token long, lest a batch be endless."""
    for batch in length_buckets(lengths, budget)[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch].max()) > budget


@given(lengths_of, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_batches_depend_on_lengths_alone(lengths: np.ndarray, budget: int, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(lengths)
    a = [sorted(lengths[batch].tolist()) for batch in length_buckets(lengths, budget)]
    b = [sorted(shuffled[batch].tolist()) for batch in length_buckets(shuffled, budget)]
    assert a == b
