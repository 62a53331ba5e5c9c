"""SplitMix64 beside its published numbers, and what is drawn from it."""

from __future__ import annotations

import numpy as np

from cellscribe.cells.bits import INCREMENT, below, draw, mix, scramble

PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
"""What the published generator gives from the seed 1234567 on (Rosetta Code, Splitmix64)."""


def test_numbers_are_the_published_ones() -> None:
    states = np.uint64(1234567) + INCREMENT * np.arange(len(PUBLISHED), dtype=np.uint64)
    assert tuple(mix(states).tolist()) == PUBLISHED
    assert tuple(mix(state) for state in states) == PUBLISHED
    assert tuple(scramble(states + INCREMENT).tolist()) == PUBLISHED
    state, high = np.uint64(1234567), []
    for _ in PUBLISHED:
        state, bits = draw(np.uint64(state))
        high.append(bits)
    assert high == [number >> 32 for number in PUBLISHED]


def test_an_array_is_left_as_it_was() -> None:
    states = np.arange(5, dtype=np.uint64)
    mix(states)
    scramble(states)
    assert states.tolist() == [0, 1, 2, 3, 4]


def test_draws_below_n_reach_every_number_about_as_often() -> None:
    bits = mix(np.arange(70_000, dtype=np.uint64)) >> np.uint64(32)
    counts = np.bincount([below(each, 7) for each in bits], minlength=7)
    assert len(counts) == 7
    # five standard deviations of a binomial draw
    assert np.abs(counts - 10_000).max() < 5 * (70_000 * 1 / 7 * 6 / 7) ** 0.5
    assert below(np.uint64(2**32 - 1), 7) == 6
    assert below(np.uint64(0), 7) == 0
