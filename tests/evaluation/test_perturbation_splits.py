"""GEARS's splits: what they promise, and that they are the very ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellscribe.errors import InputError
from cellscribe.evaluation.tasks.perturbation.splits import Split, split_perturbations

GENES = [f"G{number:02d}" for number in range(12)]
KINDS = ("simulation", "single", "combo_seen0", "combo_seen1", "combo_seen2", "no_test")


def made_up() -> dict[str, tuple[str, ...]]:
    singles = {gene: (gene,) for gene in GENES}
    pairs = [
        (GENES[i], GENES[j]) for i, j in itertools.combinations(range(8), 2) if (i + j) % 2
    ]  # fmt: skip
    return singles | {f"{a}+{b}": (a, b) for a, b in pairs}


def drawn(seed: int) -> dict[str, tuple[str, ...]]:
    """A screen of random size, with singles missing and combinations of two and three genes."""
    rng = np.random.default_rng(seed)
    genes = [f"gene {number}" for number in range(rng.integers(8, 40))]
    found = {(gene,) for gene in genes if rng.random() < 0.8}
    for _ in range(rng.integers(4, 60)):
        size = rng.choice([2, 2, 2, 3])
        found.add(tuple(sorted(rng.choice(genes, size, replace=False).tolist())))
    return {"+".join(each): each for each in sorted(found)}


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_simulation_never_learns_of_an_unseen_gene(seed: int, validation: bool) -> None:
    targets = drawn(seed)
    split = split_perturbations(targets, seed=seed, validation=validation)
    parts = [*split.train, *split.validation, *split.test]
    assert sorted(parts) == sorted(targets), "every perturbation is in one part"
    learnt = {gene for name in (*split.train, *split.validation) for gene in targets[name]}
    groups = split.groups
    assert sorted(itertools.chain(*groups.values())) == sorted(split.test)
    unseen = {gene for name in groups["unseen_single"] for gene in targets[name]}
    unseen |= {gene for name in groups["combo_seen0"] for gene in targets[name]}
    assert not unseen & learnt
    for name in groups["combo_seen1"]:
        assert set(targets[name]) - learnt
    assert all(len(targets[name]) == 1 for name in groups["unseen_single"])
    assert all(len(targets[name]) > 1 for name in groups["combo_seen2"])
    everyone = {gene for genes in targets.values() for gene in genes}
    assert len(unseen) <= len(everyone) - int(len(everyone) * 0.75)
    assert bool(split.validation) <= validation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_parts_share_nothing_and_depend_on_the_seed_alone(kind: str, seed: int) -> None:
    targets = made_up()
    split = split_perturbations(targets, kind, seed=seed) if seed else None
    if split is None:
        seeds = [split_perturbations(targets, kind, seed=each) for each in range(5)]
        assert len({each.test + each.validation for each in seeds}) > 1
        return
    parts = [*split.train, *split.validation, *split.test]
    assert len(parts) == len(set(parts))
    assert set(parts) <= set(targets)
    assert split == split_perturbations(targets, kind, seed=seed)
    if kind == "single":
        learnt = {gene for name in split.train for gene in targets[name]}
        assert all(len(targets[name]) == 1 and name not in learnt for name in split.test)
    if kind == "combo_seen0":
        learnt = {gene for name in split.train for gene in targets[name]}
        assert not learnt & {gene for name in split.test for gene in targets[name]}
    if kind == "no_test":
        assert not split.test
        assert set(parts) == set(targets)


def parts_of(split: Split) -> dict[str, list[str]]:
    return {
        "train": sorted(split.train),
        "validation": sorted(split.validation),
        "test": sorted(split.test),
    }


def test_simulation_is_the_split_that_gears_draws() -> None:
    """Recorded from snap-stanford/GEARS's own class (cell-gears 0.1.2), seed 1, numpy 2."""
    split = split_perturbations(made_up(), seed=1)
    assert parts_of(split) == {
        "train": [
            "G00", "G00+G01", "G00+G03", "G00+G07", "G01", "G01+G02", "G01+G04", "G02", "G02+G07",
            "G03", "G04", "G04+G07", "G07", "G10", "G11",
        ],
        "validation": ["G02+G03", "G06", "G06+G07"],
        "test": [
            "G00+G05", "G01+G06", "G02+G05", "G03+G04", "G03+G06", "G04+G05", "G05", "G05+G06",
            "G08", "G09",
        ],
    }  # fmt: skip
    assert {title: sorted(group) for title, group in split.groups.items()} == {
        "combo_seen0": [],
        "combo_seen1": ["G00+G05", "G02+G05", "G04+G05", "G05+G06"],
        "combo_seen2": ["G01+G06", "G03+G04", "G03+G06"],
        "unseen_single": ["G05", "G08", "G09"],
    }
    singles = {gene: (gene,) for gene in (f"G{number:02d}" for number in range(25))}
    assert sorted(split_perturbations(singles, seed=3).test) == (
        ["G00", "G03", "G08", "G10", "G11", "G19", "G24"]
    )


@pytest.mark.parametrize(
    ("kind", "test", "validation"),
    [
        ("single", ["G05", "G08", "G11"], []),
        ("combo_seen0", ["G05", "G08", "G11"], []),
        ("combo_seen1", ["G00+G05", "G02+G05", "G04+G05", "G05", "G05+G06", "G08", "G11"], []),
        ("combo_seen2", ["G01+G04", "G02+G07", "G03+G06", "G06+G07"], ["G00+G01"]),
        ("no_test", [], ["G00+G01", "G11"]),
    ],
)
def test_other_splits_are_those_that_gears_draws(
    kind: str, test: list[str], validation: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded as above, with a share of 0.3 tested, but for no_test."""
    monkeypatch.setattr("cellscribe.evaluation.tasks.perturbation.splits.TEST", 0.3)
    found = parts_of(split_perturbations(made_up(), kind, seed=1))
    assert (found["test"], found["validation"]) == (test, validation)


def test_too_few_and_unknown_splits_are_refused() -> None:
    with pytest.raises(InputError, match="no split 'random'; there are simulation"):
        split_perturbations(made_up(), "random")
    with pytest.raises(InputError, match="too few for the split 'single': none is left to test"):
        split_perturbations({"A": ("A",), "B": ("B",)}, "single")
    with pytest.raises(InputError, match="none is left to learn from"):
        split_perturbations({"A": ("A",)}, "simulation")
