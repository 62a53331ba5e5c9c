"""Whether the genes of each source of a corpus are expressed together, from its counts."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cellscribe.cells.coexpression import LEAST_CELLS, Coexpression, coexpression
from cellscribe.cells.counts import open_counts
from cellscribe.corpus.store import Corpus

MOST_CELLS = 20_000
"""Cells that are read; a corpus is shuffled, so the first ones are a random sample."""
CELLS_A_SOURCE = 2_000
BLOCK = 4_096
SPLIT = "train"


def expressed_together(corpus: Corpus) -> dict[str, Coexpression]:
    """Judge each source that has enough cells among the first of the training split.

    Parameters
    ----------
    corpus
        A finished corpus.

    Returns
    -------
    dict
        Source -> what was found; empty if the corpus holds no counts.

    Raises
    ------
    InputError
        A shard of counts is damaged.
    """
    if SPLIT not in corpus.splits:
        return {}
    parts: list[csr_matrix] = []
    sources: list[str] = []
    ids: list[str] = []
    for shard in corpus.shards(SPLIT):
        path = corpus.path / shard["counts"]["name"] if "counts" in shard else None
        if path is None or not path.exists() or len(sources) >= MOST_CELLS:
            continue
        with open_counts(path, log=lambda line: None) as opened:
            ids = [str(name) for name in opened.var.index]
            names = opened.obs["source"].astype(str).tolist()
            for block in opened.blocks(BLOCK):
                sources += names[: block.shape[0]]
                names = names[block.shape[0] :]
                parts.append(block)
                if len(sources) >= MOST_CELLS:
                    break
    if not parts:
        return {}
    counts, of_cell = csr_matrix(vstack(parts)), np.array(sources)
    found = {}
    for source in sorted(set(sources)):
        rows = np.flatnonzero(of_cell == source)[:CELLS_A_SOURCE]
        if len(rows) >= LEAST_CELLS:
            found[source] = coexpression(counts[rows], ids)
    return found
