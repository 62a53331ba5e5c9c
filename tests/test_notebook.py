"""In a notebook, whose display is stood in for: bars and tables."""

from __future__ import annotations

import asyncio
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from support.formats import annotated
from support.tiny import WIDTH, real_genes, some_counts

import cellscribe
from cellscribe.notebook import facts_html, in_notebook, notebook_bar


class Shown(HTMLParser):
    """Attributes of the tags of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is displayed, one entry for each look of each output."""
    looks: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            looks.append(html)

    def display(html: str, display_id: bool) -> Handle:
        assert display_id
        looks.append(html)
        return Handle()

    ipython, of_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    of_display.HTML, of_display.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    return looks


@pytest.fixture
def cells() -> ad.AnnData:
    return annotated(sp.csr_matrix(some_counts(50)), real_genes)


def test_a_bar_is_shown_in_a_notebook_alone(
    notebook: list[str], cells: ad.AnnData, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cellscribe.embed(cells, model=tiny_model)
    (_, bar) = Shown(notebook[-1]).tags[-1]
    assert bar == {"value": "50", "max": "50"}
    assert "embed" in Shown(notebook[-1]).text
    notebook.clear()
    told: list[int] = []
    cellscribe.embed(
        cells, model=tiny_model, progress=lambda done, total, what=None: told.append(done)
    )
    assert told[-1] == 50
    assert notebook == []
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()
    cellscribe.embed(cells, model=tiny_model)
    assert notebook == []


def test_steps_and_names_are_texts(notebook: list[str]) -> None:
    bar = notebook_bar("<b>embed</b>")
    bar(1, 4)
    bar(4, 4, "<i>second</i>")
    assert [tag for tag, _ in Shown("".join(notebook)).tags] == ["label", "progress"] * 2
    assert "<b>embed</b> 1 of 4" in " ".join(Shown(notebook[0]).text.split())
    assert "<i>second</i> 4 of 4" in " ".join(Shown(notebook[1]).text.split())


def test_a_model_is_a_table(tiny_model: Path) -> None:
    page = Shown(cellscribe.load(tiny_model, device="cpu")._repr_html_())
    assert page.text.startswith("cellscribe model tiny")
    assert f"{WIDTH} values a cell" in page.text
    assert Shown(facts_html("a", {"<b>": "<script>"})).tags[-1][0] == "td"


def test_within_a_running_event_loop(cells: ad.AnnData, tiny_model: Path, tmp_path: Path) -> None:
    """As in a notebook, whose cells run in one; zarr has a loop of its own."""

    async def cell() -> None:
        cellscribe.embed(cells, model=tiny_model)
        cellscribe.embed_file(cells, tmp_path / "a.zarr", model=tiny_model)

    asyncio.run(cell())
    written = ad.read_zarr(tmp_path / "a.zarr").obsm["X_cellscribe"]
    np.testing.assert_array_equal(written, cells.obsm["X_cellscribe"])
