"""Text of others in pages, Markdown and tables."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import Cli
from support.typed_cells import typed_cells

from cellscribe.escaping import FORMULA, NUMBER, escape, plain, read_cell, safe_cell, safe_cells

NASTY = [
    "=HYPERLINK(1)",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''-x",
    "<img src=x onerror=alert(1)>",
    "T cell\x1b[2J\u202e",
    "a|b\n# c",
]


@given(st.one_of(st.text(), st.from_regex(r"'{0,3}[=+\-@\t\r\n].*")))
def test_no_cell_is_a_formula_and_reading_is_exact(text: str) -> None:
    cell = safe_cell(text)
    assert read_cell(cell) == text
    number = NUMBER.fullmatch(text) is not None
    if number:
        assert cell == text
        float(text)
    else:
        assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_tables_keep_numbers_and_what_texts_mean() -> None:
    table = pd.DataFrame(
        {
            "label": pd.Categorical(NASTY),
            "n": np.arange(len(NASTY)) - 5.5,
            "=name": [None, *NASTY[1:]],
        },
        index=pd.Index(NASTY, name="cell_id"),
    )
    before = table.copy()
    text = safe_cells(table).to_csv()
    pd.testing.assert_frame_equal(table, before)
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["cell_id", "label", "n", "'=name"]
    for row, name, number in zip(rows, NASTY, table["n"], strict=True):
        told = name.replace("\r", "\n")
        assert [read_cell(row[0]), read_cell(row[1])] == [told, told]
        assert float(row[2]) == number
        assert not FORMULA.match(row[0]) or row[0].startswith("'")
    assert rows[0][3] == ""


def test_pages_show_text_as_it_is() -> None:
    for text in NASTY:
        made = escape(text)
        assert "<" not in made
        assert html.unescape(made).translate({9: None, 10: None}).isprintable()
        assert "<" not in plain(text)
        assert "\n" not in plain(text)
        assert plain(text).isprintable()
    assert escape("a<b & c") == html.escape("a<b & c")


def test_labels_of_a_fine_tuned_model_are_text_wherever_they_are_written(
    run: Cli, tiny_model: Path, tmp_path: Path
) -> None:
    cells = typed_cells(80)
    kinds = list(pd.unique(cells.obs["cell_type"]))
    nasty = dict(zip(kinds, ["=1+1<img src=x>", "@b|c`d"], strict=False))
    cells.obs["cell_type"] = [nasty.get(kind, kind) for kind in cells.obs["cell_type"]]
    cells.obs_names = ["=cell" + name for name in cells.obs_names]
    source, model, out = tmp_path / "in.h5ad", tmp_path / "model", tmp_path / "out.csv"
    cells.write_h5ad(source)
    words = ["--label", "cell_type", "--min-cells", "5"]
    ran = run("finetune", tiny_model, source, "-o", model, *words)
    assert ran.status == 0, ran.err
    card = (model / "README.md").read_text()
    assert "<img" not in card
    assert "| =1+1&lt;img src=x&gt; |" in card
    assert json.loads((model / "head.json").read_text())
    assert run("annotate", source, "--model", model, "-o", out).status == 0
    table = pd.read_csv(out, index_col=0)
    assert all(name.startswith("'=cell") for name in table.index)
    assert {read_cell(best) for best in table["best"]} <= {*nasty.values(), *kinds, "unknown"}
    plain_out = tmp_path / "out.parquet"
    assert run("annotate", source, "--model", model, "-o", plain_out).status == 0
    kept: Any = pd.read_parquet(plain_out)
    assert kept[kept.columns[0]].tolist() == ad.read_h5ad(source).obs_names.tolist()
    assert [read_cell(name) for name in table.index] == kept[kept.columns[0]].tolist()


@pytest.mark.parametrize("text", ["-1", "+5", "1e5", "-.5", "AAACCTG-1", "", "CD4+ T", "B-cell"])
def test_ordinary_texts_are_left_alone(text: str) -> None:
    assert safe_cell(text) == text
