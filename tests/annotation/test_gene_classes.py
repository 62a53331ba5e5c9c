"""Labels of genes: learnt from a list, held out, saved, and given by the verb genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.command import Cli, nothing_new, refused
from support.tiny import N_GENES, real_genes
from support.typed_cells import saved, typed_cells

import cellscribe
from cellscribe.model.heads import load_head

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vectors(tiny_model: Path) -> pd.DataFrame:
    """Mean vectors of the genes, a row a gene."""
    found = cellscribe.embed_genes(
        typed_cells(60), model=tiny_model, precision="float32", log=lambda _: None
    )
    return pd.DataFrame(found.X, index=found.obs_names)


@pytest.fixture(scope="module")
def planted(vectors: pd.DataFrame) -> pd.Series:
    """Labels that a direction in the space of the vectors decides, but for the nearest genes."""
    side = (vectors - vectors.mean()) @ np.random.default_rng(0).normal(size=vectors.shape[1])
    side = side[side.abs() > side.abs().quantile(0.3)]
    return pd.Series(np.where(side > 0, "up", "down"), index=side.index)


def listed(folder: Path, labels: pd.Series) -> Path:
    path = folder / "list.csv"
    labels.rename("label").rename_axis("gene").to_csv(path)
    return path


def test_planted_labels_are_learnt_and_given(
    planted: pd.Series, vectors: pd.DataFrame, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    cells = saved(tmp_path / "cells.h5ad", typed_cells(60))
    known = planted.iloc[::2]
    words = ("-o", tmp_path / "ft", "--gene-list", listed(tmp_path, known), "--precision=float32")
    ran = run("finetune", tiny_model, cells, *words)
    assert ran.status == 0, ran.err
    assert f"{len(known)} genes of 2 labels learnt with --mode head." in ran.err
    assert "held-out genes may have paralogues" in ran.err
    head = load_head(tmp_path / "ft", "genes")
    assert head.labels == ["down", "up"]
    assert head.about["calibration"]["held_out"]["accuracy"] > 0.8
    # the same as scikit-learn's regression on the same vectors, at one of the penalties tried
    found = head.logits(vectors.loc[known.index].to_numpy())
    gaps = []
    for penalty in (0.01, 0.1, 1.0, 10.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=5_000))
        model.fit(vectors.loc[known.index].to_numpy(), known)
        expected = model.decision_function(vectors.loc[known.index].to_numpy())
        gaps.append(np.abs(found[:, 1] - found[:, 0] - expected).max())
    assert min(gaps) < 1e-2 < max(gaps)
    out = tmp_path / "genes.csv"
    ran = run("genes", cells, "--model", tmp_path / "ft", "-o", out, "--precision=float32")
    assert ran.status == 0, ran.err
    table = pd.read_csv(out, index_col=0)
    others = planted.drop(known.index)
    assert (table.loc[others.index, "best"] == others).mean() > 0.8
    called = table["label"] != "unknown"
    assert (called == (table["probability"] >= head.threshold)).all()
    readme = (tmp_path / "ft" / "README.md").read_text()
    assert f"from {len(known)} genes" in readme
    assert "cellscribe genes CELLS" in readme
    assert "labels of genes" in run("info", tmp_path / "ft").out


def test_labels_are_also_in_anndata(planted: pd.Series, tiny_model: Path, tmp_path: Path) -> None:
    adata = typed_cells(60)
    cellscribe.finetune(
        tiny_model, [adata[:30], adata[30:]], tmp_path / "ft",
        gene_list=listed(tmp_path, planted), log=lambda _: None,
    )  # fmt: skip
    found = cellscribe.embed_genes(adata, model=tmp_path / "ft")
    shares = found.obsm["probabilities"]
    assert list(shares) == ["down", "up"]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares.idxmax(axis=1) == found.obs["best"]).all()
    np.testing.assert_allclose(shares.max(axis=1), found.obs["probability"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gene-list", "no.csv"], "no.csv: no such file; --gene-list takes a CSV or TSV"),
        (["--gene-list", "LIST", "--label", "cell_type"], "say what to learn: --label"),
        (["--gene-list", "LIST", "--mode", "last"], "leave out --mode and --group"),
        (["--gene-list", "LIST", "--group", "donor"], "leave out --mode and --group"),
        (["--gene-list", "LIST", "--min-cells", "99"], "at least two labels of 99 genes"),
        (["--gene-list", "OTHER"], "at least two labels of 10 genes that the cells show"),
        ([], "say what to learn: --label COLUMN of obs, or --target COLUMN"),
    ],
)
def test_what_is_refused(
    words: list[str], told: str, tiny_model: Path, tmp_path: Path, run: Cli
) -> None:
    ids, _ = real_genes(N_GENES)
    half = pd.Series(["a", "b"] * 40, index=ids[:80])
    paths = {"LIST": listed(tmp_path, half)}
    (tmp_path / "other").mkdir()
    paths["OTHER"] = listed(tmp_path / "other", half.iloc[:12])
    cells = saved(tmp_path / "cells.h5ad", typed_cells(20))
    given = [paths.get(word, word) for word in words]
    ran = run("finetune", tiny_model, cells, "-o", tmp_path / "ft", *given)
    assert told in refused(ran)
    nothing_new(tmp_path, "cells.h5ad", "list.csv", "other")
