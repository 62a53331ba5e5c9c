"""The tables of a corpus's data card; its Markdown and its page render the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cellscribe.corpus.card import Card
from cellscribe.report.numbers import rounded, share
from cellscribe.report.tables import Table

MEASURES = {"n_counts": "counts", "n_genes": "genes", "length": "tokens"}
"""Counted column -> unit of its values."""
QUANTILES = {
    "least": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "most": 1.0,
}  # fmt: skip
DATASET_FROM = "Dataset from"


def of_splits(card: Card) -> Table:
    """Tabulate cells, tokens and datasets of each split."""
    tokens = sum(split.tokens for split in card.splits.values())
    rows = [
        (
            name,
            f"{split.cells:,}",
            share(split.cells, card.cells),
            f"{split.tokens:,}",
            f"{len(split.labels['dataset_id']):,}",
            f"{len(split.labels['source']):,}",
        )
        for name, split in card.splits.items()
    ]
    n_datasets, n_sources = len(card.labels("dataset_id")), len(card.labels("source"))
    rows.append(
        ("all", f"{card.cells:,}", "100%", f"{tokens:,}", f"{n_datasets:,}", f"{n_sources:,}")
    )
    return Table(
        ("Split", "Cells", "Share", "Tokens", "Datasets", "Sources"), tuple(rows), total=True
    )


def of_labels(card: Card, column: str) -> Table:
    """Tabulate cells with each label, in total and in each split, with their shares."""
    labels = card.labels(column)
    splits = {"all": labels} | {name: split.labels[column] for name, split in card.splits.items()}
    sizes = {"all": card.cells} | {name: split.cells for name, split in card.splits.items()}
    rows = [
        (label or "(empty)", *(_with_share(of[label], sizes[name]) for name, of in splits.items()))
        for label in labels
    ]
    rows.append(("all", *(_with_share(size, size) for size in sizes.values())))
    return Table((column, *splits), tuple(rows), total=True)


def of_depth(card: Card, measure: str) -> Table:
    """Tabulate quantiles of a measure in each split and in total."""
    counts = {name: split.depths[measure] for name, split in card.splits.items()}
    counts["all"] = card.depth(measure)
    rows = tuple(
        (name, *(rounded(count.quantile(at)) for at in QUANTILES.values()))
        for name, count in counts.items()
    )
    return Table(("Split", *QUANTILES), rows, total=True)


def of_median_cells(card: Card) -> Table:
    """Tabulate the median cell of each split."""
    counts = {name: split.depths for name, split in card.splits.items()}
    counts["all"] = {measure: card.depth(measure) for measure in MEASURES}
    rows = tuple(
        (name, *(rounded(depths[measure].quantile(0.5)) for measure in MEASURES))
        for name, depths in counts.items()
    )
    return Table(("Split", *(word.capitalize() for word in MEASURES.values())), rows, total=True)


def of_medians(card: Card) -> Table:
    """Tabulate quantiles of the genes' medians."""
    values = np.quantile(card.medians, list(QUANTILES.values()))
    return Table(tuple(QUANTILES), (tuple(map(rounded, values)),), n_text=0)


def of_origin(card: Card) -> dict[str, Table]:
    """Tabulate sources, dropped cells and making of the corpus, by title; without empty tables."""
    tables = {
        "Sources": _sources(card.manifest.get("sources", ())),
        "Notes on sources": _notes(card.manifest.get("sources", ())),
        "Dropped cells": _dropped(card.manifest.get("dropped", {}), card.cells),
        "How this was made": _facts(card),
    }
    return {title: table for title, table in tables.items() if table.rows}


def _with_share(cells: int, size: int) -> str:
    return f"{cells:,} ({share(cells, size)})" if cells else "0"


def _sources(sources: list[Mapping[str, Any]]) -> Table:
    """Tabulate the sources, without columns that are empty for all."""
    reasons = list(dict.fromkeys(reason for source in sources for reason in _reasons(source)))
    columns = {
        "Source": [str(source.get("name", "")) for source in sources],
        "SHA-256": [str(source.get("sha256") or "")[:12] for source in sources],
        DATASET_FROM: [str(source.get("dataset_id") or "") for source in sources],
        "Genes known": [_genes(source.get("genes") or {}) for source in sources],
        "Cells": [_count(source.get("cells")) for source in sources],
        "Kept": [_count(source.get("kept")) for source in sources],
    }
    for reason in reasons:
        dropped = [_reasons(source).get(reason, 0) for source in sources]
        columns[f"Dropped: {reason}"] = [_count(n) for n in dropped]
    columns = {name: column for name, column in columns.items() if any(column)}
    rows = list(zip(*columns.values(), strict=True))
    n_text = sum(name in ("Source", "SHA-256", DATASET_FROM) for name in columns)
    if len(rows) > 1:
        rows.append(_sum_of(sources, list(columns)))
    return Table(tuple(columns), tuple(rows), n_text=n_text, total=len(rows) > 1)


def _sum_of(sources: list[Mapping[str, Any]], columns: list[str]) -> tuple[str, ...]:
    sums = {
        name: sum(source.get(name.lower()) or 0 for source in sources) for name in ("Cells", "Kept")
    }
    for source in sources:
        for reason, n in _reasons(source).items():
            sums[f"Dropped: {reason}"] = sums.get(f"Dropped: {reason}", 0) + n
    words = {"Source": "all"} | {name: f"{n:,}" for name, n in sums.items()}
    return tuple(words.get(name, "") for name in columns)


def _reasons(source: Mapping[str, Any]) -> Mapping[str, int]:
    return source.get("dropped") or {}


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _genes(genes: Mapping[str, Any]) -> str:
    if "known" not in genes:
        return ""
    text = f"{genes['known']:,}"
    text += f" of {genes['columns']:,}" if "columns" in genes else ""
    return text + (f" ({genes['key']})" if genes.get("key") else "")


def _notes(sources: list[Mapping[str, Any]]) -> Table:
    rows = [
        (str(source.get("name", "")), str(note))
        for source in sources
        for note in source.get("notes") or ()
    ]
    return Table(("Source", "Note"), tuple(rows), n_text=2)


def _dropped(dropped: Mapping[str, int], kept: int) -> Table:
    """Tabulate dropped cells by reason, with their share of all cells read."""
    if not dropped:
        return Table((), ())
    read = kept + sum(dropped.values())
    rows = [(reason, f"{n:,}", share(n, read)) for reason, n in dropped.items()]
    rows += [("kept", f"{kept:,}", share(kept, read)), ("all", f"{read:,}", "100%")]
    return Table(("Reason", "Cells", "Share of cells read"), tuple(rows), total=True)


def _facts(card: Card) -> Table:
    """Tabulate how the corpus was made, in the order of the manifest."""
    manifest = card.manifest
    vocabulary = manifest.get("vocabulary", {})
    medians = vocabulary.get("medians", {})
    facts: dict[str, Any] = {
        "Corpus hash": card.hash,
        "Made by cellscribe": manifest.get("cellscribe"),
        "Format version": manifest.get("version"),
        "Genes": f"{len(card.medians):,}",
        "Gene table hash": vocabulary.get("hash"),
        "Genes chosen": vocabulary.get("chosen"),
        "Medians": medians.get("method"),
        "Error of medians": medians.get("error"),
        "Context": f"{card.context:,}",
    }
    facts |= {
        f"Split: {_words(key)}": value
        for key, value in (manifest.get("split") or {}).items()
        if key != "note"
    }
    facts |= {
        f"Option: {_words(key)}": value for key, value in (manifest.get("options") or {}).items()
    }
    rows = [(name, _value(value)) for name, value in facts.items() if value not in (None, "")]
    return Table(("What", "Value"), tuple(rows), n_text=2)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) or "none"
    return str(value)
