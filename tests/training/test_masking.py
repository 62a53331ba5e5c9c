"""Shares of masked genes, by count and by statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.cells.rank import RankedCells
from cellscribe.cells.vocabulary import MASK, Vocabulary
from cellscribe.training.loop import TrainConfig, make_batch
from cellscribe.training.masking import MaskingConfig, cell_generator, mask_cell

GENES = (5, 505)


def mask(tokens: np.ndarray, seed: int = 0, epoch: int = 0, cell: int = 0, **shares: float):
    return mask_cell(tokens, cell_generator(seed, epoch, cell), GENES, MaskingConfig(**shares))


@given(
    n=st.integers(1, 1_024),
    chosen=st.sampled_from([0.0, 0.15, 0.4, 1.0]),
    cell=st.integers(0, 2**40 - 1),
)
def test_exactly_the_share_is_chosen_and_the_rest_untouched(
    n: int, chosen: float, cell: int
) -> None:
    tokens = np.random.default_rng(n).integers(*GENES, n)
    before = tokens.copy()
    corrupted, places = mask(tokens, cell=cell, chosen=chosen)
    np.testing.assert_array_equal(tokens, before)
    assert len(places) == max(1, round(chosen * n))
    assert (np.diff(places) > 0).all()
    assert 0 <= places[0] <= places[-1] < n
    rest = np.delete(np.arange(n), places)
    np.testing.assert_array_equal(corrupted[rest], tokens[rest])
    drawn = corrupted[places]
    assert ((drawn == MASK) | ((drawn >= GENES[0]) & (drawn < GENES[1]))).all()


@pytest.mark.parametrize(("masked", "random"), [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)])
def test_shares_of_what_becomes_of_the_chosen(masked: float, random: float) -> None:
    """Over 1,500 chosen places of 100 cells, to five standard errors."""
    tokens = np.random.default_rng(0).integers(*GENES, 100)
    n_cells, counts = 1_000, np.zeros(3)
    of_place = np.zeros(len(tokens))
    for cell in range(n_cells):
        corrupted, places = mask(tokens, cell=cell, masked=masked, random=random)
        became, were = corrupted[places], tokens[places]
        counts += [
            (became == MASK).sum(),
            ((became != MASK) & (became != were)).sum(),
            (became == were).sum(),
        ]
        of_place[places] += 1
    n = counts.sum()
    assert n == 15 * n_cells
    by_chance = random / (GENES[1] - GENES[0])  # a random gene may be the true one
    expected = np.array([masked, random - by_chance, 1 - masked - random + by_chance])
    error = 5 * np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(counts / n - expected) <= error + 1e-12).all(), counts / n
    # every place is as likely as any other
    assert np.abs(of_place / n_cells - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / n_cells)


def test_random_genes_are_drawn_evenly_from_first_to_last() -> None:
    tokens = np.full(500, 250)
    drawn = np.concatenate(
        [mask(tokens, cell=cell, chosen=1.0, masked=0.0, random=1.0)[0] for cell in range(200)]
    )
    counts = np.bincount(drawn, minlength=GENES[1])
    assert counts[: GENES[0]].sum() == 0
    expected = len(drawn) / (GENES[1] - GENES[0])
    chi_squared = ((counts[GENES[0] :] - expected) ** 2 / expected).sum()
    degrees = GENES[1] - GENES[0] - 1
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_a_mask_belongs_to_seed_epoch_and_cell() -> None:
    tokens = np.arange(*GENES)
    keys = [(s, e, c) for s in (0, 1) for e in (0, 1, 2) for c in (0, 1, 2**40 - 1)]
    found = {key: mask(tokens, *key) for key in keys}
    for key, (corrupted, places) in found.items():
        again = mask(tokens, *key)
        np.testing.assert_array_equal(again[0], corrupted)
        np.testing.assert_array_equal(again[1], places)
    assert len({corrupted.tobytes() for corrupted, _ in found.values()}) == len(keys)


def test_batch_and_order_do_not_change_a_mask() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 80, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ranked = RankedCells(
        tokens=rng.integers(5, 105, offsets[-1]).astype(np.uint16),
        offsets=offsets,
        umis=lengths,
        umis_known=lengths,
        genes=lengths.astype(np.int32),
        genes_known=lengths.astype(np.int32),
    )
    vocabulary = Vocabulary.build([f"ENSG{i}" for i in range(100)], [""] * 100, np.ones(100))

    def corrupted(rows: list[int], row: int) -> tuple[list[int], list[int], list[int]]:
        batch = make_batch(
            ranked, np.array(rows), 4, 32, vocabulary, TrainConfig(seed=9), torch.device("cpu")
        )
        i, width = rows.index(row), batch.tokens_BL.shape[1]
        n = batch.cells.lengths[i]
        mine = batch.chosen_M // width == i
        return (
            batch.tokens_BL[i, :n].tolist(),
            batch.positions_BL[i, :n].tolist(),
            [*(batch.chosen_M[mine] % width).tolist(), *batch.targets_M[mine].tolist()],
        )

    for row in (0, 12, 29):
        alone = corrupted([row], row)
        assert corrupted([5, row, 7], row) == alone
        assert corrupted([row, *range(13, 25)], row) == alone
