"""Training and test perturbations: the splits of GEARS.

Roohani, Huang and Leskovec 2023 (Nature Biotechnology). In "simulation", the split that papers
report, a quarter of the perturbed genes is unseen: no perturbation of them, alone or with others,
is in training. For the same seed, and the same perturbations with the same names in the same order,
the draws are those of GEARS, on numpy's older generator; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from cellscribe.errors import InputError

Kind = Literal["simulation", "single", "combo_seen0", "combo_seen1", "combo_seen2", "no_test"]
Targets = Mapping[str, tuple[str, ...]]
"""Perturbation -> its genes."""

SEEN_GENES, SEEN_COMBINATIONS = 0.75, 0.75
"""Training shares of "simulation": of genes, and of combinations of seen genes."""
TEST, VALIDATION = 0.1, 0.1
"""Shares of the other splits that are held out."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Perturbations by their part; controls belong to training and are not listed."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Test perturbations of "simulation", by how many of their genes were seen."""


def split_perturbations(
    targets: Targets, kind: Kind = "simulation", *, seed: int = 0, validation: bool = True
) -> Split:
    """Split perturbations.

    Parameters
    ----------
    targets
        Perturbations in the order of the data, and the genes of each.
    kind
        - ``simulation``: see `SEEN_GENES`; tested are unseen genes, alone (``unseen_single``) or
          together (``combo_seen0``), combinations of one seen and one unseen gene
          (``combo_seen1``), and a quarter of the combinations of seen ones (``combo_seen2``).
        - ``single``: perturbations of some genes alone; their combinations are dropped.
        - ``combo_seen0``, ``combo_seen1``: some genes, alone and in combinations; for
          ``combo_seen0`` combinations with other genes are dropped.
        - ``combo_seen2``: some of the combinations.
        - ``no_test``: nothing but validation is held out.
    seed
        Of the draws.
    validation
        Whether part of the training perturbations is held out; not needed where nothing is tuned.

    Raises
    ------
    InputError
        No such split; or no perturbation is left for training or, except ``no_test``, for the test.
    """
    if kind not in get_args(Kind):
        raise InputError(f"no split {kind!r}; there are {', '.join(get_args(Kind))}")
    names = list(targets)
    groups: dict[str, tuple[str, ...]] = {}
    held_out: list[str] = []
    if kind == "simulation":
        train, groups = _simulation(names, targets, SEEN_GENES, SEEN_COMBINATIONS, seed)
        test = [name for group in groups.values() for name in group]
        if validation:
            train, held = _simulation(train, targets, 1 - VALIDATION, 1 - VALIDATION, seed)
            held_out = [name for group in held.values() for name in group]
    else:
        random = np.random.RandomState(seed)
        share = VALIDATION if kind == "no_test" else TEST
        train, test = _listed(names, targets, kind, share, random)
        if kind == "no_test":
            held_out, test = (test, []) if validation else ([], [])
            train = train if validation else names
        elif validation:
            train, held_out = _listed(train, targets, kind, VALIDATION, random)
    if not train or not (test or kind == "no_test"):
        lacks = "to test on" if train else "to learn from"
        raise InputError(
            f"{len(names)} perturbations are too few for the split {kind!r}: none is left {lacks}"
        )
    return Split(
        train=tuple(train), validation=tuple(held_out), test=tuple(test), groups=groups
    )  # fmt: skip


def _genes(names: Sequence[str], targets: Targets) -> list[str]:
    return sorted({gene for name in names for gene in targets[name]})


def _simulation(
    names: Sequence[str], targets: Targets, seen_genes: float, seen_combinations: float, seed: int
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Draw seen genes, then combinations of them, each with the seed set anew."""
    genes = _genes(names, targets)
    n_seen = int(len(genes) * seen_genes)
    seen = set(np.random.RandomState(seed).choice(genes, n_seen, replace=False).tolist())
    groups: dict[str, list[str]] = {
        "combo_seen0": [], "combo_seen1": [], "combo_seen2": [], "unseen_single": [],
    }  # fmt: skip
    train: list[str] = []
    pool: list[str] = []
    for name in names:
        n_known = sum(gene in seen for gene in targets[name])
        if n_known == len(targets[name]):
            (train if n_known == 1 else pool).append(name)
        elif len(targets[name]) == 1:
            groups["unseen_single"].append(name)
        else:
            groups[f"combo_seen{min(n_known, 1)}"].append(name)
    pool.sort()
    n_train = int(len(pool) * seen_combinations)
    learnt = np.random.RandomState(seed).choice(pool, n_train, replace=False).tolist()
    groups["combo_seen2"] = sorted(set(pool) - set(learnt))
    return train + learnt, {title: tuple(group) for title, group in groups.items()}


def _listed(
    names: Sequence[str], targets: Targets, kind: str, share: float, random: np.random.RandomState
) -> tuple[list[str], list[str]]:
    """Draw tested genes, or tested perturbations, of a list.

    Genes are drawn with repetition, as GEARS does, so a few less than the share are tested.
    """
    genes = _genes(names, targets)
    singles = [name for name in names if len(targets[name]) == 1]
    combinations = [name for name in names if len(targets[name]) > 1]
    drawn = set(random.choice(genes, int(len(singles) * share)).tolist()) if genes else set()
    dropped: set[str] = set()
    if kind in ("combo_seen2", "no_test"):
        pool = combinations if kind == "combo_seen2" else list(names)
        test = random.choice(pool, int(len(pool) * share)).tolist() if pool else []
    else:
        touched = [name for name in names if drawn & set(targets[name])]
        test = touched
        if kind == "single":
            test = [name for name in touched if len(targets[name]) == 1]
            dropped = set(touched) - set(test)
        elif kind == "combo_seen0":
            test = [name for name in touched if drawn >= set(targets[name])]
            dropped = set(touched) - set(test)
    tested = set(test)
    train = [name for name in names if name not in tested | dropped]
    return train, [name for name in names if name in tested]
