"""Figures of held-out predictions against scikit-learn's and pandas' own."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from cellscribe.annotation.calibration import calibrate
from cellscribe.annotation.scorecard import HeldOutScores, Predictions, score

LABELS = ["a", "b", "c", "d"]


def scores(n: int = 400, seed: int = 0) -> HeldOutScores:
    """Four labels, the last of which no held-out cell has; five groups in three folds."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    group = rng.integers(5, size=n)
    logits = rng.normal(0, 1.5, (n, 4)) + 2.5 * np.eye(4)[truth] * (group[:, None] != 2)
    return HeldOutScores(
        labels=LABELS,
        logits=logits,
        truth=truth,
        folds=group % 3,
        groups=np.array([f"g{each}" for each in group], object),
        known=rng.uniform(0.6, 1, n),
    )


@pytest.fixture(scope="module")
def found() -> Predictions:
    return scores().calibrated(0.9)


def test_each_fold_is_judged_by_what_the_others_teach() -> None:
    given = scores()
    predicted = given.calibrated(0.9)
    expected = calibrate(given.logits, given.truth, given.folds, 0.9, known=given.known).crossed
    assert expected is not None
    made = score(predicted)
    for name in ("accuracy", "macro_f1", "error", "coverage", "accuracy_called"):
        assert made[name] == pytest.approx(getattr(expected, name), abs=1e-12), name
    spoiled = given.logits.copy()
    spoiled[given.folds == 1] = np.roll(spoiled[given.folds == 1], 1, axis=1)
    again = HeldOutScores(**{**vars(given), "logits": spoiled}).calibrated(0.9)
    # what fold 1 says changes what others teach the rest, never the figures of fold 1 by itself
    here = given.folds == 1
    np.testing.assert_allclose(
        np.sort(again.each[here], axis=1), np.sort(predicted.each[here], axis=1)
    )
    assert not np.allclose(again.each[~here], predicted.each[~here])


def test_figures_are_scikit_learns(found: Predictions) -> None:
    made, truth, best = score(found), found.truth, found.each.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, best, labels=range(4), zero_division=0
    )
    for number, row in enumerate(made["labels"]):
        assert row["label"] == LABELS[number]
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == (
            precision[number], recall[number], f1[number], support[number],
        )  # fmt: skip
    np.testing.assert_array_equal(
        made["confusion"], metrics.confusion_matrix(truth, best, labels=range(4))
    )
    assert made["accuracy"] == metrics.accuracy_score(truth, best)
    one_hot = np.eye(4)[truth]
    brier = sum(metrics.brier_score_loss(one_hot[:, c], found.each[:, c]) for c in range(3))
    assert made["brier"] == pytest.approx(brier + (found.each[:, 3] ** 2).mean())
    areas = [metrics.roc_auc_score(truth == c, found.each[:, c]) for c in range(3)]
    assert [row["roc_auc"] for row in made["labels"][:3]] == pytest.approx(areas)
    assert made["roc_auc"] == pytest.approx(np.mean(areas))
    exact = [metrics.average_precision_score(truth == c, found.each[:, c]) for c in range(3)]
    assert [row["average_precision"] for row in made["labels"][:3]] == pytest.approx(exact)
    assert made["average_precision"] == pytest.approx(np.mean(exact))


def test_a_label_that_no_held_out_cell_has_says_nothing(found: Predictions) -> None:
    row = score(found)["labels"][3]
    assert row["support"] == 0
    assert row["coverage"] is row["roc_auc"] is row["average_precision"] is None
    assert row["roc"] == row["pr"] == []


def test_reliability_is_scikit_learns(found: Predictions) -> None:
    made = score(found)["reliability"]
    right = found.each.argmax(axis=1) == found.truth
    probability = found.each.max(axis=1)
    held, promised = calibration_curve(right, probability, n_bins=10)
    full = [row for row in made if row["cells"]]
    np.testing.assert_allclose([row["held"] for row in full], held)
    np.testing.assert_allclose([row["promised"] for row in full], promised)
    np.testing.assert_array_equal(
        [row["cells"] for row in made], np.histogram(probability, np.linspace(0, 1, 11))[0]
    )
    assert [row["promised"] for row in made if not row["cells"]] == [None] * (10 - len(full))


def test_curves_lie_on_scikit_learns(found: Predictions) -> None:
    made = score(found)
    for number in range(3):
        own = found.truth == number
        wrong, caught, _ = metrics.roc_curve(own, found.each[:, number])
        drawn = np.array(made["labels"][number]["roc"])
        corners = {(round(a, 5), round(b, 5)) for a, b in zip(wrong, caught, strict=True)}
        assert {tuple(point) for point in drawn} <= corners
        assert drawn[0].tolist() == [0, 0]
        assert drawn[-1].tolist() == [1, 1]
        assert len(drawn) <= 121
        area = metrics.auc(*drawn.T)
        assert area == pytest.approx(made["labels"][number]["roc_auc"], abs=0.01)
        exact = np.array(made["labels"][number]["pr"])
        assert (np.diff(exact[:, 0]) >= 0).all()
        assert exact[-1, 1] == pytest.approx(own.mean(), abs=1e-5)
    assert metrics.auc(*np.array(made["roc"]).T) == pytest.approx(made["roc_auc"], abs=0.01)


def test_groups_are_pandas_the_worst_first(found: Predictions) -> None:
    made = score(found)["groups"]
    table = pd.DataFrame(
        {
            "group": found.groups,
            "right": found.each.argmax(axis=1) == found.truth,
            "called": found.called,
        }
    )
    of = table.groupby("group")["right"].agg(["mean", "size"])
    assert {row["group"]: (row["accuracy"], row["cells"]) for row in made} == {
        name: (mean, size) for name, mean, size in of.itertuples()
    }
    assert made[0]["group"] == "g2"
    assert [row["accuracy"] for row in made] == sorted(row["accuracy"] for row in made)
    called = table[table["called"]].groupby("group")["right"].mean()
    for row in made:
        assert row["accuracy_called"] == called.get(row["group"])


def test_a_single_label_and_a_single_fold_warn_of_nothing() -> None:
    given = scores(40)
    same = HeldOutScores(**{**vars(given), "truth": np.zeros(40, int), "folds": np.zeros(40, int)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = score(same.calibrated(0.9))
    assert made["labels"][0]["roc_auc"] is None
    assert made["roc_auc"] is None
    assert made["roc"] == []
