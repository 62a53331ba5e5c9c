"""The commands of an index as a user types them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.command import Cli
from support.typed_cells import saved, typed_cells

pytestmark = pytest.mark.usefixtures("one_thread")


def test_from_labelled_cells_to_hits(tiny_model: Path, tmp_path: Path, run: Cli) -> None:
    first = saved(tmp_path / "a.h5ad", typed_cells(60))
    more = saved(tmp_path / "b.h5ad", typed_cells(60, seed=1))
    out = tmp_path / "atlas.index"
    words = ("--model", tiny_model, "--label", "cell_type", "--group", "donor", "--obs", "donor")
    ran = run("index", "build", first, "-o", out, *words)
    assert (ran.status, ran.out) == (0, f"{out}\n"), ran.err
    assert "60 cells of 1 sources" in ran.err
    ran = run("index", "build", first, "-o", out, *words)
    assert ran.status == 2
    assert "cellscribe index add" in ran.err
    ran = run("index", "add", out, more)
    assert (ran.status, ran.out) == (0, f"{out}\n"), ran.err
    ran = run("index", "query", out, more, "-o", tmp_path / "hits.parquet")
    assert ran.status == 0, ran.err
    hits = pd.read_parquet(tmp_path / "hits.parquet")
    assert len(hits) == 60
    assert {"cell_id", "cell_type", "cell_type_probability", "neighbor_donor"} <= set(hits)
    assert [ids[0] for ids in hits["neighbor_id"]] == hits["cell_id"].tolist()
    ran = run("annotate", more, "--index", out, "-o", tmp_path / "labels.csv")
    assert ran.status == 0, ran.err
    assert list(pd.read_csv(tmp_path / "labels.csv"))[-1] == "distance"
    told = run("index", "info", out, "--verify").out
    assert "120 cells of 2 sources" in told
    assert "every file is as it was written" in told
    ran = run("index", "query", out, more, "-o", tmp_path / "hits.csv")
    assert ran.status == 2
    assert "end the output's name in .parquet" in ran.err
