"""Tables of label counts, small and odd or as large as the Census's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from cellscribe.corpus.build.splits import DatasetSplit

COVERED = ("assay", "tissue_general")
Rows = list[tuple[str, str, str, int]]


def table_of(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["dataset_id", *COVERED, "cells"])


def of_sizes(*sizes: int) -> pd.DataFrame:
    """Datasets d00, d01, ... of these sizes, all of one assay and tissue."""
    return table_of([(f"d{i:02}", "10x", "lung", size) for i, size in enumerate(sizes)])


def labels_in(table: pd.DataFrame, datasets: set[str]) -> set[tuple[str, str]]:
    """(column, label) of every cell of these datasets."""
    rows = table[table["dataset_id"].isin(datasets) & (table["cells"] > 0)]
    return {(c, label) for c in COVERED for label in rows[c] if label}


def sizes_of(table: pd.DataFrame) -> dict[str, int]:
    return {str(d): int(n) for d, n in table.groupby("dataset_id")["cells"].sum().items()}


def held_by(split: DatasetSplit) -> frozenset[str]:
    return frozenset(split.datasets("holdout") + split.datasets("test_unseen"))


shares = st.sampled_from([0.001, 0.01, 0.1, 0.25, 0.5, 0.9])


@st.composite
def tables(draw: st.DrawFn, least: int = 1, most: int = 7) -> pd.DataFrame:
    """Label counts with rare labels, missing labels, and rows and datasets without cells."""
    rows: Rows = []
    for i in range(draw(st.integers(least, most))):
        for _ in range(draw(st.integers(1, 3))):
            assay = draw(st.sampled_from(["a", "a", "a", "b", "b", "unknown", ""]))
            tissue = draw(st.sampled_from(["lung", "lung", "lung", "liver", "eye"]))
            rows.append(
                (f"d{i:02}", assay, tissue, draw(st.integers(0, 60) | st.integers(0, 5000)))
            )
    return table_of(rows)


def atlas(
    n_datasets: int, n_cells: int, n_assays: int, n_tissues: int, seed: int = 0
) -> pd.DataFrame:
    """Label counts like the Census's: log-normal sizes, a few common labels and many rare ones."""
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0, 1.6, n_datasets)
    sizes = np.maximum(8, weights / weights.sum() * n_cells).astype(int)
    sizes[sizes.argmax()] += n_cells - sizes.sum()
    assays, tissues = (1 / np.arange(1, n + 1) ** 1.5 for n in (n_assays, n_tissues))
    rows: Rows = []
    for i, size in enumerate(sizes):
        a = rng.choice(n_assays, 2, p=assays / assays.sum())
        t = rng.choice(n_tissues, 2, p=tissues / tissues.sum())
        rows += [(f"d{i:03}", f"a{a[k]}", f"t{t[k]}", int(size + k) // 2) for k in range(2)]
    return table_of(rows)
