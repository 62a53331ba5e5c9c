"""A number of each cell: learnt in every mode, compared on the same folds, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from support.command import Cli, nothing_new, refused
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.annotation.measured import read_target
from cellscribe.annotation.regression import (
    PENALTIES,
    FinetunedNumber,
    baselines_of,
    figures_of,
    held_out_ridge,
)
from cellscribe.cells.counts import open_counts
from cellscribe.cells.log_norm import log_norm
from cellscribe.config import FinetuneOptions
from cellscribe.model.several_heads import NumberHead, load_heads

pytestmark = pytest.mark.usefixtures("one_thread")
FLAT: dict[str, Any] = {"device": "cpu", "precision": "float32", "threads": 1}


def quiet(_: str) -> None:
    pass


def scored_cells(n: int = 120, seed: int = 0) -> ad.AnnData:
    """Cells of three types whose score is 10, 14 or 18 with a little noise; three have none."""
    adata = typed_cells(n, seed=seed)
    rng = np.random.default_rng(seed)
    adata.obs["score"] = 10 + 4 * (np.arange(n) % 3) + rng.normal(0, 0.5, n)
    adata.obs.loc[adata.obs_names[:3], "score"] = np.nan
    return adata


def finetuned(model: Path, out: Path, **more: Any) -> tuple[FinetunedNumber, list[str]]:
    said: list[str] = []
    words: dict[str, Any] = {"target": "score", "group": "donor", "epochs": 2, "layers": 1}
    options = FinetuneOptions(**{**words, **more}, **FLAT)
    done = cellscribe.finetune(model, scored_cells(), out, options, log=said.append)
    assert isinstance(done, FinetunedNumber)
    return done, said


@pytest.mark.parametrize("mode", ["head", "last", "lora", "all"])
def test_a_number_is_learnt_and_comes_back(mode: Any, tiny_model: Path, tmp_path: Path) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    done, said = finetuned(tiny_model, tmp_path / "ft", mode=mode)
    assert "3 cells are left out (no value)." in said
    head = load_heads(tmp_path / "ft")[0]
    assert isinstance(head, NumberHead)
    assert done.figures["model"].mae < done.figures["mean"].mae
    query = scored_cells(60, seed=1)
    cellscribe.annotate(query, model=tmp_path / "ft", log=said.append, **FLAT)
    wanted = ["cellscribe_prediction", "cellscribe_low", "cellscribe_high"]
    assert [name for name in query.obs if name.startswith("cellscribe")] == wanted
    vectors = cellscribe.load(tmp_path / "ft", **FLAT).embed(query)
    found = query.obs["cellscribe_prediction"].to_numpy()
    np.testing.assert_allclose(found, head.predict(vectors), rtol=1e-4, atol=1e-3)
    for name, sign in (("low", -1), ("high", 1)):
        width = sign * (query.obs[f"cellscribe_{name}"] - found)
        np.testing.assert_allclose(width, head.half_width, rtol=1e-3)
    truth = query.obs["score"].to_numpy()[3:]
    assert np.corrcoef(truth, found[3:])[0, 1] > 0.6
    facts = query.uns["cellscribe"]["annotation"]["heads"]["score"]
    values = scored_cells().obs["score"]
    assert facts["range"] == [values.min(), values.max()]
    expected = f"in training it goes from {values.min():.4g} to {values.max():.4g}"
    assert any(expected in line for line in said)
    assert cellscribe.info(tmp_path / "ft")["columns"]["score"] == facts["range"]


def test_the_page_says_whether_the_baselines_are_beaten(tiny_model: Path, tmp_path: Path) -> None:
    done, _ = finetuned(tiny_model, tmp_path / "ft", coverage=0.8)
    card = (tmp_path / "ft" / "README.md").read_text()
    held = json.loads((tmp_path / "ft" / "head.json").read_text())["heads"][0]["held_out"]
    better = held["figures"]["model"]["mae"] < held["figures"]["ridge"]["mae"]
    assert ("beats both" in card) == better
    assert ("but not plain genes" in card) == (not better)
    assert f"| this model | {done.figures['model'].mae:.4g} |" in card
    assert "asked to hold 80% of the cells of a new group" in card
    assert f"hold {held['interval']['reached']:.1%}" in card
    assert done.lines("head")[0] == "117 cells with score learnt with --mode head."


def test_held_out_ridge_never_saw_its_fold() -> None:
    """By hand with scikit-learn, fold by fold."""
    rng = np.random.default_rng(0)
    vectors, fold = rng.normal(3, 2, (90, 6)), np.arange(90) // 30
    values = vectors[:, 0] - vectors[:, 1] + rng.normal(0, 1, 90)
    penalty, found = held_out_ridge(lambda away: (vectors[~away], vectors[away]), values, fold)
    errors = {}
    for each in PENALTIES:
        expected = np.empty(90)
        for number in range(3):
            away = fold == number
            scaler = StandardScaler().fit(vectors[~away])
            ridge = Ridge(alpha=60 * each).fit(scaler.transform(vectors[~away]), values[~away])
            expected[away] = ridge.predict(scaler.transform(vectors[away]))
        errors[each] = ((expected - values) ** 2).mean()
        if each == penalty:
            np.testing.assert_allclose(found, expected)
    assert penalty == min(errors, key=lambda each: errors[each])


def test_baselines_learn_from_all_that_is_not_held_out() -> None:
    adata = scored_cells(90)
    logs = log_norm(adata.X)
    values, fold = np.arange(90) % 3 - 1.0, np.arange(90) // 3 % 3
    tested = fold == 1
    found = baselines_of(logs, values, fold, tested, 0)
    np.testing.assert_allclose(found["mean"][tested], values[~tested].mean())
    assert figures_of(found["ridge"][tested], values[tested]).r2 > 0.5
    # a value of a held-out cell changes nothing
    other = np.where(tested & (np.arange(90) == np.flatnonzero(tested)[0]), 9.0, values)
    again = baselines_of(logs, other, fold, tested, 0)["mean"]
    np.testing.assert_array_equal(again[tested], found["mean"][tested])


def test_trials_search_for_a_number(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    finetuned(tiny_model, tmp_path / "ft", mode="last", trials=2)
    assert len(load_heads(tmp_path / "ft")[0].about["trials"]) == 2
    assert "## Trials" in (tmp_path / "ft" / "README.md").read_text()


def test_numbers_in_every_form_are_read() -> None:
    adata = scored_cells(40)
    wanted = adata.obs["score"].to_numpy()
    adata.obs["text"] = [f"{value!r}" if value == value else "NA" for value in wanted.tolist()]
    adata.obs["category"] = pd.Categorical(adata.obs["text"])
    adata.obs["nullable"] = pd.array(wanted, dtype="Float64")
    adata.obs["whole"] = np.arange(40)
    with open_counts(adata) as counts:
        for name in ("score", "text", "category", "nullable"):
            found = read_target([counts], name, "donor", 10, log=quiet)
            np.testing.assert_allclose(found.values, wanted[3:], rtol=1e-14)
            assert found.left_out == {"no value": 3}
        found = read_target([counts, counts], "whole", None, 10, log=quiet)
        assert found.values.tolist() == [*range(40), *range(40)]
        assert [len(rows) for rows in found.rows] == [40, 40]
        # a fifth of the values in each stratum
        assert np.bincount(found.strata).tolist() == [16] * 5


def test_one_value_a_group_is_said() -> None:
    adata, said = typed_cells(60), []
    adata.obs["age"] = [int(name[1:]) for name in adata.obs["donor"]]
    with open_counts(adata) as counts:
        found = read_target([counts], "age", "donor", 10, log=quiet)
    found.check("cells", "donor", said.append)
    assert "age is one value for each donor" in said[0]
    assert "rests on 3 values" in said[0]


def change(adata: ad.AnnData) -> None:
    """Columns that nothing can be learnt from."""
    n = adata.n_obs
    adata.obs["same"] = 4.5
    adata.obs["few"] = [1.0 * i if i < 20 else np.nan for i in range(n)]
    adata.obs["endless"] = [np.inf if i == 7 else i for i in range(n)]
    adata.obs["flag"] = np.arange(n) % 2 == 0
    adata.obs["huge"] = np.arange(n) * 1e35
    adata.obs["hidden"] = ["5" if i else "five" for i in range(n)]
    adata.obs["lab"] = "x"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cell_type"], "cell_type holds texts ('type 0' in one of 60 cells) and a number is "
                        "wanted of --target; learn classes with --label"),
        (["hidden"], "hidden holds texts ('five' in one of 1 cells)"),
        (["flag"], "flag holds texts ('True' in one of 60 cells)"),
        (["scor"], "obs has no column 'scor' (--target); near it: score"),
        (["same"], "same is 4.5 in all 60 cells, so there is nothing to learn"),
        (["few"], "20 cells have a value in few, and at least 30 are needed"),
        (["endless"], "endless is infinite in 1 cells; make these missing (NaN)"),
        (["huge"], "give them in another unit"),
        (["score", "--group", "lab"], "all cells with a value are of one lab ('x')"),
        (["score", "--label", "cell_type"], "say what to learn: --label COLUMN"),
        (["score", "--coverage", "1"], "coverage 1.0 is not a share"),
        (["score", "--accuracy", "0.8"], "--accuracy is of labels"),
        (["score", "--trials", "3"], "take --mode last, lora or all"),
        (["score", "--loss-weight", "score=2"], "--loss-weight shares out the loss"),
    ],
)  # fmt: skip
def test_what_is_refused(
    words: list[str], told: str, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    adata = scored_cells(60)
    change(adata)
    cells = saved(tmp_path / "cells.h5ad", adata)
    ran = run("finetune", tiny_model, cells, "-o", tmp_path / "ft", "--target", *words)
    assert told in refused(ran)
    nothing_new(tmp_path, "cells.h5ad")


def test_from_the_command_line(tiny_model: Path, tmp_path: Path, run: Cli) -> None:
    adata = scored_cells(60)
    cells = saved(tmp_path / "cells.h5ad", adata)
    ran = run("finetune", tiny_model, cells, "-o", tmp_path / "ft", "--target", "score")
    assert ran.status == 0, ran.err
    assert "Warning: no --group" in ran.err
    assert "the mean absolute error of score is" in ran.err
    words = ("annotate", cells, "--model", tmp_path / "ft", "-o", tmp_path / "out.h5ad")
    assert "gives a number and no labels" in refused(run(*words, "--probabilities"))
    assert "gives a number and no labels" in refused(run(*words, "--align", "mnn"))
    assert run(*words).status == 0
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["cellscribe_prediction"].notna().all()
    facts = written.uns["cellscribe"]["annotation"]["heads"]["score"]
    assert float(facts["coverage"]) == 0.9
    ran = run("finetune", tiny_model, cells, "-o", tmp_path / "no", "--label", "cell_type",
              "--coverage", "0.8")  # fmt: skip
    assert "--coverage is of the interval of --target" in refused(ran)


def test_a_prediction_far_outside_is_given_and_said(tiny_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    finetuned(tiny_model, tmp_path / "ft")
    (tmp_path / "ft" / "SHA256SUMS").unlink()
    path = tmp_path / "ft" / "head.json"
    header = json.loads(path.read_text())
    header["heads"][0]["range"] = [100.0, 101.0]
    path.write_text(json.dumps(header))
    query = scored_cells(20, seed=1)
    cellscribe.annotate(query, model=tmp_path / "ft", log=said.append, **FLAT)
    assert query.obs["cellscribe_prediction"].notna().all()
    assert any("20 of 20 predictions lie outside of that, 20 by more than" in x for x in said)
