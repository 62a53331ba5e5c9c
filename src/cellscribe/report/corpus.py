"""The data card of a corpus as one HTML page that needs no network, no server and no script.

Numbers, sentences and tables are those of `corpus.card`, so that the page and the Markdown agree;
here they get their places and their figures. Every text is escaped, and a content security policy
lets nothing run.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from cellscribe.corpus import card as told
from cellscribe.corpus import card_tables as tables
from cellscribe.corpus.card import FOLD, Card
from cellscribe.corpus.card_tables import Table, several, share
from cellscribe.corpus.store import open_corpus
from cellscribe.errors import InputError
from cellscribe.report.bars import bars_svg
from cellscribe.report.figures import histogram_svg, need_matplotlib, write_whole
from cellscribe.writing import check_target

if TYPE_CHECKING:
    from cellscribe.cells.tokenize import Progress

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
    # other endings could be files of the corpus itself
    for target, ending in ((html, ".html"), (md, ".md")):
        if target.suffix != ending or target.is_dir():
            raise InputError(f"{target} cannot be the card; name a file that ends in {ending}")
        check_target(target, None, overwrite=True)
    card = told.describe(corpus, progress)
    write_card_page(html, card)
    write_whole(md, told.markdown(card).encode())
    return card


def write_card_page(path: Path, card: Card) -> None:
    """Write the page; it stands under its name only when complete.

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
        body = _table(table, title) if len(table.rows) <= FOLD + 1 else _folded(table, title)
        sections.append(_section(f"origin-{place}", title, "", body))
    return Template(_part("corpus.html")).substitute(
        css=_part("page.css"),
        title=escape(f"Corpus {card.name}"),
        source=escape(f"corpus {card.hash}"),
        tiles=_tiles(card),
        warnings=_warnings(told.warnings(card)),
        sections="\n".join(sections),
    )


def key_figures(card: Card) -> list[tuple[str, str, str]]:
    """List the tiles: name, figure, and a short note."""
    tokens = sum(split.tokens for split in card.splits.values())
    seen, genes = int((card.gene_cells > 0).sum()), len(card.medians)
    tiles = [
        ("Cells", f"{card.cells:,}", f"{share(card.held_out, card.cells)} held out"),
        ("Tokens", _compact(tokens), f"{tokens / card.cells:,.0f} a cell"),
        ("Datasets", f"{len(card.labels('dataset_id')):,}", "by dataset_id"),
        ("Sources", f"{len(card.labels('source')):,}", "files or downloads"),
        ("Genes", f"{genes:,}", f"{share(seen, genes)} seen in training"),
    ]
    dropped = sum((card.manifest.get("dropped") or {}).values())
    if "dropped" in card.manifest:
        note = f"{share(dropped, card.cells + dropped)} of the cells read"
        tiles.append(("Dropped cells", f"{dropped:,}", note))
    return tiles


def _compact(n: int) -> str:
    """Render a large number in millions or billions, for a tile."""
    for size, letter in ((10**9, "billion"), (10**6, "million")):
        if n >= size:
            return f"{n / size:,.3g} {letter}"
    return f"{n:,}"


def _part(name: str) -> str:
    return (resources.files("cellscribe.report") / name).read_text(encoding="utf-8")


def _tiles(card: Card) -> str:
    return "\n".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd><strong>{escape(figure)}</strong> '
        f"<small>{escape(note)}</small></dd></div>"
        for name, figure, note in key_figures(card)
    )


def _warnings(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    heading = "Warning" if len(texts) == 1 else "Warnings"
    return (
        '<section class="card alert" aria-labelledby="warnings">'
        f'<h2 id="warnings">{heading}</h2><ul>{items}</ul></section>'
    )


def _section(key: str, title: str, lead: str, body: str) -> str:
    lead = f'<p class="lead">{escape(lead)}</p>\n' if lead else ""
    return (
        f'<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(title)}</h2>\n'
        f"{lead}{body}\n</section>"
    )


def _card(title: str, text: str, *body: str) -> str:
    return (
        f'<div class="card">\n<h3>{escape(title)}</h3>\n<p>{escape(text)}</p>\n'
        + "\n".join(body)
        + "\n</div>"
    )


def _pair(cards: Sequence[str], kind: str = "pair") -> str:
    return f'<div class="{kind}">\n' + "\n".join(cards) + "\n</div>"


def _table(table: Table, label: str) -> str:
    """Render a table that scrolls sideways by itself where the screen is narrow."""

    def row(cells: Sequence[str], *, head: bool = False) -> str:
        text = []
        for place, cell in enumerate(cells):
            tag = "th" if head or (place == 0 and table.n_text) else "td"
            scope = "" if tag == "td" else ' scope="col"' if head else ' scope="row"'
            figure = "" if place < table.n_text else ' class="figure"'
            text.append(f"<{tag}{scope}{figure}>{escape(cell)}</{tag}>")
        return "".join(text)

    last = len(table.rows) - 1
    kind = "wide numbers" if table.n_text < len(table.header) else "wide"
    body = "\n".join(
        f"<tr{' class=total' if table.total and place == last else ''}>{row(cells)}</tr>"
        for place, cells in enumerate(table.rows)
    )
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(label)}"><table>\n'
        f"<thead><tr>{row(table.header, head=True)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _folded(table: Table, label: str, summary: str = "") -> str:
    rows = len(table.rows) - table.total
    summary = summary or several(rows, "row")
    return f"<details><summary>{escape(summary)}</summary>\n{_table(table, label)}\n</details>"


def _splits(card: Card) -> str:
    body = _table(tables.of_splits(card), "Cells of each split")
    lead = " ".join(part for part in (told.about(card), told.split_note(card)) if part)
    return _section("splits", "Splits", lead, body)


def _checks(card: Card) -> str:
    items = "".join(
        f'<li class="{"good" if check.passed else "bad"}">'
        f'<span class="mark" aria-hidden="true">{"✓" if check.passed else "✗"}</span>'
        f"<span><b>{escape(check.name)}</b>: {escape(check.text)}</span></li>"
        for check in told.checks(card)
    )
    lead = "What would spoil an evaluation: anything of the held-out cells that training has seen."
    return _section("checks", "Checks", lead, f'<ul class="checks">{items}</ul>')


def _labels(card: Card) -> str:
    lead = "Each bar is a label's share of all cells, with the number of cells beside it."
    if card.held_out and len(card.splits) > 1:
        lead += " Rings: its share of the held-out cells; far from the bar's end, they differ."
    cards = [_label_card(card, column, place) for place, column in enumerate(card.columns)]
    return _section("labels", "Who and what the cells are", lead, _pair(cards, "pair flow"))


def _label_card(card: Card, column: str, place: int) -> str:
    labels = card.labels(column)
    # one label too many is not worth folding into "1 other"
    kept = list(labels)[: FOLD if len(labels) > FOLD + 1 else None]
    n_folded = len(labels) - len(kept)
    held = card.held_out if card.held_out < card.cells else 0

    def held_out(label: str) -> int:
        return sum(s.labels[column][label] for name, s in card.splits.items() if name != "train")

    names, cells = list(kept), [labels[label] for label in kept]
    # a dataset is on one side anyhow
    wanted = held and column != "dataset_id"
    rings = [held_out(label) / held for label in kept] if wanted else None
    if n_folded:
        names.append(f"{n_folded:,} others")
        cells.append(card.cells - sum(cells))
        if rings is not None:
            rings.append(1 - sum(rings))
    text = told.about_labels(card, column)
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
    return _card(column, text, figure, _folded(table, f"Cells by {column}", "All labels by split"))


def _depths(card: Card) -> str:
    cards = [_depth_card(card, measure) for measure in tables.MEASURES]
    table = _table(tables.of_median_cells(card), "The median cell of each split")
    text = "What it has in each split: where these differ, so do the experiments."
    return _section(
        "depth", "How deep and how long", "", _pair([*cards, _card("The median cell", text, table)])
    )


def _depth_card(card: Card, measure: str) -> str:
    tally, what = card.depth(measure), tables.MEASURES[measure]
    text, log = told.about_depth(card, measure), measure != "length"
    some = tally.values > (0 if log else -1)
    values, cells = tally.values[some], tally.cells[some]
    if log and not some.all():
        text += f" {several(tally.n_cells - int(cells.sum()), 'cell')} without any cannot be drawn"
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
            median=tally.quantile(0.5),
            limit=None if log else card.context,
            limit_label=f"context {card.context:,}",
        )
    table = _folded(
        tables.of_depth(card, measure), f"Quantiles of {what} a cell", "Quantiles by split"
    )
    return _card(f"{what.capitalize()} a cell", text, figure, table)


def _genes(card: Card) -> str:
    seen = card.gene_cells[card.gene_cells > 0]
    text = told.about_coverage(card)
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
    about = told.about_medians(card)
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
    table = _folded(tables.of_medians(card), "Quantiles of the medians", "Quantiles")
    cards = [_card("Coverage", text, coverage), _card("Medians", about, medians, table)]
    return _section("genes", "Genes", "", _pair(cards))
