"""Distances, alignment and the shift test on types whose places and moves are planted."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from cellscribe.annotation.align import fit_alignment, spread_of
from cellscribe.annotation.calls import Caller
from cellscribe.annotation.domain import (
    PRIOR,
    Domain,
    domain_of,
    fit_domain,
    fit_known,
    fit_types,
    known_probability,
)
from cellscribe.annotation.shift import matched_ratio, measure_shift
from cellscribe.errors import InputError

WIDTH = 6
AXES = 4 * np.eye(WIDTH)


def drawn(
    n: int, kinds: list[int], seed: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cells around axes, as many of each kind, and which."""
    rng = np.random.default_rng(seed)
    kind = np.array(kinds)[np.arange(n) % len(kinds)]
    return AXES[kind] + spread * rng.normal(size=(n, WIDTH)), kind


@pytest.fixture(scope="module")
def domain() -> Domain:
    vectors, kind = drawn(600, [0, 1, 2], 0)
    return fit_domain(vectors, kind, 3, np.arange(600) // 3 % 4, grouped=True)[0]


def test_distances_are_those_of_mahalanobis() -> None:
    """Against scipy, with the covariance within types, shrunk as said."""
    from scipy.spatial.distance import mahalanobis

    from cellscribe.annotation.domain import SHRINKAGE

    vectors, kind = drawn(90, [0, 2], 1)
    types = fit_types(vectors, kind, 3)
    means = np.array([vectors[kind == c].mean(0) for c in (0, 2)])
    rest = vectors - means[kind // 2]
    within = rest.T @ rest / len(rest)
    even = np.eye(WIDTH) * np.trace(within) / WIDTH
    inverse = np.linalg.inv((1 - SHRINKAGE) * within + SHRINKAGE * even)
    found = types.distances(vectors[:5])
    for row in range(5):
        for column, mean in zip((0, 2), means, strict=True):
            expected = mahalanobis(vectors[row], mean, inverse) / np.sqrt(WIDTH)
            assert found[row, column] == pytest.approx(expected)
    assert np.isinf(found[:, 1]).all()


def test_wide_vectors_are_brought_to_fewer_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellscribe.annotation.domain.MOST_AXES", 3)
    vectors, kind = drawn(300, [0, 1, 2], 2)
    types = fit_types(vectors - vectors.mean(0), kind, 3)
    assert types.axes_DA.shape == (WIDTH, 3)
    new, truth = drawn(90, [0, 1, 2], 3)
    assert (types.distances(new - vectors.mean(0)).argmin(1) == truth).mean() > 0.95


def test_a_known_type_is_the_less_probable_the_farther() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.lognormal(0, 0.2, 4_000), rng.lognormal(1, 0.2, 4_000)
    known = fit_known(near, [far[:3_000], far[3_000:]])
    found = known_probability(known, np.array([0.5, 1.0, 1.6, 3.0]))
    assert (np.diff(found) <= 0).all()
    assert found[0] == 1
    # two normals of one deviation on the log scale: odds by Bayes' rule
    x = np.log(1.6)
    odds = (1 / PRIOR - 1) * np.exp((-(x**2) + (x - 1) ** 2) / (2 * 0.2**2))
    assert found[2] == pytest.approx(odds / (1 + odds), abs=0.05)
    # nothing is learnt where the withheld are as near as the known
    assert known_probability(fit_known(near, [near]), np.array([9.0]))[0] == pytest.approx(
        1, abs=0.1
    )
    assert known_probability(fit_known(near, []), np.array([9.0]))[0] == 1


def test_kept_tensors_are_the_domain_again(domain: Domain) -> None:
    tensors = domain.tensors()
    again = domain_of(tensors, 3, WIDTH)
    assert again is not None
    for each in fields(Domain):
        np.testing.assert_allclose(getattr(again, each.name), getattr(domain, each.name), rtol=1e-5)
    assert domain_of({}, 3, WIDTH) is None
    with pytest.raises(InputError, match="another model"):
        domain_of(tensors, 4, WIDTH)
    del tensors["domain.scale"]
    with pytest.raises(InputError, match="damaged"):
        domain_of(tensors, 3, WIDTH)


def shift_of(domain: Domain, vectors: np.ndarray) -> str:
    return measure_shift(domain, *domain.distance(domain.standardise(vectors))).verdict


def test_false_alarms_are_rare_and_other_shares_of_types_are_no_shift(domain: Domain) -> None:
    verdicts = [shift_of(domain, drawn(200, [0, 1, 2], seed)[0]) for seed in range(100, 140)]
    assert verdicts.count("inside") >= 37
    assert shift_of(domain, drawn(200, [1], 5)[0]) == "inside"


@pytest.mark.parametrize(("move", "verdict"), [(2.0, "shifted"), (8.0, "outside")])
def test_moved_cells_are_shifted_or_outside(domain: Domain, move: float, verdict: str) -> None:
    assert shift_of(domain, drawn(200, [0, 1, 2], 5)[0] + move * np.eye(WIDTH)[5]) == verdict


def test_ratios_are_matched_by_type() -> None:
    mine, kind = np.array([2.0, 2.0, 2.0, 8.0]), np.array([0, 0, 0, 1])
    others = np.array([1.0] * 5 + [4.0] * 5)
    assert matched_ratio(mine, kind, others, np.repeat([0, 1], 5)) == pytest.approx(2)


def test_mutual_neighbours_undo_a_move_whatever_the_shares_of_types() -> None:
    reference, _ = drawn(600, [0, 1, 2], 0)
    cells, _ = drawn(300, [0, 0, 0, 0, 1], 1)
    move = np.array([0, 0, 0, 2.0, -1.0, 0.5])
    found = fit_alignment("mnn", cells + move, reference)
    np.testing.assert_allclose(found.apply(cells + move) - cells, 0, atol=0.6)
    assert found.paired > 0.5
    # which centring does not
    centred = fit_alignment("center", cells + move, reference)
    assert np.abs(centred.apply(cells + move) - cells).max() > 1


def test_centre_and_scale_give_the_moments_of_the_reference() -> None:
    reference, _ = drawn(90, [0, 1], 0)
    cells = 3 * drawn(60, [0, 1], 1)[0] + 5
    moved = fit_alignment("scale", cells, reference).apply(cells)
    np.testing.assert_allclose(moved.mean(0), reference.mean(0))
    np.testing.assert_allclose(moved.std(0), reference.std(0))
    centred = fit_alignment("center", cells, reference).apply(cells)
    np.testing.assert_allclose(centred.mean(0), reference.mean(0))
    np.testing.assert_allclose(centred.std(0), cells.std(0))


def test_spread_is_bounded() -> None:
    assert spread_of(np.full(9, 1.3), np.ones(9)) == pytest.approx(1.3)
    assert spread_of(np.full(9, 0.5), np.ones(9)) == 1
    assert spread_of(np.full(9, 9.0), np.ones(9)) == pytest.approx(1.6)


def caller_of(domain: Domain) -> Caller:
    """Calls the nearest type, with certainty."""

    def classify(vectors: np.ndarray) -> np.ndarray:
        return np.eye(3)[domain.distance(domain.standardise(vectors))[1]]

    return Caller(labels=["a", "b", "c"], threshold=0.5, classify=classify, domain=domain)


def test_moved_cells_are_aligned_and_said_before_they_are_called(domain: Domain) -> None:
    cells, kind = drawn(300, [0, 1, 2], 7)
    moved = cells + np.array([0, 0, 0, 8.0, 0, 0])
    said: list[str] = []
    plain, shift = caller_of(domain).meet(moved, "none", said.append)
    aligned, _ = caller_of(domain).meet(moved, "auto", said.append)
    assert shift is not None
    assert shift.verdict == "outside"
    assert said[0].startswith("Warning: The cells lie outside the reference: 100%")
    assert "--align mnn" in said[-1]
    assert plain.call(moved).called.mean() < 0.1
    found = aligned.call(moved)
    assert found.called.mean() > 0.85
    assert (found.best == kind)[found.called].mean() > 0.95
    # cells of the reference's own kind are left as they are
    assert caller_of(domain).meet(cells, "auto", said.append)[0].alignment.name == "none"  # type: ignore[union-attr]


def test_one_strange_kind_of_cell_is_not_brought_onto_a_type(domain: Domain) -> None:
    rng = np.random.default_rng(3)
    strange = np.array([0, 0, 0, 0, 12.0, 12.0]) + rng.normal(0, 0.3, (200, WIDTH))
    said: list[str] = []
    caller, shift = caller_of(domain).meet(strange, "auto", said.append)
    assert shift is not None
    assert shift.verdict == "outside"
    assert "100% would lie nearest to one type" in said[-1]
    assert caller.call(strange).called.mean() < 0.2


def test_a_head_without_a_domain_says_what_it_cannot_do() -> None:
    caller = Caller(
        labels=["a"], threshold=0.5, classify=lambda x: np.ones((len(x), 1)), domain=None
    )
    assert caller.meet(np.zeros((3, 2)), "auto", print) == (caller, None)
    assert np.isnan(caller.call(np.zeros((3, 2))).distance).all()
    with pytest.raises(InputError, match="fine-tune it again"):
        caller.meet(np.zeros((3, 2)), "mnn", print)
