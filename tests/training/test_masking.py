"""Which genes are kept, chosen and corrupted: by count, by statistics, and always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.cells.gene_names.vocabulary import CLS, MASK, PAD
from cellscribe.config import TrainOptions
from cellscribe.training.masking import MaskedBatch, mask_cells

GENES = (5, 505)


def mask(
    cells: list[np.ndarray],
    *,
    seed: int = 0,
    epoch: int = 1,
    numbers: list[int] | None = None,
    front: int = 1,
    genes_per_cell: int | None = None,
    **shares: Any,
) -> MaskedBatch:
    parts = [np.concatenate([np.full(front, CLS), cell]) for cell in cells]
    return mask_cells(
        np.concatenate(parts).astype(np.int32),
        np.array([len(part) for part in parts], np.int32),
        np.arange(len(cells)) if numbers is None else np.array(numbers),
        epoch,
        GENES,
        TrainOptions(seed=seed, **shares),
        front=front,
        genes_per_cell=genes_per_cell,
    )


def split(batch: MaskedBatch) -> list[dict[str, np.ndarray]]:
    """Each cell's own part; places count from its first token."""
    ends = np.cumsum(batch.cells.lengths)
    chosen = batch.chosen_M.numpy()
    found = []
    for start, end in zip(ends - batch.cells.lengths, ends, strict=True):
        mine = (chosen >= start) & (chosen < end)
        found.append(
            {
                "tokens": batch.tokens_N[start:end].numpy(),
                "positions": batch.positions_N[start:end].numpy(),
                "places": chosen[mine] - start,
                "targets": batch.targets_M[mine].numpy(),
                "weights": batch.weights_M[mine].numpy(),
            }
        )
    return found


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    chosen=st.sampled_from([0.0, 0.15, 0.4, 1.0]),
    number=st.integers(0, 2**40),
    front=st.sampled_from([0, 1]),
    limit=st.sampled_from([None, 1, 7, 64]),
)
def test_exactly_the_share_is_chosen_and_the_rest_untouched(
    lengths: list[int], chosen: float, number: int, front: int, limit: int | None
) -> None:
    rng = np.random.default_rng(sum(lengths))
    cells = [rng.permutation(np.arange(*GENES))[:n] for n in lengths]
    numbers = [number + i for i in range(len(cells))]
    batch = mask(cells, numbers=numbers, front=front, genes_per_cell=limit, mlm_probability=chosen)
    assert batch.n_masked == len(cells)
    for cell, got in zip(cells, split(batch), strict=True):
        n = min(len(cell), limit or len(cell))
        assert len(got["tokens"]) == n + front
        assert (got["tokens"][:front] == CLS).all()
        assert got["positions"][:front].tolist() == list(range(front))
        # genes are some of the cell's, each at its true rank
        ranks = got["positions"][front:] - front
        assert (np.diff(ranks) > 0).all()
        truth = cell[ranks]
        if n == len(cell):
            assert ranks.tolist() == list(range(n))
        places = got["places"] - front
        assert len(places) == max(1, round(chosen * n))
        assert (np.diff(places) > 0).all()
        assert 0 <= places[0] <= places[-1] < n
        np.testing.assert_array_equal(got["targets"], truth[places])
        seen = got["tokens"][front:]
        rest = np.delete(np.arange(n), places)
        np.testing.assert_array_equal(seen[rest], truth[rest])
        drawn = seen[places]
        assert ((drawn == MASK) | ((drawn >= GENES[0]) & (drawn < GENES[1]))).all()
        np.testing.assert_allclose(got["weights"], 1 / len(places), rtol=1e-6)


@pytest.mark.parametrize(("masked", "random"), [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)])
def test_shares_of_what_becomes_of_the_chosen(masked: float, random: float) -> None:
    """Over 15 chosen places of 1,000 cells, to five standard errors."""
    n_cells, counts, of_place = 1_000, np.zeros(3), np.zeros(100)
    tokens = np.random.default_rng(0).integers(*GENES, 100)
    batch = mask([tokens] * n_cells, masked_share=masked, random_share=random)
    for got in split(batch):
        became, were = got["tokens"][got["places"]], got["targets"]
        counts += [
            (became == MASK).sum(),
            ((became != MASK) & (became != were)).sum(),
            (became == were).sum(),
        ]
        of_place[got["places"] - 1] += 1
    n = counts.sum()
    assert n == 15 * n_cells
    by_chance = random / (GENES[1] - GENES[0])  # a random gene may be the true one
    expected = np.array([masked, random - by_chance, 1 - masked - random + by_chance])
    error = 5 * np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(counts / n - expected) <= error + 1e-12).all(), counts / n
    # every place is as likely as any other
    assert np.abs(of_place / n_cells - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / n_cells)


def test_every_gene_is_as_likely_to_be_kept_and_pairs_are_independent() -> None:
    n_cells, n, k = 4_000, 40, 10
    batch = mask([np.arange(5, 5 + n)] * n_cells, genes_per_cell=k, mlm_probability=0.0)
    kept = np.zeros((n_cells, n))
    for cell, got in enumerate(split(batch)):
        kept[cell, got["positions"][1:] - 1] = 1
    share = k / n
    assert np.abs(kept.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / n_cells)
    together = (kept.T @ kept / n_cells)[~np.eye(n, dtype=bool)]
    pair = share * (k - 1) / (n - 1)
    assert np.abs(together - pair).max() < 5.5 * np.sqrt(pair / n_cells)


def test_random_genes_are_drawn_evenly_from_first_to_last() -> None:
    batch = mask([np.full(500, 250)] * 200, mlm_probability=1.0, masked_share=0.0, random_share=1.0)
    drawn = batch.tokens_N[batch.chosen_M].numpy()
    counts = np.bincount(drawn, minlength=GENES[1])
    assert len(counts) == GENES[1]
    assert counts[: GENES[0]].sum() == 0
    expected = len(drawn) / (GENES[1] - GENES[0])
    chi_squared = ((counts[GENES[0] :] - expected) ** 2 / expected).sum()
    degrees = GENES[1] - GENES[0] - 1
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_a_mask_belongs_to_seed_epoch_and_cell() -> None:
    tokens = np.arange(*GENES)
    keys = [(s, e, c) for s in (0, 1) for e in (0, 1, 2) for c in (0, 1, 2**40)]
    found = {
        key: mask([tokens], seed=key[0], epoch=key[1], numbers=[key[2]]).tokens_N for key in keys
    }
    for key, seen in found.items():
        again = mask([tokens], seed=key[0], epoch=key[1], numbers=[key[2]]).tokens_N
        np.testing.assert_array_equal(again, seen)
    assert len({seen.numpy().tobytes() for seen in found.values()}) == len(keys)


def test_batch_and_order_do_not_change_a_mask() -> None:
    rng = np.random.default_rng(1)
    cells = [rng.permutation(np.arange(*GENES))[:n] for n in rng.integers(1, 80, 30)]

    def corrupted(rows: list[int], row: int) -> dict[str, list[Any]]:
        batch = mask([cells[r] for r in rows], numbers=rows, genes_per_cell=32, seed=9, epoch=4)
        return {key: value.tolist() for key, value in split(batch)[rows.index(row)].items()}

    for row in (0, 12, 29):
        alone = corrupted([row], row)
        assert corrupted([5, row, 7], row) == alone
        assert corrupted([row, *range(13, 25)], row) == alone


@pytest.mark.parametrize("front", [0, 1])
def test_a_cell_without_genes_asks_nothing(front: int) -> None:
    none = np.empty(0, np.int64)
    batch = mask([none, np.arange(5, 25), none], front=front)
    first, second, third = split(batch)
    assert batch.n_masked == 1
    assert first["tokens"].tolist() == third["tokens"].tolist() == [CLS if front else PAD]
    assert len(second["places"]) == 3
    assert len(batch.chosen_M) == 3


def test_masks_are_those_of_earlier_releases() -> None:
    """Runs go on over releases: the draw may not change."""
    batch = mask([np.arange(5, 25), np.arange(30, 40)], seed=3, epoch=2, numbers=[7, 8])
    assert batch.chosen_M.tolist() == RECORDED["chosen"]
    assert batch.tokens_N[batch.chosen_M].tolist() == RECORDED["seen"]


RECORDED: dict[str, list[int]] = {"chosen": [4, 9, 18, 27, 28], "seen": [1, 1, 1, 1, 1]}
