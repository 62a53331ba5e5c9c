"""The page of annotated cells: first whether the labels can hold for them at all.

That is the shift test's sentence, or for an index the share of cells outside of it. Then what was
called and what stayed unknown, a map, and what is known of the labels from held-out cells of what
they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.annotation.heads_annotation import HeadsAnnotation, Numbers
from cellscribe.annotation.judged import Shown
from cellscribe.annotation.seen import Seen
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.escaping import escape
from cellscribe.model.heads import UNKNOWN
from cellscribe.report import html
from cellscribe.report import label_figures as figures
from cellscribe.report.label_page import (
    CSS,
    NOTHING,
    cautions,
    facts_table,
    map_section,
    sections,
    verdict_box,
)
from cellscribe.report.numbers import several, share
from cellscribe.report.tables import Table

FACTS = {
    "by": "Labels from",
    "label": "Column",
    "reference": "Reference",
    "reference_cells": "Reference cells",
    "index": "Index",
    "index_cells": "Cells of the index",
    "align": "Aligned by",
    "threshold": "Lowest probability that is called",
    "temperature": "Temperature",
    "n_neighbors": "Nearest cells",
    "genes_shared": "Genes shared with the reference",
    "model": "Model",
    "model_hash": "Model hash",
    "pooling": "Vector",
    "device": "Device",
    "precision": "Precision of products",
    "layer": "Counts from",
    "gene_key": "Gene identifiers from",
    "cellscribe": "cellscribe",
}
"""Entries of the provenance that the page shows, and their names there."""


class Annotated(Protocol):
    """Labels of cells, wherever they come from."""

    @property
    def about(self) -> dict[str, Any]:
        """Where they come from, as plain values."""

    @property
    def genes(self) -> GeneMap:
        """How the genes were found."""

    @property
    def n_empty(self) -> int:
        """Cells without a count on a known gene."""


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Labels of one column."""

    name: str
    table: pd.DataFrame
    about: Mapping[str, Any]


def render_annotated(done: Annotated, table: pd.DataFrame, seen: Seen, *, source: str) -> str:
    """Make the page of annotated cells.

    Parameters
    ----------
    done
        The labels and their provenance.
    table
        One row a cell, as it is written.
    seen
        Vectors of the cells on the map, and figures of held-out cells.
    source
        Name of the input.
    """
    columns, metrics = list(_columns(done, table)), {each["label"]: each for each in seen.metrics}
    rows = np.concatenate([np.empty(0, np.intp), *seen.rows])
    vectors = np.concatenate(seen.vectors) if len(rows) else np.empty((0, 1))
    body = []
    for number, each in enumerate(columns):
        known = metrics.get(each.name)
        if len(columns) > 1:
            body.append(f'<h2 class="task">{escape(each.name)}</h2>')
        body.append(verdict_box(*_verdict(each), bad=_is_bad(each.about)))
        if number == 0 and done.n_empty:
            body.append(html.warnings_box([_about_empty(done.n_empty)]))
        body.append(html.tiles_box(_tiles(each)))
        counts = _counts(each.table)
        colours = figures.label_colours({**dict.fromkeys(counts, 0), **known["labelled"]}
                                        if known else counts)  # fmt: skip
        body.append(_called(each, colours, f"c{number}"))
        shown = _shown(each, rows, vectors)
        body.append(map_section(shown, colours, f"c{number}-map", "probability"))
        if known:
            title = "On held-out cells of what the labels come from"
            body.append(f'<h2 class="task">{escape(title)}</h2>')
            body.append(html.warnings_box(cautions(known), f"w{number}"))
            body += sections(known, None, f"h{number}", map_shown=False)
        else:
            body.append(_nothing_held_out(each.about, f"h{number}"))
    body += list(_numbers(done))
    about = columns[0].about if columns else done.about
    body.append(html.section("facts", "How this was made", done.genes.summary(), _facts(about)))
    return html.page(
        kind="annotated cells",
        title=f"Labels of {len(table):,} cells of {source}",
        source=source,
        tiles=[] if columns else [("Cells", f"{len(table):,}", "in the file")],
        warnings=[_about_empty(done.n_empty)] if done.n_empty and not columns else [],
        body='<div class="labels evaluation">\n' + "\n".join(body) + "\n</div>",
        css=CSS,
    )


def _about_empty(n_empty: int) -> str:
    has = "cell has" if n_empty == 1 else "cells have"
    return f"{n_empty:,} {has} no count on a gene that the model knows."


def _columns(done: Annotated, table: pd.DataFrame) -> Iterator[_Column]:
    """Labels of each head; of one head, reference or index there is one column."""
    if not isinstance(done, HeadsAnnotation):
        yield _Column(name=str(done.about.get("label", "")), table=table, about=done.about)
        return
    for name, each in done.columns.items():
        if isinstance(each, Numbers):
            continue
        prefix = done.prefix(name)
        names = {f"{prefix}{part}": part for part in ("label", "probability", "best")}
        yield _Column(name=name, table=table[list(names)].rename(columns=names), about=each.about)


def _counts(table: pd.DataFrame) -> dict[str, int]:
    """Cells by label, the commonest first; unknown last."""
    found = {str(name): int(n) for name, n in table["label"].value_counts().items() if n}
    unknown = found.pop(UNKNOWN, 0)
    return found | {UNKNOWN: unknown}


def _verdict(column: _Column) -> tuple[str, str]:
    """Whether the cells lie outside, and what was called."""
    about, counts = column.about, _counts(column.table)
    total, unknown = len(column.table), counts[UNKNOWN]
    if "shift" in about:
        first = about["shift"]["sentence"]
    else:
        first = (
            "Whether the cells lie outside of what the labels come from is not known: this model "
            "keeps nothing to compare with; fine-tune it again."
        )
    called = total - unknown
    second = (
        f"{several(called, 'cell')} of {total:,} got one of {several(len(counts) - 1, 'label')}; "
        f"{unknown:,} ({share(unknown, total)}) stayed unknown."
    )
    return first, second


def _is_bad(about: Mapping[str, Any]) -> bool:
    """Whether the labels may not hold."""
    return "shift" in about and bool(about["shift"]["verdict"] != "inside")


def _tiles(column: _Column) -> list[html.Tile]:
    counts, total = _counts(column.table), len(column.table)
    sure = column.table["probability"][column.table["label"].astype(str) != UNKNOWN]
    middle = f"{sure.median():.2f}" if len(sure) else NOTHING
    common = next(iter(counts))
    return [
        ("Cells", f"{total:,}", "in the file"),
        ("Called", share(total - counts[UNKNOWN], total), "got a label"),
        ("Unknown", share(counts[UNKNOWN], total), f"{counts[UNKNOWN]:,} cells"),
        ("Labels", f"{len(counts) - 1:,}", "that any cell got"),
        ("Probability", middle, "median of the called"),
        ("Commonest", share(counts[common], total), common),
    ]


def _called(column: _Column, colours: figures.Colours, key: str) -> str:
    """Tabulate what was called, and what the unknown resemble most."""
    table, counts = column.table, _counts(column.table)
    label = table["label"].astype(str)
    middle = table.groupby(label)["probability"].median()
    likeness = table["best"].astype(str)[label == UNKNOWN].value_counts()
    header = ("Label", "cells", "share", "median probability", "unknown, most like it")
    rows = tuple(
        (
            name,
            f"{n:,}",
            share(n, len(table)),
            f"{middle[name]:.2f}" if n else NOTHING,
            NOTHING if name == UNKNOWN else f"{int(likeness.get(name, 0)):,}",
        )
        for name, n in counts.items()
    )
    names = list(counts)
    body = html.table(Table(header, rows), "Cells by label")
    body = figures.with_swatches(body, names, colours)
    lead = (
        "A cell is unknown where its probability lies below the threshold. The last column: "
        "unknown cells by the label that they resemble most."
    )
    return html.section(f"{key}-called", "What was called", lead, body)


def _shown(column: _Column, rows: npt.NDArray[np.intp], vectors: npt.NDArray[np.floating]) -> Shown:
    part = column.table.iloc[rows]
    return Shown(
        vectors=vectors,
        names=part["label"].astype(str).tolist(),
        probability=part["probability"].to_numpy(np.float64),
    )


def _nothing_held_out(about: Mapping[str, Any], key: str) -> str:
    text = {
        "index": "An index keeps no figures of single labels. cellscribe index info tells what its "
        "threshold rests on; docs/annotate.md what to expect of the one that comes with mini.",
        "head": "This model keeps no figures of single labels: it was fine-tuned with --no-report, "
        "imported, or is of an earlier version. Its README tells how all labels fared together.",
    }.get(str(about.get("by")), "No cell was held out.")
    return html.section(key, "On held-out cells", text, "")


def _numbers(done: Annotated) -> Iterator[str]:
    """Tabulate the numbers that heads predict."""
    if not isinstance(done, HeadsAnnotation):
        return
    header = ("Number", "lowest", "median", "highest", "half of an interval", "outside of training")
    rows = []
    for name, each in done.columns.items():
        if isinstance(each, Numbers):
            low, middle, high = np.nanquantile(each.prediction, (0, 0.5, 1))
            about = each.about
            rows.append(
                (
                    name,
                    *(f"{value:.4g}" for value in (low, middle, high, about["half_width"])),
                    f"{about['outside_range']:,}",
                )
            )
    if rows:
        lead = (
            "The interval of each cell is in the output. Beyond the training values it is a guess."
        )
        body = html.table(Table(header, tuple(rows)), "Predicted numbers")
        yield html.section("numbers", "Numbers", lead, body)


def _facts(about: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return facts_table({name: text(about[key]) for key, name in FACTS.items() if key in about})
