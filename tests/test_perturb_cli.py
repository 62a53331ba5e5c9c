"""perturb as a user meets it: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from support.command import Cli, nothing_new, refused
from support.tiny import real_genes
from support.typed_cells import saved, typed_cells

from cellscribe.config import PerturbOptions

pytestmark = pytest.mark.usefixtures("one_thread")

IDS, SYMBOLS = real_genes(12)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "in.h5ad", typed_cells(45))


def test_every_option_is_explained(run: Cli) -> None:
    text = run("perturb", "--help").out
    for field in fields(PerturbOptions):
        name = f"--{field.name.replace('_', '-')} "
        line = next(line for line in text.splitlines() if line.startswith("│") and name in line)
        assert len(line.strip(" │*").split("  ")) > 1, f"{name} stands there alone"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_from_cells_to_a_table(
    form: str, source: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    out = tmp_path / f"out.{form}"
    words = ("--model", tiny_model, "-o", out, "--genes", SYMBOLS[2], IDS[5], "--top", "3")
    ran = run("perturb", source, *words)
    assert ran.status == 0, ran.err
    assert ran.out == f"{out}\n"
    table = pd.read_csv(out) if form == "csv" else pd.read_parquet(out)
    told = [line.split()[0] for line in ran.err.splitlines() if line.startswith("  ")]
    assert told == list(table["symbol"][:5])
    assert table["shift"].is_monotonic_decreasing
    assert list(table) == [
        "gene", "symbol", "group", "n_cells", "shift", "shift_sd", "gene_shift", "p", "fdr",
    ]  # fmt: skip
    assert {SYMBOLS[2], SYMBOLS[5]} <= set(table["symbol"])
    assert (table["shift"] > 0).all() and table["p"].between(0, 1).all()
    nothing_new(tmp_path, "in.h5ad", out.name, f"{out.name}.json")


def test_towards_a_goal_and_in_front(
    source: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    out = tmp_path / "out.csv"
    words = ("--model", tiny_model, "-o", out, "--top", "4", "--group-by", "cell_type")
    ran = run("perturb", source, *words, "--start", "type 0", "--goal", "type 1")
    assert ran.status == 0, ran.err
    table = pd.read_csv(out)
    assert list(table)[-3:] == ["towards_goal", "goal_p", "goal_fdr"]
    assert set(table["group"]) == {"type 0"}
    assert (table["n_cells"] <= 15).all()
    ran = run("perturb", source, *words, "--mode", "promote", "--overwrite")
    assert ran.status == 0, ran.err
    table = pd.read_csv(out)
    assert "towards_goal" not in table
    assert (table["n_cells"] == 15).all() and len(table) == 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name genes to perturb with --genes"),
        (["--genes", SYMBOLS[3] + "X1"], f"knows no gene '{SYMBOLS[3]}X1'; near it: "),
        (["--genes", SYMBOLS[3], "--combine"], "two or more --genes"),
        (["--top", "3", "--mode", "swap"], '"delete", "promote"'),
        (["--top", "3", "--model", "nope"], "no model 'nope'"),
        (["--top", "3", "--layer", "counts"], "no layer 'counts'"),
        (["--top", "3", "--group-by", "celltype"], "no column 'celltype' (--group-by)"),
        (["--top", "3", "-o", "OUT.txt"], "end the output's name in .csv or .parquet"),
        (["--top", "3", "-o", "OUT/no/x.csv"], "no such folder"),
        (["--top", "3", "-o", "IN"], "end the output's name"),
    ],
)
def test_what_is_refused(
    words: list[str], told: str, source: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    words = [each.replace("OUT", str(tmp_path / "o")).replace("IN", str(source)) for each in words]
    model = [] if "--model" in words else ["--model", tiny_model]
    out = [] if "-o" in words else ["-o", tmp_path / "out.csv"]
    assert told in refused(run("perturb", source, *model, *out, *words))
    nothing_new(tmp_path, "in.h5ad")


def test_an_output_that_exists_stays(
    source: Path, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("dear")
    words = ("--model", tiny_model, "-o", out, "--top", "2")
    assert "exists already" in refused(run("perturb", source, *words))
    assert out.read_text() == "dear"
    assert run("perturb", source, *words, "--overwrite").status == 0
    assert len(pd.read_csv(out)) == 2


def test_a_missing_file(tiny_model: Path, tmp_path: Path, run: Cli) -> None:
    words = ("--model", tiny_model, "-o", tmp_path / "out.csv", "--top", "2")
    assert "no.h5ad" in refused(run("perturb", tmp_path / "no.h5ad", *words))
    nothing_new(tmp_path)


def test_parts_of_a_complex_are_suggested_first(source: Path, run: Cli, tmp_path: Path) -> None:
    told = refused(run("perturb", source, "-o", tmp_path / "a.csv", "--genes", "CD3"))
    assert "near it: CD3D, CD3E, CD3G, " in told
