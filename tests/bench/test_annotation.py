"""The benchmark of labels: its scores, its joined files, and that its figures are told truly."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from benchmarks import annotation
from benchmarks.annotation import HEAD, OURS, across_figures, shift_figures, within_figures
from benchmarks.annotation_cells import (
    BLOOD,
    COMMON,
    LabelledCells,
    brier,
    joined,
    read_cells,
    scored,
)
from benchmarks.annotation_tables import TABLES
from scipy.sparse import csr_matrix


def planted(
    n: int, kinds: list[str], seed: int, ids: list[str], groups: list[str]
) -> LabelledCells:
    """Cells of kinds that both vectors and genes tell apart."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % len(kinds)
    genes = rng.poisson(0.2 + 6 * np.eye(len(kinds), len(ids))[kind])
    return LabelledCells(
        vectors=5 * np.eye(len(kinds), 8)[kind] + rng.normal(size=(n, 8)),
        genes=csr_matrix(genes.astype(float)),
        ids=np.array(ids, object),
        names=np.array(kinds, object)[kind],
        groups=np.array(groups, object)[np.arange(n) // len(kinds) % len(groups)],
    )


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(0)
    each = rng.dirichlet(np.ones(3), 60)
    truth = rng.integers(0, 3, 60)
    assert brier(each, truth) == pytest.approx(
        sum(brier_score_loss(truth == c, each[:, c]) for c in range(3))
    )
    names = np.array(list("abc"), object)[truth]
    names[:10] = "strange"
    found = scored(each, 0.6, names, list("abc"))
    best, called = each.argmax(1), each.max(1) >= 0.6
    assert found["unknown_recall"] == pytest.approx((~called[:10]).mean())
    assert found["coverage"] == pytest.approx(called[10:].mean())
    assert found["accuracy"] == pytest.approx((best == truth)[10:].mean())
    assert found["accuracy_called"] == pytest.approx((best == truth)[10:][called[10:]].mean())


def test_files_are_read_and_joined_by_gene(tmp_path: Path) -> None:
    first = ad.AnnData(
        X=csr_matrix(np.array([[3, 0, 1], [0, 2, 0]], np.float32)),
        obs=pd.DataFrame({"cell_type": ["CD14+ Monocyte", "unassigned"]}, index=["a", "b"]),
        var=pd.DataFrame({"ensembl_id": ["ENSG1", "ENSG2", ""]}, index=["x", "y", "z"]),
    )
    first.write_h5ad(tmp_path / "one.h5ad")
    np.save(tmp_path / "one.npy", np.ones((2, 8)))
    read = read_cells(tmp_path / "one.h5ad", "mini", tmp_path, group="file:one", common=True)
    assert read.names is not None
    assert list(read.names) == ["monocyte"]
    np.testing.assert_allclose(read.genes.toarray(), np.log1p([[7500, 0, 2500]]))
    other = planted(4, ["k"], 0, ["ENSG2", "ENSG1"], ["two"])
    both = joined([read, other])
    assert list(both.ids) == ["ENSG1", "ENSG2"]
    assert both.groups is not None
    assert list(both.groups) == ["one", *["two"] * 4]
    np.testing.assert_allclose(both.genes.toarray()[1:], other.genes.toarray()[:, ::-1])


def test_names_that_are_made_one_stand_once() -> None:
    assert len(COMMON) == sum(map(len, BLOOD.values()))


def test_planted_kinds_are_told_apart_and_withheld_ones_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(annotation, "SIZES", (100,))
    monkeypatch.setattr(annotation, "PAIRS", annotation.PAIRS[:2])
    monkeypatch.setattr(annotation, "OTHERS", {})
    monkeypatch.setattr(annotation, "LINES", {"one": "one", "two": "two"})
    ids = [f"ENSG{number}" for number in range(6)]

    def read(stem: str, **_: object) -> LabelledCells:
        seed = sum(map(ord, stem))
        return planted(160, ["a", "b", "c", "d"], seed, ids, ["d1", "d2", "d3", "d4"])

    rows = within_figures(read, 1)
    ours = [row for row in rows if row["side"] in (OURS, HEAD)]
    assert len(ours) == 2 * 4
    assert np.mean([row["accuracy"] for row in ours]) > 0.97
    assert np.mean([row["unknown_recall"] for row in ours]) > 0.7
    across = across_figures(read, 1)
    assert {row["accuracy"] > 0.95 for row in across if "--align" in row["side"]} == {True}
    shift = shift_figures(read, 1)
    assert sum(row["inside"] for row in shift) >= 0.8 * len(shift)
    for name, found in (
        ("annotation", rows), ("annotation_across", across), ("annotation_shift", shift),
    ):  # fmt: skip
        table = TABLES[name](found)
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
