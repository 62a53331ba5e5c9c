"""Draw the pictures of docs/concepts.md from the cells that come with the package.

    python scripts/make_site_pictures.py

Run again when the bundled model changes; they are committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd

DOCS = Path(__file__).resolve().parents[1] / "docs"
GENES = DOCS.parent / "src/cellscribe/bundled/mini/genes.tsv"
INK, ACCENT, QUIET = "#333333", "#3b6fb6", "#b8b8b8"
SHOWN = 15
"""Genes of a cell that are drawn."""


def main() -> None:
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "cellscribe", "svg.fonttype": "path", "font.size": 9, "text.color": INK}
    )
    import cellscribe

    cells = cellscribe.sample()
    draw_ranks(cells)
    cellscribe.embed(cells)
    draw_depth(cells)


def draw_ranks(cells: Any) -> None:
    """One B cell: genes with the most counts, and the genes that the model reads first."""
    from matplotlib.figure import Figure

    table = pd.read_csv(GENES, sep="\t").dropna(subset="median")
    at = int(np.flatnonzero(cells.obs["cell_type"] == "B cells")[0])
    cell = cells[at : at + 1].copy()
    counts = cell.X.toarray()[0].astype(float)
    names = cell.var_names.to_numpy()
    median = cell.var["ensembl_id"].map(table.set_index("ensembl_id")["median"]).to_numpy()
    ratio = counts / counts.sum() / median
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars(left, names, counts, "Counts", set())
    most = set(names[np.argsort(-counts, kind="stable")[:SHOWN]])
    bars(right, names, np.nan_to_num(ratio / np.nanmax(ratio)), "Divided by the medians", most)
    save(figure, "concepts-ranks.svg")


def bars(
    axes: Any,
    names: npt.NDArray[Any],
    values: npt.NDArray[np.floating],
    title: str,
    known: set[str],
) -> None:
    """The highest genes, from the top; those of `known` in grey."""
    order = np.argsort(-values, kind="stable")[:SHOWN]
    colors = [QUIET if names[i] in known else ACCENT for i in order]
    axes.barh(range(SHOWN), values[order], color=colors)
    axes.set_yticks(range(SHOWN), [f"{n + 1}  {names[i]}" for n, i in enumerate(order)])
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_depth(cells: Any) -> None:
    """Depth against the direction in which the vectors differ most."""
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA

    counts = cells.X
    depth = np.asarray(counts.sum(axis=1)).ravel()
    log = np.log1p(counts.multiply(1e4 / depth[:, None]).toarray())
    figure = Figure(figsize=(7, 3), layout="constrained")
    sides = figure.subplots(1, 2, sharey=True)
    of = {"mini": cells.obsm["X_cellscribe"], "PCA of log-normalised counts": log}
    types = cells.obs["cell_type"].cat
    for axes, (name, vectors) in zip(sides, of.items(), strict=True):
        first = PCA(1, random_state=0).fit_transform(vectors)[:, 0]
        axes.scatter(first, depth, s=6, c=types.codes, cmap="tab10", linewidths=0)
        axes.set(title=name, xlabel="first principal component", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].set_ylabel("counts of the cell")
    save(figure, "concepts-depth.png")


def save(figure: Any, name: str) -> None:
    metadata = {"Date": None} if name.endswith(".svg") else None  # the same bytes each time
    figure.savefig(DOCS / name, dpi=130, facecolor="white", metadata=metadata)


if __name__ == "__main__":
    main()
