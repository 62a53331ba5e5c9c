"""Several columns of labels: each head as if it were alone, masked cells, the names of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from support.command import Cli, nothing_new, refused
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.annotation.several_labels import read_columns
from cellscribe.annotation.targets import ClassTarget, NumberTarget
from cellscribe.annotation.tuning import loss_of
from cellscribe.cells.counts import open_counts
from cellscribe.config import FinetuneOptions
from cellscribe.errors import InputError
from cellscribe.model.heads import load_head
from cellscribe.model.several_heads import load_heads

pytestmark = pytest.mark.usefixtures("one_thread")
FLAT = {"device": "cpu", "precision": "float32", "threads": 1}
ONE = ("label", "probability", "best", "second", "distance")


def quiet(_: str) -> None:
    pass


def two_columns(n: int = 90, seed: int = 0) -> ad.AnnData:
    """Types as ever, and a disease that every type has; some cells lack one or both labels."""
    adata = typed_cells(n, seed=seed)
    adata.obs["disease"] = ["ill" if i // 9 % 2 else "well" for i in range(n)]
    adata.obs.loc[adata.obs_names[:6], "cell_type"] = "unknown"
    adata.obs.loc[adata.obs_names[4:12], "disease"] = np.nan
    return adata


def finetuned(model: Path, out: Path, **more: Any) -> Any:
    words: dict[str, Any] = {
        "label": ("cell_type", "disease"),
        "group": "donor",
        "epochs": 2,
        "no_report": True,
    }
    options = FinetuneOptions(**words | {"layers": 1, **more, **FLAT})
    return cellscribe.finetune(model, two_columns(), out, options, log=quiet)


def test_masked_cells_and_the_union() -> None:
    adata, said = two_columns(), []
    with open_counts(adata) as counts:
        columns = read_columns([counts], ["cell_type", "disease"], "donor", 10, log=said.append)
    assert said == [
        "cell_type: 6 cells are left out (no label).",
        "disease: 8 cells are left out (no label).",
        "2 cells are left out (no label in any of cell_type, disease).",
    ]
    kept = np.flatnonzero(~np.isin(np.arange(90), [4, 5]))
    assert columns.rows[0].tolist() == kept.tolist()
    for name, empty in (("cell_type", range(6)), ("disease", range(4, 12))):
        truth, labels = columns.truth(name), columns.columns[name].labels
        expected = [-1 if row in empty else labels.index(adata.obs[name].iloc[row]) for row in kept]
        assert truth.tolist() == expected
    fewer = columns.keep(np.arange(88) % 2 == 0)
    for name in columns.columns:
        assert fewer.truth(name).tolist() == columns.truth(name)[::2].tolist()
    assert fewer.rows[0].tolist() == kept[::2].tolist()


def test_folds_are_drawn_by_the_labels_of_all_columns() -> None:
    with open_counts(two_columns()) as counts:
        columns = read_columns([counts], ["cell_type", "disease"], None, 10, log=quiet)
        strata = columns.strata(5)
        together = np.stack([columns.truth(name) for name in columns.columns], axis=1)
        # one number for one combination, but for rare ones
        for number in np.unique(strata):
            sizes = np.unique(together[strata == number], axis=0, return_counts=True)[1]
            assert len(sizes) == 1 or (np.sort(sizes)[:-1] < 5).all()
        fold = columns.folds(3, 0)
    for name in columns.columns:
        truth = columns.truth(name)
        for label in (0, 1):
            shares = np.bincount(fold[truth == label], minlength=3)
            assert shares.max() - shares.min() <= 3


def test_a_head_beside_another_is_the_head_alone(tiny_model: Path, tmp_path: Path) -> None:
    """Where no layer is trained, on cells that all have both labels, with groups held out whole."""
    adata = typed_cells(90)
    adata.obs["disease"] = ["ill" if i // 9 % 2 else "well" for i in range(90)]
    words: dict[str, Any] = {"group": "donor", "no_report": True, "log": quiet, **FLAT}
    cellscribe.finetune(
        tiny_model, adata, tmp_path / "both", label=["cell_type", "disease"], **words
    )
    cellscribe.finetune(tiny_model, adata, tmp_path / "one", label="disease", **words)
    both, one = load_heads(tmp_path / "both")[1], load_head(tmp_path / "one")
    assert both.labels == one.labels
    np.testing.assert_array_equal(both.weight, one.weight)
    assert both.about["calibration"]["held_out"] == one.about["calibration"]["held_out"]
    assert (both.temperature, both.threshold) == (one.temperature, one.threshold)
    query = typed_cells(40, seed=2)
    found = [
        cellscribe.annotate(query, model=tmp_path / name, copy=True, log=quiet, **FLAT).obs
        for name in ("both", "one")
    ]
    for name in ONE:
        np.testing.assert_array_equal(
            found[0][f"cellscribe_disease_{name}"], found[1][f"cellscribe_{name}"]
        )


@pytest.mark.parametrize("mode", ["last", "lora", "all"])
def test_all_heads_are_saved_and_read(mode: Any, tiny_model: Path, tmp_path: Path) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    weights = ("cell_type=3",)
    done = finetuned(tiny_model, tmp_path / "ft", mode=mode, loss_weight=weights)
    heads = load_heads(tmp_path / "ft")
    assert [head.about["label"] for head in heads] == ["cell_type", "disease"]
    assert [head.labels for head in heads] == [
        ["type 0", "type 1", "type 2"], ["ill", "well"],
    ]  # fmt: skip
    query = two_columns(40, seed=1)
    cellscribe.annotate(query, model=tmp_path / "ft", probabilities=True, log=quiet, **FLAT)
    wanted = [f"cellscribe_{column}_{name}" for column in ("cell_type", "disease") for name in ONE]
    assert [name for name in query.obs if name.startswith("cellscribe")] == wanted
    vectors = cellscribe.load(tmp_path / "ft", **FLAT).embed(query)
    for head, learnt in zip(heads, done.columns, strict=True):
        each = query.obsm[f"cellscribe_{learnt.name}_probabilities"]
        facts = query.uns["cellscribe"]["annotation"]["heads"][learnt.name]
        assert facts["labels"] == head.labels == learnt.head.labels
        # relative to each other they are the head's on what `embed` gives
        expected = head.probabilities(vectors)
        np.testing.assert_allclose(each / each.sum(1, keepdims=True), expected, atol=1e-4)
    card = (tmp_path / "ft" / "README.md").read_text()
    assert "## cell_type" in card
    assert "### Labels" in card
    assert card.count("the same, in the fold that fared worst") <= 2
    facts = cellscribe.info(tmp_path / "ft")
    assert facts["columns"]["disease"] == ["ill", "well"]


def test_the_loss_is_that_of_each_column_on_its_known_cells() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 40)
    sick = rng.integers(-1, 2, 40)
    age = rng.normal(size=40)
    targets = [
        ClassTarget(truth=kind, n_labels=3, weight=2.0),
        ClassTarget(truth=sick, n_labels=2),
        NumberTarget(truth=age, weight=0.5),
    ]
    outputs = [torch.from_numpy(rng.normal(size=(40, n))).requires_grad_() for n in (3, 2, 1)]
    rows = np.arange(40)
    shares = [float(target.known.mean()) for target in targets]
    found = loss_of(outputs, targets, rows, shares)
    known = sick >= 0
    parts = [
        F.cross_entropy(outputs[0], torch.from_numpy(kind)),
        F.cross_entropy(outputs[1][known], torch.from_numpy(sick[known])),
        ((outputs[2][:, 0] - torch.from_numpy(age)) ** 2).mean(),
    ]
    expected = (2 * parts[0] + parts[1] + 0.5 * parts[2]) / 3.5
    torch.testing.assert_close(found, expected)
    found.backward()
    assert not outputs[1].grad[~known].any()
    # batch by batch every known cell counts alike, however few a batch has
    halves = [
        loss_of([output[some] for output in outputs], targets, rows[some], shares)
        for some in (slice(0, 20), slice(20, 40))
    ]
    torch.testing.assert_close(sum(halves) / 2, expected)
    # a batch in which no cell has a label of a column
    some = np.flatnonzero(~known)
    none = loss_of([outputs[1][some]], targets[1:2], rows[some], shares[1:2])
    assert float(none) == 0


def test_trials_search_for_all_columns(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    finetuned(tiny_model, tmp_path / "ft", mode="last", trials=2)
    heads = load_heads(tmp_path / "ft")
    assert len(heads[1].about["trials"]) == 2
    assert (tmp_path / "ft" / "README.md").read_text().count("## Trials") == 1


def test_from_the_command_line(tiny_model: Path, tmp_path: Path, run: Cli) -> None:
    cells = saved(tmp_path / "cells.h5ad", two_columns())
    words = ("finetune", tiny_model, cells, "-o", tmp_path / "ft", "--group", "donor",
             "--no-report")  # fmt: skip
    columns = ("--label", "cell_type", "--label", "disease")
    ran = run(*words, *columns)
    assert ran.status == 0, ran.err
    assert "disease: 82 cells of 2 labels learnt with --mode head." in ran.err
    ran = run("annotate", cells, "--model", tmp_path / "ft", "-o", tmp_path / "l.csv",
              "--probabilities")  # fmt: skip
    assert ran.status == 0, ran.err
    table = pd.read_csv(tmp_path / "l.csv", index_col=0)
    labels = {"cell_type": ["type 0", "type 1", "type 2"], "disease": ["ill", "well"]}
    expected = [f"{column}_{name}" for column in labels for name in ONE]
    expected += [f"{column}_probability of {each}" for column in labels for each in labels[column]]
    assert list(table) == expected
    assert f"{(table['disease_label'] == 'ill').sum():>9,}  disease: ill" in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--label", "cell_type", "--label", "cell_type"], "named twice (--label)"),
        (["--label", "a/b", "--label", "a_b"], "differs from another in a slash"),
        (["--label", "cell_type", "--label", "diseas"], "near it: disease"),
        (["--label", "cell_type", "--label", "same"], "same has only 'x'; name another column"),
        (["--label", "cell_type", "--label", "disease", "--loss-weight", "disease=2"],
         "take --mode last, lora or all"),
        (["--label", "cell_type", "--mode", "last", "--loss-weight", "cell_type=2"],
         "name several with --label"),
        (["--label", "cell_type", "--label", "disease", "--mode", "last", "--loss-weight", "x=2"],
         "write COLUMN=NUMBER with a column of --label (cell_type, disease)"),
        (["--label", "cell_type", "--label", "disease", "--mode", "last",
          "--loss-weight", "disease=0"], "give a number above 0"),
        (["--label", "cell_type", "--label", "disease", "--gene-list", "x.csv"],
         "say what to learn"),
    ],
)  # fmt: skip
def test_what_is_refused(
    words: list[str], told: str, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    adata = two_columns()
    adata.obs["same"] = "x"
    cells = saved(tmp_path / "cells.h5ad", adata)
    assert told in refused(run("finetune", tiny_model, cells, "-o", tmp_path / "ft", *words))
    nothing_new(tmp_path, "cells.h5ad")


def test_labels_that_contradict_each_other_are_said(tiny_model: Path, tmp_path: Path) -> None:
    adata, said = typed_cells(120), []
    adata.obs["drawn"] = np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy())
    words: dict[str, Any] = {"group": "donor", "no_report": True, **FLAT}
    label = ["cell_type", "drawn"]
    cellscribe.finetune(tiny_model, adata, tmp_path / "ft", label=label, log=said.append, **words)
    warned = [line for line in said if "the nearest ones mostly have another label" in line]
    assert [line.split(":")[1].strip() for line in warned][-1] == "drawn"
    share = float(warned[-1].split("For ")[1].split("%")[0])
    assert 50 < share < 85  # of three labels drawn at random two thirds are another's


def test_damaged_heads_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    finetuned(tiny_model, tmp_path / "ft")
    (tmp_path / "ft" / "SHA256SUMS").unlink()
    path = tmp_path / "ft" / "head.json"
    text = path.read_text()
    for old, new, told in (
        ('"kind": "labels"', '"kind": "other"', r"heads\[0\].kind must be 'labels'"),
        ('"threshold"', '"treshold"', "threshold is missing"),
        ('"label": "disease"', '"label": "cell_type"', "belong to different models"),
        ('"type 2"', '"type 1"', "stands twice"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=told):
            load_heads(tmp_path / "ft")
    path.write_text(text)
    with pytest.raises(InputError, match="has heads of several columns"):
        load_head(tmp_path / "ft")
