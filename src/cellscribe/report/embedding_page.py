"""The report on one embedding: a single HTML file that needs no network and no server.

Numbers are computed here, in `key_figures` and the captions; ``embedding_page.html``,
``embedding_map.html`` and ``embedding_page.js`` hold the layout, within the common `html.page`.
Text from the input (labels, file names, warnings) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt

from cellscribe.cells.coexpression import Coexpression
from cellscribe.escaping import escape
from cellscribe.report import html
from cellscribe.report.colours import Colouring, colour_by_depth, colour_by_label
from cellscribe.report.depth import LEAST_CELLS, DepthExplained
from cellscribe.report.figures import (
    ASPECT,
    drawing_order,
    histogram_svg,
    point_radius,
    points_png,
    write_whole,
)
from cellscribe.report.umap import finite_rows, layout_of, tag_places, to_frame

EMPTY_LISTED = 20
GRID = 4095
"""Steps per side of the grid on which the page gets its points; finer than any screen."""
RATE = "cells/s"
"""The fact that is also shown as a tile."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingReport:
    """The data of the report on one embedding.

    Attributes
    ----------
    title, source
        Heading, and the input file.
    embeddings
        ``[n_shown, D]`` vectors of the map.
    shown
        ``[n_shown]`` int64, row numbers of those cells in the input.
    n_cells
        Cells of the input.
    labels, label_name
        ``[n_shown]`` classes to colour the map by, and their name; None colours by depth.
    umis, umis_known
        ``[n_cells]`` UMIs of each cell, and those on genes of the vocabulary.
    genes, genes_known
        ``[n_cells]`` detected genes, and those in the vocabulary.
    tokens
        ``[n_cells]`` genes that the model read, after truncation.
    context
        Largest number of genes that the model reads.
    empty_cells
        Row numbers of cells without any known gene; their vector is zero.
    gene_summary
        Sentences on how gene identifiers were found.
    warnings
        Texts in a box; without warnings there is no box.
    facts
        Provenance, shown as a table in the given order; ``cells/s`` also becomes a tile.
    depth
        How much of depth the vectors' clusters explain; None if it could not be measured.
    together
        Whether ribosomal genes are expressed together; None if no cell was looked at.
    map_page
        Address of the page of `explore`, if there is one.
    """

    title: str
    source: str
    embeddings: npt.NDArray
    shown: npt.NDArray[np.int64]
    n_cells: int
    labels: Sequence[str] | None
    label_name: str | None
    umis: npt.NDArray[np.int64]
    umis_known: npt.NDArray[np.int64]
    genes: npt.NDArray[np.int64]
    genes_known: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    context: int
    empty_cells: npt.NDArray[np.int64]
    gene_summary: str
    warnings: Sequence[str]
    facts: Mapping[str, str]
    depth: DepthExplained | None = None
    together: Coexpression | None = None
    map_page: str | None = None

    def __post_init__(self) -> None:
        for name in ("umis", "umis_known", "genes", "genes_known", "tokens"):
            if len(getattr(self, name)) != self.n_cells:
                raise ValueError(f"{name}: {len(getattr(self, name))} values, {self.n_cells} cells")
        if len(self.shown) != len(self.embeddings):
            raise ValueError(f"shown: {len(self.shown)} rows, {len(self.embeddings)} embeddings")
        if self.labels is not None and len(self.labels) != len(self.shown):
            raise ValueError(f"labels: {len(self.labels)}, {len(self.shown)} cells shown")


def write_report(path: Path, report: EmbeddingReport, umap_xy: npt.NDArray) -> None:
    """Write the page; the file appears only when complete.

    Parameters
    ----------
    path
        The HTML file.
    report
        What to show.
    umap_xy
        ``[n_shown, 2]`` from `umap_coordinates`; cells with NaN are left out and counted.

    Raises
    ------
    InputError
        matplotlib is missing, or the file cannot be written.
    """
    write_whole(path, render_page(report, umap_xy).encode())


def render_page(report: EmbeddingReport, umap_xy: npt.NDArray) -> str:
    """Make the page's HTML; arguments and errors as in `write_report`."""
    if len(umap_xy) != len(report.shown):
        raise ValueError(f"umap_xy: {len(umap_xy)} rows, {len(report.shown)} cells shown")
    colouring = (
        colour_by_label(report.labels)
        if report.labels is not None
        else colour_by_depth(report.umis[report.shown])
    )
    body = Template(html.part("embedding_page.html")).substitute(
        map=_map(report, umap_xy, colouring),
        gene_summary=escape(_about_genes(report)),
        **_histograms(report),
        empty=_empty(report.empty_cells),
        facts=_facts(report.facts),
    )
    return html.page(
        kind="embedding report",
        title=report.title,
        source=report.source,
        tiles=key_figures(report),
        warnings=[*report.warnings, *measured_warnings(report)],
        body=body,
        script=html.part("embedding_page.js"),
    )


def measured_warnings(report: EmbeddingReport) -> list[str]:
    """List what the counts of some cells give cause to warn of."""
    measured = (report.depth, report.together)
    return [each.warning for each in measured if each is not None and each.warning]


def _about_genes(report: EmbeddingReport) -> str:
    """Tell how genes were found, and whether they go together as in real cells."""
    return " ".join([report.gene_summary, *([report.together.sentence] if report.together else [])])


def known_share(known: npt.NDArray, total: npt.NDArray) -> npt.NDArray[np.float64]:
    """Return the known share of each cell's total, for cells with any: ``[<= n_cells]``."""
    some = np.asarray(total) > 0
    return np.asarray(known)[some] / np.asarray(total)[some]


def share_cut(report: EmbeddingReport) -> float:
    """Return the share of cells with more known genes than the context holds."""
    return float(np.mean(report.genes_known > report.context)) if report.n_cells else 0.0


def key_figures(report: EmbeddingReport) -> list[html.Tile]:
    """List the tiles: name, figure, and a short note."""
    total = int(report.umis.sum())
    share = f"{report.umis_known.sum() / total:.1%}" if total else "–"
    genes = f"{_median(report.genes):,.0f}"
    known = f"{_median(report.genes_known):,.0f} known to the model"
    tiles = [
        ("Cells", f"{report.n_cells:,}", "one vector each"),
        ("Dimensions", f"{report.embeddings.shape[1]:,}", "numbers a vector"),
        ("Median genes", genes, known),
        ("UMIs known", share, "on genes of the vocabulary"),
    ]
    if RATE in report.facts:
        tiles.append(("Cells per second", report.facts[RATE], "from file to vectors"))
    empty = len(report.empty_cells)
    note = "no cell without known genes" if not empty else "no known gene, zero vector"
    return [*tiles, ("Empty cells", f"{empty:,}", note)]


def _median(values: npt.NDArray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _map(report: EmbeddingReport, umap_xy: npt.NDArray, colouring: Colouring) -> str:
    finite = finite_rows(umap_xy)
    layout = layout_of(int(finite.sum()))
    what = f"“{report.label_name or 'label'}”" if report.labels is not None else "sequencing depth"
    alt = f"{layout} of {int(finite.sum()):,} cells, coloured by {what}"
    placed = to_frame(umap_xy, ASPECT)
    picture = base64.b64encode(points_png(umap_xy, colouring)).decode()
    tags = "".join(
        f'<span class="tag" style="left:{x:.2%};top:{y:.2%};'
        f'border-color:{colouring.colours[code]}">{code + 1}</span>'
        for code, (x, y) in enumerate(
            tag_places(placed, colouring.codes, colouring.n_tagged, ASPECT)
        )
        if np.isfinite(x)
    )
    return Template(html.part("embedding_map.html")).substitute(
        layout=layout,
        what=escape(what),
        alt=escape(alt),
        picture=picture,
        tags=f'<div class="tags" aria-hidden="true">{tags}</div>',
        legend=_legend(report, colouring),
        caption=escape(_map_caption(report, finite, layout)) + _link(report.map_page),
        data=html.script_json(_points(report, placed, finite, colouring)),
    )


def _link(address: str | None) -> str:
    return f' <a href="{escape(address)}">A map to look around in</a>.' if address else ""


def _map_caption(report: EmbeddingReport, finite: npt.NDArray[np.bool_], layout: str) -> str:
    n_shown = len(report.shown)
    text = "For orientation only: "
    text += (
        "UMAP keeps close cells close, but distances between groups, their sizes and their shapes "
        "mean little. Work with the vectors themselves."
        if layout == "UMAP"
        else "the first two principal components of the vectors, for so few cells make no UMAP."
    )
    if n_shown < report.n_cells:
        text += f" {n_shown:,} of {report.n_cells:,} cells drawn."
    if not finite.all():
        n = int((~finite).sum())
        text += f" {n:,} {'cell' if n == 1 else 'cells'} whose vector is not finite "
        text += f"{'is' if n == 1 else 'are'} left out."
    return text


def _points(
    report: EmbeddingReport,
    placed: npt.NDArray[np.float64],
    finite: npt.NDArray[np.bool_],
    colouring: Colouring,
) -> dict[str, object]:
    """Collect what the page's script draws: points in drawing order, on a grid."""
    order = drawing_order(len(placed))
    order = order[finite[order]]
    grid = np.rint(placed[order] * GRID).astype(int)
    return {
        "grid": GRID,
        "radius": point_radius(len(order)) / 1000,
        "colours": colouring.colours,
        "names": colouring.names,
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "code": colouring.codes[order].tolist(),
        "row": report.shown[order].tolist(),
        "umis": report.umis[report.shown[order]].tolist(),
    }


def _legend(report: EmbeddingReport, colouring: Colouring) -> str:
    if report.labels is None:
        umis = report.umis[report.shown]
        low, high = (max(int(umis.min()), 1), max(int(umis.max()), 1)) if len(umis) else (1, 1)
        stops = ",".join(colouring.colours)
        return (
            '<div class="scale"><h3>UMIs per cell</h3>'
            f'<div class="bar" style="background:linear-gradient(to right,{stops})"></div>'
            f"<p><span>{low:,}</span><span>{np.sqrt(low * high):,.0f}</span>"
            f"<span>{high:,}</span></p><p class='note'>logarithmic scale</p></div>"
        )
    items = "".join(
        f'<li><button type="button" data-code="{code}" aria-pressed="false">'
        f'<span class="swatch" style="background:{colouring.colours[code]}"></span>'
        f'<span class="number">{code + 1 if code < colouring.n_tagged else ""}</span>'
        f'<span class="name">{escape(name)}</span><span class="count">{count:,}</span>'
        "</button></li>"
        for code, (name, count) in enumerate(zip(colouring.names, colouring.counts, strict=True))
    )
    heading = escape(report.label_name or "label")
    return f'<h3>{heading}</h3><ul class="legend">{items}</ul>'


def _histograms(report: EmbeddingReport) -> dict[str, str]:
    return {
        **_coverage("umis", "UMIs", known_share(report.umis_known, report.umis)),
        **_coverage("genes", "detected genes", known_share(report.genes_known, report.genes)),
        **_token_histogram(report),
        **_depth_histogram(report),
    }


def _coverage(key: str, what: str, share: npt.NDArray[np.float64]) -> dict[str, str]:
    if not len(share):
        return {f"{key}_figure": "", f"{key}_text": f"No cell has any {what}."}
    low = min(np.floor(share.min() * 20) / 20, 0.9)
    median = _median(share)
    text = f"In the median cell {median:.1%} of the {what} are on genes the model knows."
    if what != "UMIs":
        text = f"In the median cell the model knows {median:.1%} of the {what}."
    figure = histogram_svg(
        share,
        np.linspace(low, 1.0, 41),
        name=key,
        xlabel=f"share of {what} known",
        alt=f"Histogram over cells of the share of {what} known. {text}",
        percent=True,
        median=median,
    )
    return {f"{key}_figure": figure, f"{key}_text": text}


def _token_histogram(report: EmbeddingReport) -> dict[str, str]:
    median, cut = _median(report.tokens), share_cut(report)
    text = f"The model reads at most {report.context:,} genes a cell, the highest ranked. "
    text += (
        f"{cut:.1%} of the cells have more and were cut; the median cell has {median:,.0f} tokens."
        if cut
        else f"No cell has more; the median cell has {median:,.0f} tokens."
    )
    top = max(report.context, int(report.tokens.max(initial=0)))
    figure = histogram_svg(
        report.tokens,
        np.linspace(0, top * 1.02, 52),
        name="tokens",
        xlabel="tokens per cell",
        alt=f"Histogram of tokens per cell. {text}",
        median=median,
        limit=report.context,
        limit_label=f"context {report.context:,}",
    )
    return {"tokens_figure": figure, "tokens_text": text}


def _depth_histogram(report: EmbeddingReport) -> dict[str, str]:
    some = report.umis[report.umis > 0]
    if not len(some):
        return {"depth_figure": "", "depth_text": "No cell has any UMI."}
    text = f"The median cell has {_median(report.umis):,.0f} UMIs."
    none = report.n_cells - len(some)
    if none:
        text += f" {none:,} without any UMI cannot be drawn on a logarithmic axis."
    alt = f"Histogram of UMIs per cell on a logarithmic axis. {text}"
    text += f" {_depth_explained(report.depth)}"
    figure = histogram_svg(
        some,
        np.geomspace(some.min() * 0.95, some.max() * 1.05, 48),
        name="depth",
        xlabel="UMIs per cell (log scale)",
        alt=alt,
        log=True,
        median=_median(some),
    )
    return {"depth_figure": figure, "depth_text": text}


def _depth_explained(depth: DepthExplained | None) -> str:
    if depth is not None:
        return depth.sentence
    return (
        "Whether the vectors follow depth was not measured: that takes "
        f"{LEAST_CELLS} cells of different depth."
    )


def _empty(rows: npt.NDArray[np.int64]) -> str:
    if not len(rows):
        return "<p>None: every cell has at least one gene that the model knows.</p>"
    listed = "".join(f"<li>{int(row)}</li>" for row in rows[:EMPTY_LISTED])
    more = len(rows) - EMPTY_LISTED
    rest = f"<li class='more'>and {more:,} more</li>" if more > 0 else ""
    return (
        f"<p>{len(rows):,} {'cell has' if len(rows) == 1 else 'cells have'} no gene that the model "
        "knows. They keep their rows in the output and have the zero vector there. Row numbers, "
        f'counted from 0:</p><ul class="rows">{listed}{rest}</ul>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
