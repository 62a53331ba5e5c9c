"""The cost of the card's runs: counted again by hand, and as the recipe says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import census_cost

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_row_is_the_cards_run_counted_by_hand() -> None:
    """2,048 cells x 115,430 steps of 1,000 tokens at 10^13 operations a second."""
    measured = {"gflop_per_second": {"cellscribe": 1e4}, "tokens_per_cell": 1_000}
    [first, *_] = census_cost.rows(measured)
    width, ffn, layers, length, vocabulary = 256, 512, 6, 1_000, 25_429
    products = 2 * length * (4 * width**2 + 2 * width * ffn)
    attention = 2 * 2 * length**2 * width
    head = 2 * 150 * width * (width + vocabulary)
    flop = 115_430 * 2_048 * 3 * (layers * (products + attention) + head)
    assert float(first[4].replace(",", "")) == pytest.approx(flop / 1e13 / 3_600, abs=0.6)
    assert float(first[2]) == round(115_430 * 2_048 * 1_000 / 1e9)


def test_the_recipe_has_the_table_that_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    census_cost.main()
    text = (ROOT / "recipes/census.md").read_text(encoding="utf-8")
    assert f"<!-- census -->\n{capsys.readouterr().out}<!-- /census -->" in text
