"""The report and the map of one embedding run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cellscribe.cells.counts import Counts
from cellscribe.errors import InputError
from cellscribe.inference.embed import Embedded
from cellscribe.report.embedding_page import RATE, EmbeddingReport, write_report
from cellscribe.report.figures import write_map
from cellscribe.report.umap import EXTRA, umap_coordinates
from cellscribe.writing import check_target

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
    for package in ("matplotlib", "umap"):
        if find_spec(package) is None:
            raise InputError(f"report and map need {package}; {EXTRA}")
    for place, target in enumerate(targets):
        if target.is_dir():
            raise InputError(f"{target} is a folder; name a file")
        check_target(target, counts.path, overwrite=True)
        if target.resolve() in [path.resolve() for path in (out, *targets[:place])]:
            raise InputError(f"{target} is named for two outputs; give each its own name")
    if color_by is not None and color_by not in counts.obs.columns:
        there = ", ".join(map(str, counts.obs.columns)) or "none"
        raise InputError(
            f"{counts.name}: no obs column {color_by!r} (--color-by); there are {there}"
        )


def draw(
    result: Embedded,
    counts: Counts,
    *,
    context: int,
    color_by: str | None = None,
    report: Path | None = None,
    map_png: Path | None = None,
) -> None:
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
        return
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
    )
    write_report(report, page, xy)


def _labels(column: Any) -> list[str]:
    return column.astype(object).where(column.notna(), "missing").astype(str).tolist()
