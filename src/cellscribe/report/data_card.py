"""The data card of a corpus in words: checks, sentences, and the whole card as Markdown.

Everything is worked out from a `Card`, so that Markdown and HTML page (`data_card_page`) agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cellscribe.corpus.card import TRAIN, Card
from cellscribe.corpus.statistics import DEPTHS
from cellscribe.report import data_card_tables as tables
from cellscribe.report.numbers import rounded, several, share
from cellscribe.report.tables import plain, table_lines

MAY_SHARE = frozenset({"val", "test"})
"""Splits that divide the cells of the same datasets."""
COVERED = ("assay", "tissue_general")
"""Columns whose every label is meant to be in train (NVIDIA sc-FM model card)."""
RARE = 10
"""A gene in fewer training cells than this is called rare."""
LISTED = 10
"""Findings of a check that are listed; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of a corpus: whether it passed, and a sentence on what was found."""

    name: str
    passed: bool
    text: str


def checks(card: Card) -> list[Check]:
    """Check a corpus for what would make an evaluation invalid."""
    found = [_repeats_within(card)]
    if len(card.splits) > 1:
        found = [_shared_datasets(card), _repeats_across(card), *found]
    if TRAIN in card.splits and card.held_out:
        found += [_missing_labels(card, column) for column in COVERED if column in card.columns]
    return [*found, _shuffled_genes(card)]


def warnings(card: Card) -> list[str]:
    """List the checks that failed and the sources that were left out."""
    found = [f"{check.name}: {check.text}" for check in checks(card) if not check.passed]
    for source in card.manifest.get("refused", ()):
        found.append(f"Source {source['name']} was left out: {source['reason']}.")
    return found


def _shared_datasets(card: Card) -> Check:
    bad, expected = [], 0
    for one, other in combinations(card.splits, 2):
        here, there = (card.splits[name].labels["dataset_id"] for name in (one, other))
        shared = sorted(set(here) & set(there))
        if {one, other} == MAY_SHARE:
            expected = len(shared)
            continue
        bad += [
            f"{name} has {here[name]:,} cells in {one} and {there[name]:,} in {other}"
            for name in shared
        ]
    text = _listed(bad) if bad else "none found."
    if expected:
        verb = "stands" if expected == 1 else "stand"
        text += f" {several(expected, 'dataset')} {verb} in both val and test, as is meant: they"
        text += " divide the held-out cells at random."
    return Check(name="Datasets in more than one split", passed=not bad, text=text)


def _repeats_across(card: Card) -> Check:
    bad = [
        f"{several(n, 'distinct cell')} in both {one} and {other}"
        for (one, other), n in card.repeats.across.items()
    ]
    text = _listed(bad) if bad else "none found."
    return Check(name="Equal cells in different splits", passed=not bad, text=text)


def _repeats_within(card: Card) -> Check:
    bad = [f"{several(n, 'repeat')} in {split}" for split, n in card.repeats.within.items()]
    text = _listed(bad) if bad else "none found."
    return Check(name="Equal cells within a split", passed=not bad, text=text)


def _missing_labels(card: Card, column: str) -> Check:
    trained = card.splits[TRAIN].labels[column]
    missing = [
        f"{label} ({several(n, 'cell')} held out)"
        for label, n in card.labels(column).items()
        if label not in trained and label.strip()
    ]
    text = _listed(missing) if missing else "none: training has every held-out label."
    return Check(name=f"Labels of {column} that training lacks", passed=not missing, text=text)


def _shuffled_genes(card: Card) -> Check:
    judged = {name: each for name, each in card.together.items() if each.correlation is not None}
    name = "Genes shuffled among the cells"
    if not judged:
        why = "no source has enough cells with counts of the genes that it takes"
        return Check(name=name, passed=True, text=f"not judged: {why}.")
    bad = [f"{source}: {each.warning}" for source, each in judged.items() if each.warning]
    least = min(judged, key=lambda source: judged[source].correlation or 0.0)
    text = f"none of {several(len(judged), 'source')} seen to be; the lowest, {least}: "
    text += judged[least].sentence
    return Check(name=name, passed=not bad, text=_listed(bad) if bad else text)


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - LISTED:,} more" if len(items) > LISTED else ""
    return "; ".join(items[:LISTED]) + more + "."


def about(card: Card) -> str:
    """Describe the corpus in a few sentences."""
    sources, datasets = len(card.labels("source")), len(card.labels("dataset_id"))
    tokens = sum(split.tokens for split in card.splits.values())
    return (
        f"{several(card.cells, 'cell')} of {several(datasets, 'dataset')} from "
        f"{several(sources, 'source')}, shuffled over all of them: {tokens:,} tokens. A cell is a "
        f"row: its genes ranked by expression, the highest first, at most {card.context:,} of the "
        f"{len(card.medians):,} genes of the table, and its labels."
    )


def about_labels(card: Card, column: str) -> str:
    """Describe the labels of a column: their number, the commonest, and cells without one."""
    labels = card.labels(column)
    (first, n), what = labels.most_common(1)[0], "dataset" if column == "dataset_id" else "label"
    if len(labels) == 1:
        return f"All cells have the same {what}, {first}."
    text = f"{several(len(labels), what)}; the commonest, {first}, has {share(n, card.cells)} "
    text += "of the cells."
    lacking = labels["unknown"] if first != "unknown" else 0
    return text + (f" {share(lacking, card.cells)} are unknown." if lacking else "")


def about_depth(card: Card, measure: str) -> str:
    """Describe the median cell, and for lengths how many cells fill the context."""
    counts = card.depth(measure)
    text = f"The median cell has {rounded(counts.quantile(0.5))} {tables.MEASURES[measure]}."
    if measure == "length":
        full = int(counts.cells[counts.values >= card.context].sum())
        text += f" {several(full, 'cell')} ({share(full, card.cells)}) fill the context of "
        text += f"{card.context:,} genes"
        text += "; what they have beyond was cut." if full else "; nothing was cut."
    return text


def about_coverage(card: Card) -> str:
    """Describe how many genes are in training cells, and how many in held-out cells only."""
    seen, genes = card.gene_cells, len(card.medians)
    n_seen, rare = int((seen > 0).sum()), int(((seen > 0) & (seen < RARE)).sum())
    where = "training cell" if TRAIN in card.splits else "cell"
    text = f"{n_seen:,} of {genes:,} genes ({share(n_seen, genes)}) are a token of at least one "
    text += f"{where}, {rare:,} of them in fewer than {RARE}."
    every = np.sum([split.gene_cells for split in card.splits.values()], axis=0)[card.n_special :]
    alone = int(((seen == 0) & (every > 0)).sum())
    return text + (f" {several(alone, 'gene')} only held-out cells have." if alone else "")


def about_medians(card: Card) -> str:
    """Describe how medians were computed, with what error, from how many cells."""
    facts = card.manifest.get("vocabulary", {}).get("medians", {})
    middle = rounded(float(np.median(card.medians)))
    text = "Median of a gene's non-zero counts per 10,000, by which its counts are divided before "
    text += f"ranking; the middle gene has {middle}."
    if facts.get("method"):
        text += f" Method: {str(facts['method']).rstrip('.')}"
        text += f", over {several(facts['cells'], 'cell')}." if "cells" in facts else "."
    if facts.get("error") not in (None, ""):
        error = facts["error"]
        text += f" Error: {rounded(error) if isinstance(error, int | float) else error}".rstrip(".")
        text += "."
    return text


def split_note(card: Card) -> str:
    """Return the builder's note on the split as a sentence; empty if there is none."""
    note = str(card.manifest.get("split", {}).get("note") or "").strip()
    return note[:1].upper() + note[1:].rstrip(".") + "." if note else ""


def markdown(card: Card) -> str:
    """Render the card as Markdown; text from the input is escaped."""
    parts = [f"# Data card: {plain(card.name)}", plain(about(card))]
    if found := warnings(card):
        parts += ["## Warnings", "\n".join(f"- **{plain(text)}**" for text in found)]
    parts += ["## Splits", plain(split_note(card)), table_lines(tables.of_splits(card))]
    parts += [
        "## Checks",
        "\n".join(f"- {plain(f'{check.name}: {check.text}')}" for check in checks(card)),
    ]
    parts += ["## Labels", "Cells with each label, and their share of the split."]
    for column in card.columns:
        parts += [f"### {plain(column)}", plain(about_labels(card, column))]
        parts += [table_lines(tables.of_labels(card, column))]
    parts += ["## Depth and length"]
    for measure in DEPTHS:
        title = tables.MEASURES[measure].capitalize()
        parts += [f"### {title} a cell", about_depth(card, measure)]
        parts += [table_lines(tables.of_depth(card, measure))]
    parts += ["## Genes", about_coverage(card), plain(about_medians(card))]
    parts += [table_lines(tables.of_medians(card))]
    for title, table in tables.of_origin(card).items():
        parts += [f"## {title}", table_lines(table)]
    return "\n\n".join(part for part in parts if part) + "\n"
