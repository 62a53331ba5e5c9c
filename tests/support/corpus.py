"""A corpus written by hand: what readers and the card are tested on without building one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellscribe import writing
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.corpus import manifest, store
from support.tiny import real_genes

N_GENES = 150


def write_corpus(
    folder: Path,
    cells: dict[str, list[int]],
    *,
    row_group: int = 16,
    context: int = 40,
    seed: int = 0,
    change: Callable[[pa.Table, str, int], pa.Table] | None = None,
    more: dict[str, Any] | None = None,
) -> Path:
    """`cells`: for each split the cells of its shards. Cell numbers run through the splits.

    `change` is given each shard's table, its split and place before it is written; `more` goes into
    the manifest.
    """
    rng = np.random.default_rng(seed)
    ids, symbols = real_genes(N_GENES)
    vocabulary = Vocabulary.build(ids, symbols, rng.gamma(2, 2, N_GENES) + 0.1)
    folder.mkdir()
    vocabulary.write(folder / store.GENES)
    number, splits = 0, {}
    tokens, ids_of = dict.fromkeys(cells, 0), {}
    for split, sizes in cells.items():
        shards = []
        for place, size in enumerate(sizes):
            table = _cells(number, size, split, vocabulary, context, rng)
            if change is not None:
                table = change(table, split, place)
            path = folder / store.tokens_name(split, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=row_group, compression="none")
            half = {
                "name": store.tokens_name(split, place),
                "bytes": writing.size_of(path),
                "sha256": writing.hash_of(path),
            }
            shards.append({"cells": size, "tokens": half})
            number += size
            tokens[split] += sum(table["length"].to_pylist())
            side = split if split in ("train", "test_unseen") else "holdout"
            for name in table["dataset_id"].to_pylist():
                ids_of.setdefault(name, {"side": side, "cells": 0})["cells"] += 1
        splits[split] = {"cells": sum(sizes), "tokens": tokens[split], "shards": shards}
    told: dict[str, Any] = {
        "format": manifest.FORMAT,
        "version": manifest.VERSION,
        "cellscribe": "0.0.1",
        "options": {"seed": seed, "min_genes": 5, "genes": N_GENES, "vocabulary": None},
        "labels": list(store.LABELS),
        "context": context,
        "sources": [_source(split, sum(sizes)) for split, sizes in cells.items()],
        "refused": [],
        "dropped": {"fewer than 5 genes": 3 * len(cells), "duplicate": 2 * len(cells)},
        "datasets": dict(sorted(ids_of.items())),
        "split": {"note": "", "holdout_asked": 0.01, "holdout_reached": 0.25, "seed": seed},
        "vocabulary": {
            "hash": vocabulary.hash,
            "genes": N_GENES,
            "chosen": "the genes that the tests know",
            "medians": {"method": "drawn at random", "error": "none", "cells": number},
        },
        "splits": splits,
    }
    writing.write_json(folder / manifest.MANIFEST, told | (more or {}))
    return folder


def _source(split: str, kept: int) -> dict[str, Any]:
    return {
        "name": f"{split}.h5ad",
        "sha256": hashlib.sha256(split.encode()).hexdigest(),
        "bytes": 1_000 * kept,
        "cells": kept + 5,
        "kept": kept,
        "dropped": {"fewer than 5 genes": 3, "duplicate": 2},
        "genes": {"known": 140, "columns": 180, "key": "var_names"},
        "dataset_id": "column dataset_id",
        "notes": [],
    }


def _cells(
    first: int,
    size: int,
    split: str,
    vocabulary: Vocabulary,
    context: int,
    rng: np.random.Generator,
) -> pa.Table:
    lengths = rng.integers(1, context + 1, size)
    genes = np.arange(vocabulary.n_special, len(vocabulary), dtype=np.uint16)
    tokens = [rng.permutation(genes)[:length] for length in lengths]
    text = {
        "source": [f"{split}.h5ad"] * size,
        "dataset_id": [f"{split}-{rng.integers(3)}" for _ in range(size)],
    } | {label: [f"{label} {rng.integers(4)}" for _ in range(size)] for label in store.LABELS}
    columns = {
        "cell": np.arange(first, first + size),
        "cell_id": [f"cell{i}" for i in range(first, first + size)],
        "input_ids": pa.array(tokens, pa.list_(pa.uint16())),
        "length": lengths.astype(np.int32),
        "n_counts": lengths * 3,
        "n_genes": lengths.astype(np.int32),
        "cell_hash": rng.integers(0, 2**63, size).astype(np.uint64),
    } | {name: pa.array(values).dictionary_encode() for name, values in text.items()}
    return pa.table(columns, schema=store.token_schema())
