"""Labelled cells for the benchmark of labels: vectors, genes, labels under common names.

Vectors are those of a bundled model, made once a file and kept in a folder. Genes are
log-normalised counts, columns by Ensembl id, so that files can be compared.

Letters: ``B`` cells, ``D`` width, ``G`` genes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real_cells import DUPLICATE_FLAG, GENE_COLUMN
from cellscribe.annotation.calibration import Calibration, calibrate
from cellscribe.annotation.labels import Labelled, choose_folds, learnable
from cellscribe.annotation.linear import LinearHead, fit_linear
from cellscribe.errors import InputError
from cellscribe.model.heads import best_of, probabilities

BLOOD = {
    "B": ("CD19+ B", "B cells"),
    "NK": ("CD56+ NK", "NK cells"),
    "monocyte": ("CD14+ Monocyte", "CD14+ Monocytes", "FCGR3A+ Monocytes"),
    "CD8 T": ("CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic", "CD8 T cells"),
    "CD4 T": (
        "CD4+ T Helper2",
        "CD4+/CD45RO+ Memory",
        "CD4+/CD25 T Reg",
        "CD4+/CD45RA+/CD25- Naive T",
        "CD4 T cells",
    ),
    "CD34+": ("CD34+",),
    "dendritic": ("Dendritic cells",),
    "megakaryocyte": ("Megakaryocytes",),
}
"""Common names of the labels of the two blood files; the other files share theirs."""
COMMON = {own: name for name, names in BLOOD.items() for own in names}
MOST_CELLS = 3_000
"""Of a file, drawn at random."""
FEWEST = 10
"""Cells of a label, in a reference."""
GENES = 1_000
"""Most variable genes that the baseline reads."""
BASELINE_PENALTIES, BASELINE_FOLDS = (0.001, 0.01, 0.1), 3
"""Of the baseline: scikit-learn's C, and parts of its own cells by which it is chosen."""


@dataclass(frozen=True, kw_only=True)
class LabelledCells:
    """Cells of a file."""

    vectors: npt.NDArray[np.float64]
    """``[B, D]``."""
    genes: Any
    """``[B, G]`` log-normalised counts, CSR."""
    ids: npt.NDArray[np.object_]
    """``[G]`` Ensembl ids."""
    names: npt.NDArray[np.object_] | None
    """``[B]`` labels; None where the file has none."""
    groups: npt.NDArray[np.object_] | None
    """``[B]``."""

    def some(self, rows: Any) -> LabelledCells:
        """Some of the cells."""
        return replace(
            self,
            vectors=self.vectors[rows],
            genes=self.genes[rows],
            names=None if self.names is None else self.names[rows],
            groups=None if self.groups is None else self.groups[rows],
        )


def read_cells(
    path: Path, model: str, kept: Path, *, group: str | None = None, common: bool = False
) -> LabelledCells:
    """Read a file; its vectors are made unless they are in the folder `kept`.

    Parameters
    ----------
    path
        An h5ad with labels in ``cell_type``, or none.
    model
        A bundled model.
    kept
        Folder of vectors.
    group
        Column of obs; its values, or ``file:NAME`` for one group of the whole file.
    common
        Whether labels get their common names.
    """
    import anndata
    from scipy.sparse import csr_matrix, diags

    import cellscribe

    if not path.exists():
        raise InputError(f"{path}: no such file; name the folder of real cells with --data")
    adata = anndata.read_h5ad(path)
    if DUPLICATE_FLAG in adata.obs:
        adata = adata[~adata.obs[DUPLICATE_FLAG].to_numpy(bool)].copy()
    if adata.n_obs > MOST_CELLS:
        rows = np.random.default_rng(0).choice(adata.n_obs, MOST_CELLS, replace=False)
        adata = adata[np.sort(rows)].copy()
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / f"{path.stem}.npy"
    if not place.exists():
        np.save(place, cellscribe.load(model).embed(adata))
    vectors = np.load(place).astype(np.float64)
    names = None
    if "cell_type" in adata.obs:
        names = adata.obs["cell_type"].astype(str).to_numpy(object)
        if common:
            names = np.array([COMMON.get(name, name) for name in names], object)
    groups = None
    if group is not None:
        whole = group.startswith("file:")
        groups = (
            np.full(adata.n_obs, group.removeprefix("file:"), object)
            if whole
            else adata.obs[group].astype(str).to_numpy(object)
        )
    counts = csr_matrix(adata.X).astype(np.float64)
    depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    genes = (diags(1e4 / depth) @ counts).log1p().tocsr()
    cells = LabelledCells(
        vectors=vectors,
        genes=genes,
        ids=adata.var[GENE_COLUMN].astype(str).to_numpy(object),
        names=names,
        groups=groups,
    )
    empty = ~vectors.any(axis=1)
    if names is not None:
        empty |= np.isin(names, ["unassigned", "nan", ""])
    return cells.some(~empty)


def shared_genes(parts: list[LabelledCells]) -> list[LabelledCells]:
    """Bring files to the genes that all of them have, in one order."""
    common = set.intersection(*(set(part.ids[part.ids != ""]) for part in parts))
    ids = np.array(sorted(common), object)
    found = []
    for part in parts:
        _, first = np.unique(part.ids, return_index=True)
        place = {part.ids[at]: at for at in first}
        found.append(replace(part, genes=part.genes[:, [place[name] for name in ids]], ids=ids))
    return found


def joined(parts: list[LabelledCells]) -> LabelledCells:
    """One set of the cells of several files, by shared genes."""
    from scipy.sparse import vstack

    parts = shared_genes(parts)
    return LabelledCells(
        vectors=np.concatenate([part.vectors for part in parts]),
        genes=vstack([part.genes for part in parts], format="csr"),
        ids=parts[0].ids,
        names=np.concatenate([part.names for part in parts if part.names is not None]),
        groups=np.concatenate([part.groups for part in parts if part.groups is not None]),
    )


def labelled(cells: LabelledCells) -> tuple[LabelledCells, Labelled]:
    """Cells of labels that have enough of them, and these as the package takes them."""
    assert cells.names is not None
    names, numbers = np.unique(cells.names.astype(str), return_counts=True)
    cells = cells.some(np.isin(cells.names.astype(str), names[numbers >= FEWEST]))
    assert cells.names is not None
    labels = sorted({str(name) for name in cells.names})
    return cells, Labelled(
        rows=[np.arange(len(cells.names))],
        labels=labels,
        truth=np.searchsorted(labels, cells.names.astype(str)).astype(np.int64),
        groups=cells.groups,
        sources=[],
        left_out={},
    )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Logistic regression on the most variable genes, calibrated as ours is."""

    columns: npt.NDArray[np.intp]
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    head: LinearHead
    calibration: Calibration

    def probabilities(self, genes: Any, *, own_scale: bool = False) -> npt.NDArray[np.float64]:
        """``[B, C]``; with `own_scale` the cells are standardised by themselves."""
        table = genes[:, self.columns].toarray()
        mean, scale = (table.mean(0), table.std(0)) if own_scale else (self.mean, self.scale)
        standard = (table - mean) / np.where(scale > 0, scale, 1)
        return probabilities(self.head.logits(standard), self.calibration.temperature)


def fit_baseline(cells: LabelledCells, given: Labelled, accuracy: float) -> Baseline:
    """Fit the baseline on the cells that the package's own side learns from."""
    square = cells.genes.multiply(cells.genes).mean(axis=0)
    spread = np.asarray(square).ravel() - np.asarray(cells.genes.mean(axis=0)).ravel() ** 2
    columns = np.sort(np.argsort(-spread)[:GENES])
    table = cells.genes[:, columns].toarray()
    mean, scale = table.mean(0), table.std(0)
    standard = (table - mean) / np.where(scale > 0, scale, 1)
    truth, n_labels = given.truth, len(given.labels)
    folds = choose_folds(truth, given.groups, BASELINE_FOLDS, 0)
    tested = np.zeros(len(truth), bool)
    best: tuple[float, float, npt.NDArray[np.float64]] | None = None
    for penalty in BASELINE_PENALTIES:
        scores = np.empty((len(truth), n_labels))
        for fold in np.unique(folds):
            away = folds == fold
            tested |= learnable(truth, ~away, away)
            scores[away] = fit_linear(standard[~away], truth[~away], n_labels, penalty).logits(
                standard[away]
            )
        loss = brier(probabilities(scores[tested]), truth[tested])
        if best is None or loss < best[0]:
            best = loss, penalty, scores
    assert best is not None
    return Baseline(
        columns=columns,
        mean=mean,
        scale=scale,
        head=fit_linear(standard, truth, n_labels, best[1]),
        calibration=calibrate(best[2][tested], truth[tested], folds[tested], accuracy),
    )


def brier(each: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> float:
    """Brier score: mean squared distance of the probabilities from the truth, from 0 to 2."""
    wanted = np.zeros_like(each)
    wanted[np.arange(len(truth)), truth] = 1
    return float(((each - wanted) ** 2).sum(axis=1).mean())


def scored(
    each: npt.NDArray[np.float64], threshold: float, names: Any, labels: list[str]
) -> dict[str, float]:
    """Figures of calls of cells whose labels are known to us."""
    from sklearn.metrics import f1_score

    best, probability = best_of(each)
    called = probability >= threshold
    known = np.isin(names.astype(str), labels)
    truth = np.searchsorted(labels, names[known].astype(str))
    figures = {"unknown_recall": float((~called[~known]).mean()) if (~known).any() else np.nan}
    if not known.any():
        return figures
    right, on = best[known] == truth, called[known]
    f1 = f1_score(truth, best[known], average="macro", labels=np.unique(truth), zero_division=0)
    return figures | {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1),
        "coverage": float(on.mean()),
        "accuracy_called": float(right[on].mean()) if on.any() else np.nan,
        "brier": brier(each[known], truth),
        "probability": float(probability[known].mean()),
    }
