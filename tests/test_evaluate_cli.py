"""`cellscribe evaluate` as a user meets it: words, refusals, a report, and a second call."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from support.command import Cli, nothing_new, refused
from support.simulate import simulate
from support.tiny import N_GENES, real_genes

from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.tasks import celltype, confounding

SMALL = ("--seeds", "1", "--bootstrap", "20", "--threads", "1")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated cells of three types and four donors, over the tiny model's genes."""
    path = tmp_path_factory.mktemp("data") / "simulated.h5ad"
    cells = simulate(real_genes(N_GENES)[0], cells=120, types=3, donors=4, depth=400, seed=1)
    del cells.uns["truth"]
    cells.write_h5ad(path)
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Cells of which nothing is told."""
    counts = np.random.default_rng(0).poisson(1.0, (60, N_GENES)).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts))
    adata.var_names = real_genes(N_GENES)[0]
    adata.write_h5ad(tmp_path / "bare.h5ad")
    return tmp_path / "bare.h5ad"


def test_help_tells_every_option(run: Cli) -> None:
    ran = run("evaluate", "--help")
    assert ran.status == 0
    assert "Usage: cellscribe evaluate" in ran.out
    for name in (*(f.name for f in fields(EvaluateOptions)), "data", "out", "task"):
        flag = f"--{name.replace('_', '-')} "
        line = next(line for line in ran.out.splitlines() if line.startswith("│") and flag in line)
        assert len(line.strip(" │*").split("  ")) > 1, f"{flag} stands there alone"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "celltypes"], "no task 'celltypes'; there are mlm, celltype"),
        (["--seeds", "0"], "seeds must be 1 or more, not 0"),
        (["--max-cells", "10"], "max_cells must be 50 or more, not 10"),
        (["--precision", "fp8"], '"auto", "float32", "bf16"'),
        (["--labels", "x"], "Did you mean --label?"),
        (["--task", "celltype"], "cell_type"),
        (["--task", "celltype", "--label", "kind"], "kind"),
        (["--task", "integration"], "cell_type"),
        (["--task", "perturbation"], "--condition"),
        (["--task", "genes"], "--gene-list"),
        (["--task", "genes", "--gene-list", "none.csv"], "none.csv: no such file"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_line(
    words: list[str], told: str, run: Cli, tiny_model: Path, bare: Path, tmp_path: Path
) -> None:
    line = refused(run("evaluate", tiny_model, "--data", bare, "-o", tmp_path / "out", *words))
    assert told in line
    nothing_new(tmp_path, "bare.h5ad")


def test_no_model_no_data_no_folder(run: Cli, tiny_model: Path, bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no model 'nope'" in refused(run("evaluate", "nope", "--data", bare, "-o", out))
    missing = tmp_path / "none.h5ad"
    assert "none.h5ad" in refused(run("evaluate", tiny_model, "--data", missing, "-o", out))
    assert "--data" in refused(run("evaluate", tiny_model, "-o", out))
    assert "--out" in refused(run("evaluate", tiny_model, "--data", bare))
    refused(run("evaluate", "--data", bare, "-o", out))
    assert "is a file" in refused(run("evaluate", tiny_model, "--data", bare, "-o", bare))
    below = tmp_path / "no/out"
    assert "make it first" in refused(run("evaluate", tiny_model, "--data", bare, "-o", below))
    twice = run("evaluate", tiny_model, tiny_model, "--data", bare, "-o", out)
    assert "given twice" in refused(twice)
    nothing_new(tmp_path, "bare.h5ad")


def test_data_with_other_genes_are_refused(run: Cli, tiny_model: Path, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (60, 80)).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts))
    adata.var_names = [f"ENSMUSG{i:011d}" for i in range(1, 81)]
    adata.obs["cell_type"] = ["a", "b"] * 30
    adata.write_h5ad(tmp_path / "mouse.h5ad")
    ran = run(
        "evaluate", tiny_model, "--data", tmp_path / "mouse.h5ad", "-o", tmp_path / "out",
        "--task", "celltype", *SMALL,
    )  # fmt: skip
    assert refused(ran).startswith("cellscribe: mouse: ")
    nothing_new(tmp_path, "mouse.h5ad")


def test_labels_are_told_apart_and_depth_is_given_away(
    run: Cli, tiny_model: Path, labelled: Path, tmp_path: Path
) -> None:
    """From the command line to the report, and a second call that measures nothing."""
    out = tmp_path / "out"
    words = ("evaluate", tiny_model, "--data", labelled, "-o", out, *SMALL)
    tasks = ("--task", "celltype", "--task", "confounding")
    ran = run(*words, *tasks)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines() == [str(out / "report.md"), str(out / "report.html")]
    assert any(
        line.startswith("Is tiny better than PCA-50 here? ") for line in ran.err.splitlines()
    )
    told = [json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))]
    methods: dict[str, set[str]] = {}
    for each in told:
        methods.setdefault(each["task"], set()).add(each["method"])
    assert set(methods) == {"celltype", "confounding"}
    for task in (celltype, confounding):
        wanted = {"tiny", "tiny, random weights", *task.BASELINES}
        assert methods[task.NAME] >= wanted
    assert all(each["seen"] == "" for each in told)
    headline = {
        each["method"]: each["scores"]["estimates"][celltype.HEADLINES[0]]
        for each in told
        if each["task"] == "celltype"
    }
    for estimate in headline.values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    # three types in equal shares: the counts tell them
    assert max(headline[name]["value"] for name in celltype.BASELINES) > 0.6
    for each in told:
        headlines = (celltype if each["task"] == "celltype" else confounding).HEADLINES
        for name, estimate in each["scores"]["estimates"].items():
            assert ("draws" in estimate) == (name in headlines)
    text = (out / "report.md").read_text()
    for name in ("tiny, random weights", *celltype.BASELINES, *confounding.BASELINES):
        assert name in text
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert not any(f'{word}="http' in page for word in ("src", "href"))

    before = {p: p.stat().st_mtime_ns for p in (out / "results").iterdir()}
    again = run(*words, *tasks, "--json")
    assert again.status == 0
    results = json.loads(again.out)["results"]
    assert sorted(map(str, results)) == sorted(
        str({key: value for key, value in each.items() if key not in ("format", "version")})
        for each in told
    )
    assert {p: p.stat().st_mtime_ns for p in (out / "results").iterdir()} == before
    assert (out / "report.md").read_text() == text


def test_core_passes_over_what_does_not_fit(
    run: Cli, tiny_model: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells without labels, batches or perturbations: the rest is judged, and each gap is told."""
    from cellscribe.evaluation import suite

    # what is left of core without the tasks that take their time
    monkeypatch.setitem(suite.SUITES, "core", ("celltype", "confounding", "perturbation", "genes"))
    ran = run("evaluate", tiny_model, "--data", bare, "-o", tmp_path / "out", *SMALL)
    assert ran.status == 0, ran.err
    for task in ("celltype", "perturbation", "genes"):
        assert sum(line.startswith(f"{task} is left out: ") for line in ran.err.splitlines()) == 1
    tasks = {path.name.partition("--")[0] for path in (tmp_path / "out/results").iterdir()}
    assert tasks == {"confounding"}
