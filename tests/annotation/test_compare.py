"""Ways compared: the same cells for all, honest noise, and a sentence that says who is best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cellscribe.annotation.compare import Way, compare, draw_cells, macro_f1, resampled_f1
from cellscribe.annotation.labels import Labelled

N = 240


def labelled(groups: int | None = 6) -> Labelled:
    rng = np.random.default_rng(0)
    return Labelled(
        rows=[np.arange(N)],
        labels=["a", "b", "c"],
        truth=np.arange(N) % 3,
        groups=None if groups is None else rng.integers(groups, size=N).astype(str).astype(object),
        sources=[],
        left_out={},
    )


def way(name: str, wrong: float, *, kind: Any = "ours", seed: int = 1, **more: Any) -> Way:
    """Right but for a share of the cells."""
    rng = np.random.default_rng(seed)
    truth = np.arange(N) % 3
    told = np.where(rng.random(N) < wrong, (truth + 1) % 3, truth)
    logits = 4.0 * np.eye(3)[told] + rng.normal(0, 0.1, (N, 3))
    return Way(name=name, kind=kind, logits=logits, seconds=1.0, **more)


def found(*ways: Way, cells: Labelled | None = None, saved: str = "head") -> dict[str, Any]:
    return compare(ways, cells or labelled(), np.arange(N) % 4, accuracy=0.9, saved=saved, seed=0)


def test_the_best_is_named_even_where_it_is_not_ours() -> None:
    made = found(way("head", 0.4), way("genes", 0.05, kind="baseline"))
    assert made["best"] == "genes"
    assert made["sentence"].startswith("Best on these data is genes (not ours): macro F1 0.9")
    assert "what labels cells here, head, is worse by 0." in made["sentence"]
    rows = {row["name"]: row for row in made["ways"]}
    assert not rows["head"]["within_noise"]
    assert rows["head"]["gap_low"] > 0
    truth = np.arange(N) % 3
    for name, each in (("head", way("head", 0.4)), ("genes", way("genes", 0.05))):
        expected = f1_score(truth, each.logits.argmax(axis=1), average="macro")
        assert rows[name]["macro_f1"] == pytest.approx(expected)
        assert rows[name]["low"] < expected < rows[name]["high"]


def test_a_difference_within_the_noise_is_said_to_be_one() -> None:
    made = found(way("head", 0.1, seed=1), way("genes", 0.1, seed=2, kind="baseline"))
    assert all(row["within_noise"] for row in made["ways"])
    assert "; within noise of it: " in made["sentence"]
    assert "worse" not in made["sentence"]


def test_only_cells_that_every_way_was_asked_for_count() -> None:
    part = way("last", 0.0)
    part.logits[np.arange(N) % 4 != 0] = np.nan
    made = found(way("head", 0.3), part)
    assert made["cells"] == N // 4
    assert made["folds"] == 1
    truth, asked = np.arange(N) % 3, np.arange(N) % 4 == 0
    expected = f1_score(
        truth[asked], way("head", 0.3).logits[asked].argmax(axis=1), average="macro"
    )
    assert made["ways"][1]["macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_macro_f1_is_scikit_learns(n_labels: int) -> None:
    rng = np.random.default_rng(n_labels)
    truth, best = rng.integers(n_labels - 1, size=80), rng.integers(n_labels, size=80)
    expected = f1_score(truth, best, average="macro", labels=np.unique(truth), zero_division=0)
    assert macro_f1(truth, best, n_labels) == pytest.approx(expected)


def test_groups_that_differ_widen_the_interval() -> None:
    """One way is wrong in whole groups, the other in as many cells strewn about."""
    cells = labelled()
    truth, groups = cells.truth, cells.groups
    assert groups is not None
    bad = np.isin(groups, ["0", "1"])
    strewn = np.random.default_rng(3).permutation(bad)
    best = {
        name: np.where(wrong, (truth + 1) % 3, truth)
        for name, wrong in (("by group", bad), ("strewn", strewn))
    }
    drawn = resampled_f1(best, truth, groups, 0)
    assert drawn["by group"].std() > 2 * drawn["strewn"].std()
    alone = resampled_f1(best, truth, None, 0)
    assert alone["by group"].std() < 1.5 * alone["strewn"].std()


def test_many_cells_are_drawn_once_and_the_same() -> None:
    np.testing.assert_array_equal(draw_cells(10, 0), np.arange(10))
    drawn = draw_cells(9_000, 0)
    assert len(np.unique(drawn)) == len(drawn) == 4_000
    np.testing.assert_array_equal(drawn, draw_cells(9_000, 0))
    assert (drawn != draw_cells(9_000, 1)).any()
