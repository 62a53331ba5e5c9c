"""Made-up ranked cells, and a case of the task mlm made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from support.tiny import real_genes

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import EvaluateOptions
from cellscribe.evaluation.scores import Scores
from cellscribe.evaluation.tasks.mlm import baselines, data, task
from cellscribe.evaluation.tasks.mlm.masked import Ranked
from cellscribe.evaluation.tasks.mlm.unigram import PRIORS

OPTIONS = EvaluateOptions(precision="float32", device="cpu", threads=1, bootstrap=50)
N_SPECIAL = 5


def packed(cells: list[list[int]]) -> Ranked:
    lengths = [len(cell) for cell in cells]
    return Ranked(
        tokens_N=np.concatenate(cells).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        numbers_B=np.arange(len(cells)),
    )


def vocabulary(n_genes: int) -> Vocabulary:
    ids, symbols = real_genes(n_genes)
    return Vocabulary.build(ids, symbols, np.ones(n_genes))


def shuffled(n_cells: int, n_genes: int, *, least: int = 1, seed: int = 0) -> list[list[int]]:
    """Cells of random genes in random order, short and long."""
    rng = np.random.default_rng(seed)
    genes = N_SPECIAL + np.arange(n_genes)
    lengths = rng.integers(least, n_genes + 1, n_cells)
    return [rng.permutation(genes)[:length].tolist() for length in lengths]


def best_prior(at_rank: Sequence[Counter[int]], share: Mapping[int, float]) -> float:
    """The prior under which each counted gene is told best by all others, one gene at a time."""

    def loss(prior: float) -> float:
        total = 0.0
        for here in at_rank:
            n = sum(here.values())
            for gene in here.elements():
                total -= math.log((here[gene] - 1 + prior * share[gene]) / (n - 1 + prior))
        return total

    return min(PRIORS, key=loss)


def case_of(cells: list[list[int]], n_genes: int, train: list[list[int]]) -> task.Case:
    """Cells, predicted from the counts of others."""
    others, context = packed(train), max(map(len, cells + train))
    ranked, table = packed(cells), vocabulary(n_genes)
    counts = baselines.count_packed(others.tokens_N, others.offsets, context, len(table))
    return task.Case(
        name="made up",
        models=[],
        about={},
        provenance=data.CellProvenance(names=frozenset()),
        identity={},
        vocabulary=table,
        context=context,
        ranked=ranked,
        count=lambda seed: [(np.ones(len(cells), bool), counts)],
        options=OPTIONS,
    )


def scores_of(case: task.Case, seed: int = 0) -> dict[str, Scores]:
    methods = [m for model in case.models for m in task.methods(case, model)]
    return {m.name: task.score(case, m.predict(), seed) for m in methods + task.baselines(case)}


def values(scores: Scores) -> dict[str, float]:
    return {name: estimate.value for name, estimate in scores.estimates.items()}
