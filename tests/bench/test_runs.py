"""Training runs side by side: the figures of the runs, and no file that was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks import quality
from benchmarks import runs as runs_room
from support.command import Cli, refused
from support.tiny import real_genes
from support.training import lines_of, planted_corpus, run_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, two runs and a file of two labelled types of cells."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = planted_corpus(folder / "corpus")
    run_training(corpus, folder / "short", steps=5)
    run_training(corpus, folder / "long")
    run_training(corpus, folder / "other", seed=1, steps=5)
    rng = np.random.default_rng(0)
    ids, _ = real_genes(150)
    types = np.arange(60) % 2
    mean = np.where(np.arange(150)[None] // 75 == types[:, None], 5.0, 0.5)
    cells = ad.AnnData(
        X=rng.poisson(mean).astype(np.float32),
        obs=pd.DataFrame(
            {"cell_type": np.array(["a", "b"])[types]}, index=[f"c{i}" for i in range(60)]
        ),
        var=pd.DataFrame(index=ids),
    )
    (folder / "data").mkdir()
    cells.write_h5ad(folder / "data/unseen.h5ad")
    return folder


def test_rows_are_what_the_runs_say(
    run: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_room, "FILES", {"unseen": "planted"})
    words = ["--corpus", folder / "corpus", "--data", folder / "data", "-o", tmp_path]
    words[-2] = "--out"
    ran = run("bench", "runs", folder / "short", folder / "long", *words, "--name", "trial")
    assert ran.status == 0, ran.err
    result = json.loads((tmp_path / "trial.json").read_text())
    assert result["bench"] == "trial"
    rows = {row["name"]: row for row in result["rows"]}
    for name in ("short", "long"):
        lines = [line for line in lines_of(folder / name) if "loss_val" in line]
        lowest = min(lines, key=lambda line: line["loss_val"])
        assert rows[name]["val"] == lowest["loss_val"]
        assert rows[name]["test_unseen"] == lowest["loss_test_unseen"]
        assert rows[name]["best_step"] == lowest["step"]
        assert rows[name]["unseen"] > 0.9  # types so far apart that any vector tells them
    assert rows["unigram"]["val"] < rows["all genes alike"]["val"]
    assert rows["unigram given the rank"]["val"] < rows["unigram"]["val"]
    assert 0.5 < rows[quality.PCA]["unseen"] <= 1
    assert len(result["table"]["rows"]) == 6
    assert result["table"]["columns"][-1] == "planted"


def test_a_file_of_the_training_split_tests_nothing(
    run: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((folder / "corpus/manifest.json").read_text())
    dataset = next(name for name, d in manifest["datasets"].items() if d["side"] == "train")
    monkeypatch.setattr(runs_room, "FILES", {dataset: "trained on", "unseen": "planted"})
    words = ["--corpus", folder / "corpus", "--data", folder / "data", "--out", tmp_path]
    assert run("bench", "runs", folder / "short", *words).status == 0
    columns = json.loads((tmp_path / "runs.json").read_text())["table"]["columns"]
    assert "planted" in columns
    assert "trained on" not in columns
    assert quality.trained_on({"trained on": [f"{dataset} (9 cells)"]}) == {dataset}


def test_refusals(run: Cli, folder: Path, tmp_path: Path) -> None:
    words = ["--corpus", folder / "corpus", "--data", folder / "data", "--out", tmp_path]
    other = refused(run("bench", "runs", folder / "short", folder / "other", *words))
    assert "has seed 1" in other
    strange = planted_corpus(tmp_path / "strange", train=[20])
    words[1] = strange
    assert "another corpus" in refused(run("bench", "runs", folder / "short", *words))
