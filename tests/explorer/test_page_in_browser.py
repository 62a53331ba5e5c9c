"""The page of `explore` in headless Chromium: what it draws, selects, filters and exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from benchmarks.devtools import Tab, find_browser, open_tab
from matplotlib.image import imread
from matplotlib.path import Path as Polygon
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import cellscribe
from cellscribe.escaping import read_cell
from cellscribe.explorer import neighbors
from cellscribe.report.colours import PALETTE

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason="NO BROWSER: install Chromium"),
]

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>"
LABELS = ["T cell", "B cell", HOSTILE]
N = 600


@pytest.fixture(scope="module")
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    blob = np.arange(N) % 3
    centres = np.array([[0, 0], [10, 0], [5, 9]])
    labels = pd.Series(np.array(LABELS)[blob]).mask(np.arange(N) % 50 == 7)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(labels, categories=[*LABELS, "in no cell"]),
            "score": np.where(np.arange(N) % 40 == 3, np.nan, rng.normal(5, 2, N)),
            "reads": rng.integers(0, 90_000, N),
            "clone": [f"clone {i // 2}" for i in range(N)],
            "=SUM(A1)": rng.random(N) < 0.3,
        },
        index=[HOSTILE, "=1+1", "cell 2", "a,b", *(f"cell {i}" for i in range(4, N))],
    )
    counts = csr_matrix(rng.poisson(1.0, (N, 30)))
    found = AnnData(
        counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(29)] + ["CD3E"])
    )
    found.obsm["X_cellscribe"] = rng.normal(size=(N, 12)) + 3 * np.eye(3, 12)[blob]
    found.obsm["X_ours"] = centres[blob] + rng.normal(size=(N, 2)) * 0.7
    found.obsm["X_theirs"] = rng.uniform(0, 1, (N, 2))
    return found


@pytest.fixture(scope="module")
def tab(adata: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("map")
    options = {"basis": ["X_ours", "X_theirs"], "gene": ["CD3E"], "title": HOSTILE}
    cellscribe.explore(adata, folder / "map.html", **options, log=lambda line: None)
    with open_tab(folder, folder / "map.html") as tab:
        tab.resize(1300, 900)
        tab.wait("document.body.dataset.ready")
        yield tab
        assert tab.value("document.title") == HOSTILE
        assert tab.value("document.images.length") == 0
        assert tab.requests() == [(folder / "map.html").as_uri()]
        assert not tab.complaints()


@pytest.fixture(autouse=True)
def as_at_start(request: pytest.FixtureRequest) -> None:
    """Take back what the test before did to the page that they share."""
    if "tab" in request.fixturenames:
        request.getfixturevalue("tab").value(
            "explorer.tools.lasso(false), explorer.state.clearFilters(),"
            "explorer.state.select([], 'replace'), document.activeElement.blur(),"
            "document.querySelector('#colour').value = 0, explorer.state.colourBy(0), 0"
        )
        request.getfixturevalue("tab").wait(DRAWN)


DRAWN = "!explorer.maps.busy"


def places(tab: Tab, view: int) -> np.ndarray:
    """Where the cells are in the window, ``[N, 2]``."""
    return np.array(
        tab.value(f"[...Array({N}).keys()].map((i) => explorer.views[{view}].position(i))")
    )


def selection(tab: Tab) -> list[int]:
    return tab.value("explorer.state.selection()")


def shot(tab: Tab, tmp_path: Path, view: int) -> np.ndarray:
    """Pixels of a map, ``[height, width, 3]`` of 0 to 255, once it is drawn."""
    tab.wait(DRAWN)
    box = tab.value(
        f"new Promise((done) => setTimeout(() => {{ const {{left, top, right, bottom}} ="
        f"explorer.views[{view}].canvas.getBoundingClientRect();"
        f"done([left, top, right, bottom]) }}, 300))"
    )
    tab.picture(tmp_path / "map.png")
    left, top, right, bottom = (round(side) for side in box)
    return np.rint(imread(tmp_path / "map.png")[top:bottom, left:right, :3] * 255).astype(int)


def drawn(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Where pixels have a colour, about."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return np.abs(pixels - wanted).max(axis=2) < 45


def rows_of_legend(tab: Tab) -> dict[str, str]:
    return dict(
        tab.value(
            "[...document.querySelectorAll('#legend li')].map((row) => "
            "[row.querySelector('.label').textContent, row.querySelector('.number').textContent])"
        )
    )


def expected_counts(adata: AnnData, column: str) -> dict[str, int]:
    return adata.obs[column].astype(str).value_counts().to_dict()


def test_both_maps_are_drawn_in_the_colours_of_the_legend(
    tab: Tab, adata: AnnData, tmp_path: Path
) -> None:
    blob = adata.obs["label"].astype(str)
    order = sorted(LABELS, key=lambda label: (-(blob == label).sum(), label))
    for view in range(2):
        pixels = shot(tab, tmp_path, view)
        for colour in PALETTE[:3]:
            assert drawn(pixels, colour).sum() > 150
    # a class is where its cells are: blobs do not touch
    pixels = shot(tab, tmp_path, 0)
    box = tab.value(
        "(({left, top}) => [left, top])(explorer.views[0].canvas.getBoundingClientRect())"
    )
    there = places(tab, 0) - box
    for label, colour in zip(order, PALETTE, strict=False):
        rows, columns = np.nonzero(drawn(pixels, colour))
        own = there[(blob == label).to_numpy()]
        assert own[:, 0].min() - 6 < np.median(columns) < own[:, 0].max() + 6
        assert own[:, 1].min() - 6 < np.median(rows) < own[:, 1].max() + 6
    # both axes have one scale, and y points up
    xy, screen = adata.obsm["X_ours"], places(tab, 0)
    slopes = [np.polyfit(xy[:, axis], screen[:, axis], 1)[0] for axis in (0, 1)]
    assert slopes[0] == pytest.approx(-slopes[1], rel=0.01)


def test_a_lasso_selects_the_cells_in_it_on_both_maps(
    tab: Tab, adata: AnnData, tmp_path: Path
) -> None:
    there = places(tab, 0)
    blob = np.arange(N) % 3
    low, high = there[blob == 1].min(axis=0) - 8, there[blob == 1].max(axis=0) + 8
    square = [tuple(low), (high[0], low[1]), tuple(high), (low[0], high[1]), tuple(low)]
    tab.press("l")
    tab.drag(square)
    tab.wait("explorer.state.n_selected > 0")
    assert selection(tab) == np.flatnonzero(blob == 1).tolist()
    assert tab.value("document.querySelector('#status').textContent") == "200 selected of 600 cells"
    # the other map shows the same cells and fades the others
    others = PALETTE[[*rows_of_legend(tab)].index("T cell")]
    faded = drawn(shot(tab, tmp_path, 1), others).sum()
    tab.value("explorer.state.select([], 'replace')")
    assert drawn(shot(tab, tmp_path, 1), others).sum() > 10 * max(faded, 1)
    # a shape with a dent, through the middle of a blob
    centre = there[blob == 2].mean(axis=0)
    dented = [tuple(centre + at) for at in [(-60, -60), (60, -60), (0, 0), (60, 60), (-60, 60)]]
    corners = [np.linspace(a, b, 12) for a, b in zip(dented, dented[1:] + dented[:1], strict=True)]
    tab.drag([tuple(point) for point in np.concatenate(corners)])
    tab.wait("explorer.state.n_selected > 0")
    shape = Polygon([*dented, dented[0]])
    inside = shape.contains_points(there)
    sure = shape.contains_points(there, radius=3) == shape.contains_points(there, radius=-3)
    found = np.isin(np.arange(N), selection(tab))
    assert 10 < inside.sum() < 190
    np.testing.assert_array_equal(found[sure], inside[sure])


def test_the_legend_counts_hides_isolates_and_filters(tab: Tab, adata: AnnData) -> None:
    counts = expected_counts(adata, "label")
    shown = {name if name != "nan" else "no value": str(n) for name, n in counts.items()}
    assert rows_of_legend(tab) == shown
    hide = "document.querySelector('#legend button').click()"
    first = next(iter(rows_of_legend(tab)))
    tab.value(hide)
    assert tab.value("explorer.state.n_visible") == N - counts[first]
    assert tab.value("document.querySelector('#legend button').ariaPressed") == "false"
    tab.value(hide)
    tab.value("document.querySelectorAll('#legend .small')[2].click()")
    second = [*rows_of_legend(tab)][1]
    assert tab.value("explorer.state.n_visible") == counts[second]
    # with a range of another column
    tab.value("explorer.state.keepRange(4, 6, 1)")
    both = (adata.obs["label"] == second) & adata.obs["score"].between(4, 6)
    assert tab.value("explorer.state.n_visible") == both.sum() > 0
    filters = tab.value("document.querySelector('#filters').textContent")
    assert re.findall(r"label: 3 hidden|score: 4 to 6", filters) == [
        "label: 3 hidden",
        "score: 4 to 6",
    ]
    # what is hidden is not selected
    tab.value("document.querySelector('#all').click()")
    assert selection(tab) == np.flatnonzero(both).tolist()
    tab.value("explorer.state.colourBy(3)")
    many = rows_of_legend(tab)
    assert len(many) == len(PALETTE) + 1
    assert many["280 other"].endswith(f"/ {N - 2 * len(PALETTE)}")


def test_a_click_shows_the_nearest_cells(tab: Tab, adata: AnnData) -> None:
    there = places(tab, 0)
    # a cell with room around it
    apart = np.sort(np.linalg.norm(there[:, None] - there[None], axis=2), axis=1)[:, 1]
    cell = int(apart.argmax())
    tab.mouse("mouseMoved", *there[cell], buttons=0)
    tab.click(*there[cell])
    tab.wait("explorer.state.cell >= 0")
    standard = StandardScaler().fit_transform(adata.obsm["X_cellscribe"].astype(np.float32))
    search = NearestNeighbors(n_neighbors=16, metric="cosine").fit(standard)
    near = search.kneighbors(standard[[cell]], return_distance=False)[0].tolist()
    assert near[0] == cell
    assert selection(tab) == sorted(near)
    listed = tab.value("[...document.querySelectorAll('#near .label')].map((e) => e.textContent)")
    assert listed == adata.obs_names[near[1:]].tolist()
    assert tab.value("document.querySelector('#cell-name').textContent") == adata.obs_names[cell]
    # a cell is found by its name as well, markup and all
    tab.value(f"document.querySelector('#wanted').value = {json.dumps(HOSTILE)}")
    tab.value("document.querySelector('#find').requestSubmit()")
    assert tab.value("explorer.state.cell") == 0


def test_the_selection_is_saved_as_csv(tab: Tab, adata: AnnData, tmp_path: Path) -> None:
    tab.value("explorer.state.select([0, 1, 2, 3, 43, 57, 599], 'replace')")
    tab.value("document.querySelectorAll('#export input')[3].click()")
    tab.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.value("document.querySelector('#save').click()")
    tab.wait("new Promise((done) => setTimeout(() => done(true), 500))")
    tab.value("document.querySelectorAll('#export input')[3].click()")
    saved = pd.read_csv(tmp_path / "selection.csv", dtype=str, keep_default_na=False)
    names = ["label", "score", "reads", "=SUM(A1)"]
    assert [read_cell(name) for name in saved] == ["cell_id", *names, "CD3E"]
    kept = adata.obs.iloc[[0, 1, 2, 3, 43, 57, 599]]
    assert [read_cell(each) for each in saved["cell_id"]] == list(kept.index)
    assert saved["cell_id"][1] == "'=1+1"
    labels = kept["label"].astype(object).where(kept["label"].notna(), "")
    assert saved["label"].tolist() == labels.tolist()
    assert saved["reads"].astype(int).tolist() == kept["reads"].tolist()
    np.testing.assert_allclose(pd.to_numeric(saved["score"]), kept["score"], rtol=1e-6)
    counts = adata.X[kept.index.map(adata.obs_names.get_loc)]
    logs = np.log1p(counts[:, 29].toarray().ravel() / counts.sum(axis=1).A1 * 1e4)
    np.testing.assert_allclose(saved["CD3E"].astype(float), logs, rtol=1e-3, atol=1e-3)


def test_everything_is_done_by_keys(tab: Tab, adata: AnnData) -> None:
    focus = "(({id, className, tagName}) => id || className || tagName)(document.activeElement)"
    tab.value("document.querySelector('.skip').focus()")
    order = [tab.value(focus)]
    for _ in range(10):
        tab.press("Tab")
        order.append(tab.value(focus))
    before = ["skip", "colour", "lasso", "zoom-out", "zoom-in", "fit", "wanted", "show-help"]
    assert order[: len(before)] == before
    assert order[len(before) : len(before) + 3] == ["CANVAS", "CANVAS", "class"]
    # in the legend: the next class, selected, and hidden
    tab.press("ArrowDown")
    second = [*rows_of_legend(tab)][1]
    tab.press("s")
    chosen = (adata.obs["label"] == second).sum()
    assert tab.value("explorer.state.n_selected") == chosen
    tab.press("o")
    assert tab.value("explorer.state.n_visible") == chosen
    tab.press("o")
    assert tab.value("explorer.state.n_visible") == N
    tab.press("Escape")
    assert selection(tab) == []
    tab.press("a")
    assert len(selection(tab)) == N
    # maps: zoom and move
    at = places(tab, 0)
    tab.press("+")
    zoomed = places(tab, 0)
    assert np.ptp(zoomed, axis=0) == pytest.approx(np.ptp(at, axis=0) / 0.7, rel=0.01)
    tab.value("explorer.views[1].canvas.focus()")
    still, moved = places(tab, 0), places(tab, 1)
    tab.press("ArrowRight")
    np.testing.assert_allclose(places(tab, 0), still)
    assert (places(tab, 1)[:, 0] < moved[:, 0]).all()
    tab.press("0")
    np.testing.assert_allclose(places(tab, 0), at, atol=1e-3)
    tab.press("?")
    assert tab.value("document.querySelector('#help').open")
    tab.press("Escape")
    assert not tab.value("document.querySelector('#help').open")


CONTRAST = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => linear(part / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, script")) continue;
    const ink = light(parse(getComputedStyle(element).color));
    const [low, high] = [ink, light(ground(element))].sort((a, b) => a - b);
    found.push([element.textContent.slice(0, 20), (high + .05) / (low + .05)]);
  }
  return found;
})()"""
"""Texts, and the contrast of each with what lies behind it (WCAG 2.2)."""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_are_readable_and_nothing_overflows(tab: Tab, dark: bool) -> None:
    try:
        tab.value("explorer.panels.open(5), explorer.state.hide(new Set([1])), 0")
        for width in (1300, 420):
            tab.resize(width, 900, dark=dark)
            found: list[tuple[str, float]] = tab.value(CONTRAST)
            assert len(found) > 60
            assert not [each for each in found if each[1] < 4.5]
            assert tab.value("document.documentElement.scrollWidth") <= width
        body: str = tab.value("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", body))) < 60) is dark
    finally:
        tab.resize(1300, 900)


def nearly(rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Neighbors as a search gives them that misses the fifth part of them."""
    search = NearestNeighbors(n_neighbors=301, metric="cosine").fit(rows)
    near = search.kneighbors(rows, return_distance=False)[:, 1:]
    return np.hstack([near[:, : k - k // 5], near[:, 300 - k // 5 :]])


def test_fingers_and_a_page_of_many_cells(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as of more cells than 16 bits count, without any column, and one map
    monkeypatch.setattr(neighbors, "EXACT_CELLS", 100)
    monkeypatch.setattr(neighbors, "BASE", 64)
    monkeypatch.setattr(neighbors, "_approximate", nearly)
    bare = AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm=dict(adata.obsm))
    page = tmp_path / "map.html"
    done = cellscribe.explore(bare, page, basis=["X_ours"], log=lambda line: None)
    assert done.columns == ()
    with open_tab(tmp_path, page) as tab:
        tab.resize(420, 800)
        tab.wait("document.body.dataset.ready")
        assert rows_of_legend(tab) == {"all": "600"}
        assert "found 80% of the nearest" in tab.value(
            "document.querySelector('#near-how').textContent"
        )
        standard = StandardScaler().fit_transform(adata.obsm["X_cellscribe"].astype(np.float32))
        listed = nearly(standard, neighbors.FEWER, 0)
        found = tab.value(f"[...Array({N}).keys()].map((i) => explorer.panels.near(i))")
        assert found == listed.tolist()
        at = places(tab, 0)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            held: list[dict[str, Any]] = [
                {"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)
            ]
            tab.send("Input.dispatchTouchEvent", type=kind, touchPoints=held)

        x, y = at.mean(axis=0)
        touch("touchStart", (x, y))
        tab.wait("new Promise((done) => setTimeout(() => done(true), 300))")
        for step in range(1, 6):
            touch("touchMove", (x + 8 * step, y))
        touch("touchEnd")
        tab.wait("new Promise((done) => setTimeout(() => done(true), 300))")
        moved = places(tab, 0) - at
        assert moved[:, 0].mean() == pytest.approx(40, abs=15)
        assert abs(moved[:, 1]).max() < 2
        assert not tab.complaints()
