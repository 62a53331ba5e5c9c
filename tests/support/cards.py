"""Small corpora for the tests of statistics and data card, and their cells as a data frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cellscribe.corpus import store
from cellscribe.corpus.card import Card, describe
from cellscribe.corpus.store import open_corpus
from support.corpus import write_corpus

SIZES = {"train": [60, 45], "val": [20], "test": [15], "test_unseen": [10]}
Change = Callable[[pa.Table, str, int], pa.Table]


def put(table: pa.Table, column: str, values: Any) -> pa.Table:
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    text = pa.types.is_dictionary(field.type)
    array = pa.array(values, pa.string()).dictionary_encode() if text else pa.array(values)
    return table.set_column(place, field, array.cast(field.type))


def by_design(table: pa.Table, split: str, place: int) -> pa.Table:
    """Datasets as the builder splits them: those of val and test are the same."""
    side = {"val": "held", "test": "held"}.get(split, split)
    return put(table, "dataset_id", [f"{side}-{i % 3}" for i in range(table.num_rows)])


def frame(corpus: Path) -> pd.DataFrame:
    parts = [
        pd.read_parquet(file).assign(split=file.parent.name)
        for file in sorted(corpus.glob("tokens/*/*.parquet"))
    ]
    text = ["dataset_id", "source", *store.LABELS]
    return pd.concat([part.astype(dict.fromkeys(text, str)) for part in parts])


def describe_with(folder: Path, change: Change | None = None, **more: Any) -> Card:
    return describe(open_corpus(write_corpus(folder / "corpus", SIZES, change=change, more=more)))
