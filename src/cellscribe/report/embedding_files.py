"""The report and the map of one embedding run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from cellscribe.cells.coexpression import Coexpression, coexpression
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import resolve
from cellscribe.errors import InputError
from cellscribe.inference.embed import Embedded, sample_rows
from cellscribe.report.depth import LEAST_CELLS, MOST_CELLS, DepthExplained, depth_explained
from cellscribe.report.embedding_page import (
    RATE,
    EmbeddingReport,
    measured_warnings,
    write_report,
)
from cellscribe.report.figures import write_map
from cellscribe.report.umap import EXTRA, umap_coordinates
from cellscribe.writing import check_target

CLOSE = 8
"""Largest distance of rows that are read in one block: `MOST_CELLS` make no block that is large."""
FACTS: Mapping[str, str] = {
    "model": "Model",
    "model_hash": "Model hash",
    "vocabulary_hash": "Gene table hash",
    "pooling": "Vector",
    "precision": "Precision of products",
    "device": "Device",
    "dtype": "Stored as",
    "layer": "Counts from",
    "gene_key": "Gene identifiers from",
    "cellscribe": "cellscribe",
}
"""Entries of the provenance that the page shows, and their names there."""


def check_wishes(counts: Counts, color_by: str | None, targets: list[Path], out: Path) -> None:
    """Check before the work that report and map can be drawn, and overwrite no other file.

    Raises
    ------
    InputError
        The extra ``report`` is not installed, `color_by` is no column of obs, or a target is the
        input, the output `out` or each other, or lies in a folder that is missing or not writable.
    """
    check_drawn(counts.path, targets, [out])
    if color_by is not None and color_by not in counts.obs.columns:
        there = ", ".join(map(str, counts.obs.columns)) or "none"
        raise InputError(
            f"{counts.name}: no obs column {color_by!r} (--color-by); there are {there}"
        )


def check_drawn(source: Path | None, targets: list[Path], outs: list[Path]) -> None:
    """Check before the work that pages and pictures can be made, and overwrite no other file.

    Raises
    ------
    InputError
        As `check_wishes`.
    """
    for package in ("matplotlib", "umap"):
        if find_spec(package) is None:
            raise InputError(f"report and map need {package}; {EXTRA}")
    for place, target in enumerate(targets):
        if target.is_dir():
            raise InputError(f"{target} is a folder; name a file")
        check_target(target, source, overwrite=True)
        _refuse_other(target)
        if target.resolve() in [path.resolve() for path in (*outs, *targets[:place])]:
            raise InputError(f"{target} is named for two outputs; give each its own name")


def _refuse_other(target: Path) -> None:
    """Refuse to write a page or a picture over a file that is neither."""
    if not target.is_file():
        return
    with target.open("rb") as file:
        head = file.read(64).lower()
    if head and not head.startswith((b"<!doctype html", b"\x89png")):
        raise InputError(f"{target} is there, and no page or picture; give another name")


def draw(
    result: Embedded,
    counts: Counts,
    *,
    context: int,
    color_by: str | None = None,
    report: Path | None = None,
    map_png: Path | None = None,
    map_page: Path | None = None,
) -> list[str]:
    """Write the page, the map's PNG, or both.

    Parameters
    ----------
    result, counts
        The vectors, and the counts they were made from.
    context
        Largest number of genes that the model reads.
    color_by
        Column of obs to colour the map by; sequencing depth if not given.
    report, map_png
        The files.
    map_page
        The page of `explore` that the report links to.

    Returns
    -------
    list of str
        Warnings that came up while the page was made, which it shows.

    Raises
    ------
    InputError
        A file cannot be written.
    """
    vectors = result.vectors.astype(np.float32)
    # a zero vector carries no information; NaN keeps it off the map
    vectors[result.cells["tokens"][result.shown] == 0] = np.nan
    xy = umap_coordinates(vectors)
    labels = None if color_by is None else _labels(counts.obs[color_by].iloc[result.shown])
    source = Path(counts.name).name
    title = f"{result.n_cells:,} cells of {source}"
    if map_png is not None:
        write_map(map_png, xy, labels, color_by, title)
    if report is None:
        return []
    depth, together = _measured(vectors, result, counts)
    cells = result.cells
    provenance = result.provenance
    facts = {name: str(provenance[key]) for key, name in FACTS.items()}
    facts |= {"Seconds": f"{result.seconds:,.1f}", RATE: f"{result.cells_per_second:,.0f}"}
    page = EmbeddingReport(
        title=title,
        source=source,
        embeddings=vectors,
        shown=result.shown,
        n_cells=result.n_cells,
        labels=labels,
        label_name=color_by,
        umis=cells["umis"],
        umis_known=cells["umis_known"],
        genes=cells["genes"].astype(np.int64),
        genes_known=cells["genes_known"].astype(np.int64),
        tokens=cells["tokens"].astype(np.int64),
        context=context,
        empty_cells=np.flatnonzero(cells["tokens"] == 0),
        gene_summary=result.genes.summary(),
        warnings=result.warnings,
        facts=facts,
        depth=depth,
        together=together,
        map_page=None if map_page is None else _address(map_page, report.parent),
    )
    write_report(report, page, xy)
    return measured_warnings(page)


def _address(page: Path, folder: Path) -> str:
    """Address of a page for a link from another that lies in a folder."""
    return quote(Path(os.path.relpath(page, folder)).as_posix())


def _measured(
    vectors: npt.NDArray[np.float32], result: Embedded, counts: Counts
) -> tuple[DepthExplained | None, Coexpression | None]:
    """Look at the counts of some cells of the map: depth, and genes that go together."""
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    some = usable[sample_rows(len(usable), MOST_CELLS)]
    if not len(some):
        return None, None
    read, key = read_rows(counts, result.shown[some]), result.genes.key
    names = counts.var.index if key == "var_names" or key not in counts.var else counts.var[key]
    together = coexpression(read, resolve(names.astype(str)))
    if len(some) < LEAST_CELLS:
        return None, together
    return depth_explained(vectors[some], read), together


def read_rows(counts: Counts, rows: npt.NDArray[np.int64]) -> csr_matrix:
    """Read some cells of opened counts; those that lie close together in one go.

    Parameters
    ----------
    counts
        Cells of any format.
    rows
        Ascending row numbers.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``[len(rows), n_genes]``.
    """
    spans = np.split(rows, np.flatnonzero(np.diff(rows) > CLOSE) + 1)
    blocks = [next(counts.blocks(int(span[-1] - span[0]) + 1, int(span[0]))) for span in spans]
    parts = [block[span - span[0]] for block, span in zip(blocks, spans, strict=True)]
    return csr_matrix(vstack(parts))


def _labels(column: Any) -> list[str]:
    return column.astype(object).where(column.notna(), "missing").astype(str).tolist()
