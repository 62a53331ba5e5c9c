"""What `explore` packs into a page, held against pandas, scikit-learn and the input; refusals."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix
from scripts import build_explorer
from sklearn.decomposition import PCA
from support.command import COUNTS, Cli
from support.formats import annotated, write_zarr
from support.tiny import real_genes

import cellscribe
from cellscribe.cells.log_norm import log_norm
from cellscribe.errors import InputError
from cellscribe.explorer import layouts, neighbors
from cellscribe.explorer.columns import MOST_LEVELS, pack_column
from cellscribe.explorer.packing import Packing

N = 8
"""Fewer cells than a UMAP is made of, which takes half a minute to compile."""


class Read:
    """A page, read without a browser."""

    def __init__(self, text: str) -> None:
        found = re.search(r'id="about">(.*?)</script>.*?id="cells">(.*?)</script>', text, re.DOTALL)
        assert found is not None
        self.about: dict[str, Any] = json.loads(found[1])
        self.content = zlib.decompress(base64.b64decode(found[2]))

    def array(self, ref: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(self.content, f"<{ref['type']}", ref["n"], ref["at"])

    def ids(self) -> list[str]:
        ref = self.about["ids"]
        return json.loads(self.content[ref["at"] : ref["at"] + ref["n"]])

    def column(self, name: str) -> dict[str, Any]:
        return next(each for each in self.about["columns"] if each["name"] == name)

    def classes(self, name: str) -> list[str | None]:
        column = self.column(name)
        levels = [*column["levels"], None]
        return [levels[code] for code in self.array(column["data"])]


def packed(values: Any) -> tuple[dict[str, Any] | None, list[str | None] | np.ndarray]:
    """What is known of a column, and its values read back."""
    packing = Packing()
    about = pack_column("x", pd.Series(values), packing)
    if about is None:
        return None, []
    content = zlib.decompress(base64.b64decode(packing.text()))
    numbers = np.frombuffer(content, f"<{about['data']['type']}", about["data"]["n"])
    if about["kind"] == "numbers":
        return about, numbers
    levels = [*about["levels"], None]
    return about, [levels[code] for code in numbers]


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {"label": list("aabbbccc"), "depth": rng.random(N)}, index=[f"cell {i}" for i in range(N)]
    )
    var = pd.DataFrame(
        {"gene_symbol": ["CD3E", "LYZ", "MS4A1", "NKG7"]},
        index=["ENSG00000198851", "ENSG00000090382", "ENSG00000156738", "ENSG00000105374"],
    )
    found = AnnData(csr_matrix(rng.poisson(3.0, (N, 4))), obs=obs, var=var)
    found.obsm["X_cellscribe"] = rng.normal(size=(N, 5)).astype(np.float32)
    found.obsm["X_flat"] = rng.normal(size=(N, 2))
    return found


def made(source: Any, tmp_path: Path, name: str = "map.html", **settings: Any) -> Read:
    cellscribe.explore(source, tmp_path / name, log=lambda line: None, **settings)
    return Read((tmp_path / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a", "b", None, float("nan")], ["b", "a", "b", None, None]),
        ([True, False, True], ["True", "False", "True"]),
        (pd.array([True, None, False], "boolean"), ["True", None, "False"]),
        ([b"caf\xc3\xa9", b"\xff", b"x"], ["café", "\ufffd", "x"]),
        (pd.to_datetime(["2024-01-02", None, "2023-05-06 07:08"], format="ISO8601"),
         ["2024-01-02", None, "2023-05-06 07:08:00"]),
        ([3, 1, 3], ["3", "1", "3"]),
        (pd.array([3, None, 1], "Int64"), ["3", None, "1"]),
        (pd.Categorical(["x", None, "x"], categories=["never", "x"]), ["x", None, "x"]),
        ([1, "1", 2.5, ("t",)], ["1", "1", "2.5", "('t',)"]),
        ([None, None], [None, None]),
        ([1 + 2j, 3j], ["(1+2j)", "3j"]),
    ],
)  # fmt: skip
def test_classes_are_what_pandas_has(values: Any, expected: list[str | None]) -> None:
    about, found = packed(values)
    assert about is not None
    assert found == expected
    counts = pd.Series(expected, dtype=object).value_counts()
    assert sorted(about["levels"]) == sorted(counts.index)
    sizes = [counts[level] for level in about["levels"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(100), "u1"),
        (np.arange(1000), "u2"),
        (np.arange(-5, 70_000), "i4"),
        (np.linspace(0, 1, 50), "f4"),
        (np.append(np.linspace(0, 1, 50), [np.nan, np.inf, -np.inf]), "f4"),
        (np.arange(50) * 10**12, "f4"),
        (pd.array([*range(50), None], "Int64"), "f4"),
        (np.arange(50, dtype=np.float16) / 3, "f4"),
        ([np.nan, np.nan], "f4"),
    ],
)
def test_numbers_are_kept(values: Any, kind: str) -> None:
    about, found = packed(values)
    assert about is not None
    assert about["data"]["type"] == kind
    exact = pd.Series(values).to_numpy(np.float64, na_value=np.nan)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    finite = exact[np.isfinite(exact)]
    if len(finite):
        assert about["low"] == finite.min() <= about["from"] <= about["to"] <= about["high"]
        assert about["high"] == finite.max()
    json.dumps(about, allow_nan=False)


def test_many_classes_are_kept_and_too_many_left_out(adata: AnnData, tmp_path: Path) -> None:
    names = [f"clone {i}" for i in range(5000)]
    about, found = packed(names)
    assert about is not None
    assert found == names
    assert packed([str(i) for i in range(MOST_LEVELS + 1)])[0] is None
    many = pd.DataFrame({f"c{i}": list("aabbbccc") for i in range(43)}, index=adata.obs_names)
    page = made(AnnData(obs=many, obsm=dict(adata.obsm)), tmp_path)
    assert len(page.about["columns"]) == 40
    assert page.about["notes"] == ["Columns of obs that are not on the page: c40, c41, c42."]


def test_the_page_has_what_the_file_has(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    write_zarr(adata, tmp_path / "x.zarr")
    settings: dict[str, Any] = {"basis": ["X_flat", "pca"], "gene": ["LYZ", "ENSG00000105374"]}
    pages = [
        made(source, tmp_path, f"{i}.html", title="t", **settings)
        for i, source in enumerate([adata, tmp_path / "x.h5ad", tmp_path / "x.zarr"])
    ]
    for page in pages:
        assert page.about | {"source": ""} == pages[0].about | {"source": ""}
        assert page.content == pages[0].content
    page = pages[0]
    assert page.ids() == list(adata.obs_names)
    assert page.classes("label") == adata.obs["label"].tolist()
    np.testing.assert_allclose(page.array(page.column("depth")["data"]), adata.obs["depth"], 1e-6)
    logs = log_norm(adata.X).toarray()
    for name, at in (("LYZ", 1), ("ENSG00000105374", 3)):
        gene = page.column(name)
        step = logs[:, at].max() / 65_535
        np.testing.assert_allclose(page.array(gene["data"]) * step, logs[:, at], atol=step)
    # both axes of a map have one scale
    xy = page.array(page.about["views"][0]["data"]).reshape(2, N).T.astype(float)
    span = np.ptp(adata.obsm["X_flat"], axis=0).max()
    np.testing.assert_allclose(
        xy - xy.mean(axis=0),
        (adata.obsm["X_flat"] - adata.obsm["X_flat"].mean(axis=0)) / span * 65_534, atol=1.1,
    )  # fmt: skip
    # neighbors are those of scikit-learn's cosine, nearest first
    about = page.about["neighbors"]
    near = page.array(about["low"]).reshape(N, 7)
    standard = adata.obsm["X_cellscribe"] - adata.obsm["X_cellscribe"].mean(axis=0)
    standard /= standard.std(axis=0)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    cosine = standard @ standard.T
    np.fill_diagonal(cosine, -2)
    np.testing.assert_array_equal(near, np.argsort(-cosine, axis=1)[:, :7])


def test_components_are_those_of_a_pca() -> None:
    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, (60, 30)))
    found = layouts.principal_components(counts)
    exact = PCA(30).fit_transform(log_norm(counts).toarray())
    np.testing.assert_allclose(np.abs(found), np.abs(exact), atol=1e-3)


def test_maps_that_are_drawn_unless_some_are_named(adata: AnnData, tmp_path: Path) -> None:
    def views(**settings: Any) -> list[str]:
        return [
            each["name"]
            for each in made(adata, tmp_path, overwrite=True, **settings).about["views"]
        ]

    assert views() == ["X_cellscribe (PCA)", "PCA of the counts (PCA)"]
    assert views(basis=["X_flat"]) == ["X_flat"]
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(N, 4))
    assert views() == ["X_cellscribe (PCA)", "X_pca (PCA)"]
    adata.obsm["X_umap"] = adata.obsm["X_flat"]
    assert views() == ["X_cellscribe (PCA)", "X_umap"]
    adata.uns["neighbors"] = {"params": {"use_rep": "X_cellscribe"}}
    assert views() == ["X_umap", "X_pca (PCA)"]
    # what is no matrix of vectors is passed over
    adata.obsm["A_table"] = pd.DataFrame({"protein": np.ones(N)}, index=adata.obs_names)
    adata.obsm["B_column"] = np.ones((N, 1))
    ours = adata.obsm.pop("X_cellscribe")
    assert views() == ["X_pca (PCA)", "X_umap"]
    adata.obsm["X_cellscribe"] = ours
    for key in ("X_umap", "X_pca", "A_table", "B_column"):
        del adata.obsm[key]
    adata.X = csr_matrix(log_norm(adata.X))
    assert views() == ["X_cellscribe (PCA)"]


def test_cells_without_vectors_have_no_place_and_no_neighbors(
    adata: AnnData, tmp_path: Path
) -> None:
    adata.obsm["X_flat"][2, 0] = np.nan
    adata.obsm["X_cellscribe"][3, 1] = np.inf
    page = made(adata, tmp_path, basis=["X_flat", "X_cellscribe"])
    first, second = (page.array(each["data"]).reshape(2, N) for each in page.about["views"])
    assert np.flatnonzero((first == 65_535).any(axis=0)).tolist() == [2]
    assert np.flatnonzero((second == 65_535).any(axis=0)).tolist() == [3]
    assert "X_flat: 1 cell without a place." in page.about["notes"]
    near = page.array(page.about["neighbors"]["low"]).reshape(N, -1)
    assert (near[3] == N).all()
    assert 3 not in near[[0, 1, 2, 4, 5, 6, 7]]


def test_some_cells_are_drawn_by_a_seed(adata: AnnData, tmp_path: Path) -> None:
    pages = [
        made(adata, tmp_path, f"{i}.html", basis=["X_flat"], max_cells=5, seed=seed)
        for i, seed in enumerate([3, 3, 4])
    ]
    assert pages[0].content == pages[1].content
    assert pages[0].ids() != pages[2].ids()
    assert pages[0].about["notes"][0] == "5 of 8 cells, drawn at random (seed 3)."
    ids = pages[0].ids()
    assert len(set(ids)) == 5
    assert pages[0].classes("label") == adata.obs.loc[ids, "label"].tolist()


def test_text_of_the_input_is_no_markup(adata: AnnData, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\u2028<!--"
    adata.obs[hostile] = hostile
    adata.obs_names = [hostile, *adata.obs_names[1:]]
    page = made(adata, tmp_path, basis=["X_flat"], title=hostile, gene=["LYZ"])
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert text.count("<img") == text.count("<!--") == 0
    assert text.count("</script>") == 3
    assert page.about["title"] == page.ids()[0] == page.classes(hostile)[0] == hostile


def test_embed_makes_it_and_the_report_links_to_it(
    tmp_path: Path, run: Cli, tiny_model: Path
) -> None:
    annotated(COUNTS[:N].astype(np.float32), real_genes).write_h5ad(tmp_path / "cells.h5ad")
    words = ["embed", tmp_path / "cells.h5ad", "--model", tiny_model, "-o"]
    (tmp_path / "pages").mkdir()
    drawn = ["--report", tmp_path / "report.html", "--explore", tmp_path / "pages" / "a map.html"]
    assert "write an .h5ad" in run(*words, tmp_path / "vectors.npy", *drawn).err
    ran = run(*words, tmp_path / "vectors.h5ad", *drawn)
    assert ran.status == 0, ran.err
    page = Read((tmp_path / "pages" / "a map.html").read_text(encoding="utf-8"))
    assert page.about["views"][0]["name"] == "X_cellscribe (PCA)"
    assert page.about["n"] == N
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'href="pages/a%20map.html"' in report
    assert len(report) < 300_000


@pytest.mark.slow
def test_the_search_that_is_not_exact_finds_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "EXACT_CELLS", 100)
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    about = neighbors.pack_neighbors(vectors, Packing())
    assert about is not None
    assert about["recall"] > 0.9


def changed(adata: AnnData, how: str) -> AnnData:
    if how == "no cells":
        return adata[:0].copy()
    if how == "no obsm":
        return AnnData(adata.X, obs=adata.obs, var=adata.var)
    if how == "all NaN":
        adata.obsm["X_flat"][:] = np.nan
    return adata


@pytest.mark.parametrize(
    ("how", "settings", "message"),
    [
        ("no cells", {}, "holds no cell; there is nothing to draw"),
        ("no obsm", {}, "obsm holds no vectors to draw; run cellscribe embed first"),
        ("all NaN", {"basis": ["X_flat"]}, "X_flat: no cell has finite numbers"),
        ("", {"basis": ["X_umpa"]}, "obsm has no 'X_umpa'; it has X_cellscribe, X_flat"),
        ("", {"basis": ["a", "b", "c"]}, "names 3 maps; two at most"),
        ("", {"use_rep": "X_flat"}, "holds two columns, which are no vectors"),
        ("", {"gene": ["CD3F"]}, r"has no gene 'CD3F' \(gene=\.\.\.\); near it: CD3E"),
        ("", {"gene": ["LYZ", "LYZ"]}, 'gene="LYZ" is named twice'),
        ("", {"color": ["lable"]}, r"obs has no column 'lable' \(color=\.\.\.\); near it: label"),
        ("", {"max_cells": 0}, "max_cells must be positive, not 0"),
    ],
)
def test_bad_input_is_one_line(
    adata: AnnData, tmp_path: Path, how: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        made(changed(adata, how), tmp_path, **settings)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_command_line(adata: AnnData, tmp_path: Path, run: Cli) -> None:
    path, out = tmp_path / "x.h5ad", tmp_path / "map.html"
    adata.write_h5ad(path)

    def refused(source: Path, to: Path) -> str:
        ran = run("explore", source, "-o", to)
        assert ran.status == 2
        return ran.err

    ran = run("explore", path, "-o", out, "--basis", "X_flat", "--gene", "CD3E")
    assert (ran.status, ran.out.strip()) == (0, str(out))
    assert "8 cells, X_flat, 0." in ran.err
    assert "exists already; give --overwrite" in refused(path, out)
    assert "a map is made of an .h5ad" in refused(out, tmp_path / "b.html")
    assert "give it a name with .html" in refused(path, tmp_path / "b.png")
    path.write_bytes(path.read_bytes()[:3000])
    assert refused(path, tmp_path / "b.html").count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.html", "x.h5ad"]


def test_the_bundle_is_that_of_the_lock_and_its_licences_are_told() -> None:
    record = json.loads(build_explorer.RECORD.read_text())
    assert record["bundle"] == build_explorer.sha256(build_explorer.BUNDLE)
    assert {key: record[key] for key in ("lock", "sources")} == build_explorer.made_of()
    told = build_explorer.licences()
    assert record["packages"] == build_explorer.bundled()
    for name, entry in record["packages"].items():
        version, licence = entry.split(" ")
        assert licence in ("MIT", "ISC")
        assert name.rpartition("node_modules/")[2] in told
        assert version in told
    assert told in build_explorer.BUNDLE.read_text(encoding="utf-8")
