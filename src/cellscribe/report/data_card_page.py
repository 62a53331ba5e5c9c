"""The data card of a corpus as one HTML page that needs no network, no server and no script.

Numbers, sentences and tables are those of `data_card`, so that page and Markdown agree; this module
adds layout and figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellscribe.corpus.card import Card, describe
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.escaping import escape
from cellscribe.report import data_card as words
from cellscribe.report import data_card_tables as tables
from cellscribe.report import html
from cellscribe.report.axes import need_matplotlib
from cellscribe.report.figures import bars_svg, histogram_svg, write_whole
from cellscribe.report.numbers import compact, several, share
from cellscribe.report.tables import FOLD
from cellscribe.writing import check_target

if TYPE_CHECKING:
    from cellscribe.callbacks import Progress

BINS = 48


def write_card(
    folder: Path,
    *,
    html: Path | None = None,
    md: Path | None = None,
    progress: Progress | None = None,
) -> Card:
    """Describe a corpus and write its data card, as a page and as Markdown.

    Parameters
    ----------
    folder
        The corpus.
    html, md
        The two files; ``card.html`` and ``card.md`` in the corpus if not given.
    progress
        Called with (cells read, cells of the corpus).

    Raises
    ------
    InputError
        There is no finished corpus, matplotlib is missing, or a file cannot be written.
    """
    need_matplotlib()
    corpus = open_corpus(folder)
    html, md = html or corpus.path / "card.html", md or corpus.path / "card.md"
    # other endings could be files of the corpus
    for target, ending in ((html, ".html"), (md, ".md")):
        if target.suffix != ending or target.is_dir():
            raise InputError(f"{target} cannot be the card; name a file that ends in {ending}")
        check_target(target, None, overwrite=True)
    card = describe(corpus, progress)
    write_card_page(html, card)
    write_whole(md, words.markdown(card).encode())
    return card


def write_card_page(path: Path, card: Card) -> None:
    """Write the page; the file appears only when complete.

    Raises
    ------
    InputError
        matplotlib is missing, or the file cannot be written.
    """
    write_whole(path, render_card(card).encode())


def render_card(card: Card) -> str:
    """Make the page's HTML.

    Raises
    ------
    InputError
        matplotlib is missing.
    """
    sections = [_splits(card), _checks(card), _labels(card), _depths(card), _genes(card)]
    for place, (title, table) in enumerate(tables.of_origin(card).items()):
        body = (
            html.table(table, title) if len(table.rows) <= FOLD + 1 else html.folded(table, title)
        )
        sections.append(html.section(f"origin-{place}", title, "", body))
    return html.page(
        kind="data card",
        title=f"Corpus {card.name}",
        source=f"corpus {card.hash}",
        tiles=key_figures(card),
        warnings=words.warnings(card),
        body="\n".join(sections),
        css=["tables.css"],
    )


def key_figures(card: Card) -> list[html.Tile]:
    """List the tiles: name, figure, and a short note."""
    tokens = sum(split.tokens for split in card.splits.values())
    seen, genes = int((card.gene_cells > 0).sum()), len(card.medians)
    tiles = [
        ("Cells", f"{card.cells:,}", f"{share(card.held_out, card.cells)} held out"),
        ("Tokens", compact(tokens, ("billion", "million")), f"{tokens / card.cells:,.0f} a cell"),
        ("Datasets", f"{len(card.labels('dataset_id')):,}", "by dataset_id"),
        ("Sources", f"{len(card.labels('source')):,}", "files or downloads"),
        ("Genes", f"{genes:,}", f"{share(seen, genes)} seen in training"),
    ]
    dropped = sum((card.manifest.get("dropped") or {}).values())
    if "dropped" in card.manifest:
        note = f"{share(dropped, card.cells + dropped)} of the cells read"
        tiles.append(("Dropped cells", f"{dropped:,}", note))
    return tiles


def _splits(card: Card) -> str:
    body = html.table(tables.of_splits(card), "Cells of each split")
    lead = " ".join(part for part in (words.about(card), words.split_note(card)) if part)
    return html.section("splits", "Splits", lead, body)


def _checks(card: Card) -> str:
    items = "".join(
        f'<li class="{"good" if check.passed else "bad"}">'
        f'<span class="mark" aria-hidden="true">{"✓" if check.passed else "✗"}</span>'
        f"<span><b>{escape(check.name)}</b>: {escape(check.text)}</span></li>"
        for check in words.checks(card)
    )
    lead = "What would spoil an evaluation: anything of the held-out cells that training has seen."
    return html.section("checks", "Checks", lead, f'<ul class="checks">{items}</ul>')


def _labels(card: Card) -> str:
    lead = "Each bar is a label's share of all cells, with the number of cells beside it."
    if card.held_out and len(card.splits) > 1:
        lead += " Rings: its share of the held-out cells; far from the bar's end, they differ."
    cards = [_label_card(card, column, place) for place, column in enumerate(card.columns)]
    return html.section("labels", "Who and what the cells are", lead, html.pair(cards, "pair flow"))


def _label_card(card: Card, column: str, place: int) -> str:
    labels = card.labels(column)
    # no "1 other": a single further label is shown itself
    kept = list(labels)[: FOLD if len(labels) > FOLD + 1 else None]
    n_folded = len(labels) - len(kept)
    held = card.held_out if card.held_out < card.cells else 0

    def held_out(label: str) -> int:
        return sum(s.labels[column][label] for name, s in card.splits.items() if name != "train")

    names, cells = list(kept), [labels[label] for label in kept]
    # a dataset is on one side anyway
    wanted = held and column != "dataset_id"
    rings = [held_out(label) / held for label in kept] if wanted else None
    if n_folded:
        names.append(f"{n_folded:,} others")
        cells.append(card.cells - sum(cells))
        if rings is not None:
            rings.append(1 - sum(rings))
    text = words.about_labels(card, column)
    figure = bars_svg(
        [name or "(empty)" for name in names],
        [n / card.cells for n in cells],
        [f"{n:,} · {share(n, card.cells)}" for n in cells],
        name=f"labels-{place}",
        alt=f"Bars: share of the cells with each {column}. {text}",
        rings=rings,
        folded=n_folded > 0,
    )
    table = tables.of_labels(card, column)
    return html.card(
        column, text, figure, html.folded(table, f"Cells by {column}", "All labels by split")
    )


def _depths(card: Card) -> str:
    cards = [_depth_card(card, measure) for measure in tables.MEASURES]
    table = html.table(tables.of_median_cells(card), "The median cell of each split")
    text = "What it has in each split: where these differ, so do the experiments."
    return html.section(
        "depth",
        "How deep and how long",
        "",
        html.pair([*cards, html.card("The median cell", text, table)]),
    )


def _depth_card(card: Card, measure: str) -> str:
    counts, what = card.depth(measure), tables.MEASURES[measure]
    text, log = words.about_depth(card, measure), measure != "length"
    some = counts.values > (0 if log else -1)
    values, cells = counts.values[some], counts.cells[some]
    if log and not some.all():
        text += f" {several(counts.n_cells - int(cells.sum()), 'cell')} without any cannot be drawn"
        text += " on a logarithmic axis."
    figure = ""
    if len(values):
        top = max(card.context, int(values[-1]))
        # as many whole numbers in each bin
        bins = np.arange(-0.5, top + top // BINS + 1, top // BINS + 1)
        if log:
            bins = np.geomspace(values[0] * 0.95, values[-1] * 1.05, BINS)
        figure = histogram_svg(
            values,
            bins,
            weights=cells,
            name=f"depth-{measure}",
            xlabel=f"{what} per cell" + (" (log scale)" if log else ""),
            alt=f"Histogram of {what} per cell. {text}",
            log=log,
            median=counts.quantile(0.5),
            limit=None if log else card.context,
            limit_label=f"context {card.context:,}",
        )
    table = html.folded(
        tables.of_depth(card, measure), f"Quantiles of {what} a cell", "Quantiles by split"
    )
    return html.card(f"{what.capitalize()} a cell", text, figure, table)


def _genes(card: Card) -> str:
    seen = card.gene_cells[card.gene_cells > 0]
    text = words.about_coverage(card)
    where = "training cells" if "train" in card.splits else "cells"
    coverage = (
        ""
        if not len(seen)
        else histogram_svg(
            seen,
            np.geomspace(seen.min() * 0.95, seen.max() * 1.05, BINS),
            name="coverage",
            xlabel=f"{where} with the gene among their tokens (log scale)",
            alt=f"Histogram over genes of the {where} with each among their tokens. {text}",
            unit="genes",
            log=True,
            median=float(np.median(seen)),
        )
    )
    about = words.about_medians(card)
    medians = histogram_svg(
        card.medians,
        np.geomspace(card.medians.min() * 0.95, card.medians.max() * 1.05, BINS),
        name="medians",
        xlabel="median of the gene (log scale)",
        alt=f"Histogram over genes of their medians. {about}",
        unit="genes",
        log=True,
        median=float(np.median(card.medians)),
    )
    table = html.folded(tables.of_medians(card), "Quantiles of the medians", "Quantiles")
    cards = [html.card("Coverage", text, coverage), html.card("Medians", about, medians, table)]
    return html.section("genes", "Genes", "", html.pair(cards))
