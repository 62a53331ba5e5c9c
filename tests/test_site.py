"""The site: every link of its pages leads somewhere, everything public is on it, its code runs."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import cellscribe
from cellscribe.cli import app
from cellscribe.config import EmbedOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("notebooks/*.md")])
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.md"))
DATA = ROOT.parent / "shared" / "data"

sys.path.insert(0, str(DOCS))
import site_pages  # noqa: E402

IDS = {"ids": lambda path: path.name}


def links(path: Path) -> Iterator[str]:
    """Targets of links and pictures of a page that lie in this repository."""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8")):
        for child in token.children or ():
            target = str(child.attrGet("href") or child.attrGet("src") or "")
            if target and not re.match(r"[a-z]+:", target):
                yield target


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    tokens = MarkdownIt("commonmark").parse(path.read_text("utf-8"))
    titles = [b.content for a, b in itertools.pairwise(tokens) if a.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, **IDS)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), target
        if anchor:
            assert anchor in anchors(page), target


def test_every_picture_has_a_text_in_its_place() -> None:
    for path in PAGES:
        text = path.read_text("utf-8")
        assert all(len(alt) > 20 for alt in re.findall(r"!\[([^\]]*)\]\(", text)), path.name


def test_every_page_stands_in_the_menu() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    trees = [block.partition("```")[0] for block in index.split("```{toctree}")[1:]]
    listed = {re.sub(r".*<(.*)>", r"\1", line) for tree in trees for line in tree.splitlines()}
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed


def test_everything_public_is_on_the_reference() -> None:
    text = "".join((DOCS / name).read_text("utf-8") for name in ("api.md", "api-options.md"))
    named = re.findall(r"auto(?:function|class|exception):: cellscribe\.(\w+)", text)
    assert sorted(named) == sorted(cellscribe.__all__)


def test_the_command_line_reference_has_every_verb_and_option() -> None:
    text = site_pages.verbs()
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"embed", "index build", "corpus census", "import"} <= set(titles)
    assert len(titles) == len(set(titles)) == len(list(site_pages.named_verbs(app)))
    embed = text.split("## embed\n")[1].split("\n## ")[0]
    flags = {f"--{name.replace('_', '-')}" for name in EmbedOptions.__dataclass_fields__}
    assert flags <= set(re.findall(r"`(--[\w-]+)`", embed))
    assert "| `float32` |" in embed and "cellscribe embed cells.h5ad" in embed


def test_names_of_parameters_on_two_lines_are_joined() -> None:
    lines = ["Parameters", "a, b,", "c", "    As for it, or", "    so."]
    site_pages.join_names(None, "function", "f", None, None, lines)
    assert lines == ["Parameters", "a, b, c", "    As for it, or", "    so."]


def blocks(path: Path, kind: str) -> list[str]:
    tokens = MarkdownIt().parse(path.read_text("utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info == kind]


@pytest.mark.parametrize("path", PAGES, **IDS)
def test_python_on_a_page_calls_what_there_is(path: Path) -> None:
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("cellscribe."):
                function = cellscribe
                for name in ast.unparse(node.func).split(".")[1:]:
                    function = getattr(function, name)
                taken = inspect.signature(function).parameters  # type: ignore[arg-type]
                assert {word.arg for word in node.keywords} <= set(taken), ast.unparse(node)


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the cells of a notebook in a folder, and return its names."""
    import matplotlib

    matplotlib.use("Agg")
    path = DOCS / "notebooks" / f"{name}.md"
    if lacking := [
        f for f in site_pages.files_of(path.read_text("utf-8")) if not (DATA / f).exists()
    ]:
        pytest.skip(f"{lacking[0]} is not there")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CELLSCRIBE_DATA", str(DATA))
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(None):
        for code in blocks(path, "{code-cell} ipython3"):
            exec(compile(code, path.name, "exec"), names)
    return names


QUIET = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::FutureWarning")


@QUIET
def test_notebook_scanpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scanpy")
    names = run("scanpy", tmp_path, monkeypatch)
    adata = names["adata"]
    counts = cellscribe.sample()[::3].X
    assert abs(counts.astype(int) - adata.X.astype(int)).nnz == 0  # raw counts are as they were
    log = np.log1p(counts.multiply(1e4 / counts.sum(axis=1)).toarray())
    spread = np.linalg.svd(log - log.mean(axis=0), compute_uv=False)[:50]
    np.testing.assert_allclose(
        np.linalg.norm(adata.obsm["X_pca"], axis=0)[:5], spread[:5], rtol=1e-2
    )
    # far above calling every cell by the largest type
    assert names["score"]["X_cellscribe"] > 0.5


def test_notebook_annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("annotate", tmp_path, monkeypatch)
    b_cells = (names["truth"] == "B cells").to_numpy()
    assert (names["adata"].obs["cellscribe_label"][b_cells] == "B cell").mean() > 0.8
    new = names["new"]
    assert set(new.obs["mine_label"]) <= {*names["reference"].obs["cell_type"], "unknown"}
    called = new.obs[new.obs["mine_label"] != "unknown"]
    largest = new.obs["cell_type"].value_counts(normalize=True).max()
    assert (
        called["mine_label"].astype(str) == called["cell_type"].astype(str)
    ).mean() > largest + 0.2


def test_notebook_perturb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run("perturb", tmp_path, monkeypatch)["table"].set_index("symbol")
    cells = cellscribe.sample()
    cells = cells[cells.obs["cell_type"] == "B cells"][:40]
    for gene in table.index:
        column = cells.X[:, cells.var_names.get_loc(gene)]
        shown = (column > 0).toarray().ravel()
        whole = np.asarray((cells.X > 0).sum(axis=1)).ravel() <= 1024  # no gene of these is cut off
        assert (shown & whole).sum() <= table.loc[gene, "n_cells"] <= shown.sum()
    assert table["shift"].between(0, 2).all()


@QUIET
@pytest.mark.slow
def test_notebook_compare_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run("compare-models", tmp_path, monkeypatch)["results"]
    assert {r.task for r in results} == {"celltype"}


@QUIET
@pytest.mark.slow
def test_notebook_donors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scanpy")
    names = run("donors", tmp_path, monkeypatch)
    assert set(names["new"].obs["donor"]) == {"human4"}
    assert "human4" not in set(names["known"].obs["donor"])
    assert names["right"].mean() > 0.5
    assert (names["mixing"]["chance"] < 1).all()
