"""Baselines of the task mlm: beside counts by hand, closed forms and planted truth."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from evaluation.masked import N_SPECIAL, best_prior, case_of, packed, scores_of, shuffled, values

from cellscribe.cells.gene_names.vocabulary import MASK
from cellscribe.evaluation.tasks.mlm import baselines, task
from cellscribe.evaluation.tasks.mlm.masked import MaskedCells, Prediction


def test_all_genes_alike_lose_the_logarithm_of_their_number() -> None:
    case = case_of(shuffled(30, 40), 40, shuffled(5, 40))
    found = scores_of(case)[baselines.ALIKE]
    assert values(found) == pytest.approx(
        dict.fromkeys(("masked_loss", "loss", "loss_per_token"), math.log(40))
        | {"top1": 1 / 40, "top5": 5 / 40},
        rel=1e-12,
    )


def by_hand(
    masked_cells: MaskedCells, train: list[list[int]], n_genes: int, name: str
) -> Prediction:
    """Gene by gene, with plain sums; ranks 1 to 4 have a bin each."""
    genes = range(N_SPECIAL, N_SPECIAL + n_genes)
    count = Counter(gene for cell in train for gene in cell)
    total = sum(count.values()) + 0.5 * n_genes
    share = {gene: (count[gene] + 0.5) / total for gene in genes}
    at_rank = [Counter(cell[rank] for cell in train if len(cell) > rank) for rank in range(4)]
    prior = best_prior(at_rank, share)
    prediction = []
    for place, gene in zip(range(len(masked_cells.chosen_M)), masked_cells.targets_M, strict=True):
        here = at_rank[masked_cells.ranks_M[place]]
        p = share
        if name != baselines.UNIGRAM:
            n = sum(here.values())
            p = {g: (here[g] + prior * share[g]) / (n + prior) for g in genes}
        if name in (baselines.NOT_VISIBLE, baselines.COPY_AWARE):
            visible = set(masked_cells.visible(masked_cells.cells_M[place]).tolist())
            p = {g: each for g, each in p.items() if g not in visible}
            p = {g: each / sum(p.values()) for g, each in p.items()}
        shown = masked_cells.given_N[masked_cells.chosen_M[place]]
        if name == baselines.COPY_AWARE and shown != MASK:
            # of ten chosen genes one is kept, and one is replaced by any of the table
            joint = {g: each * (0.1 * (g == shown) + 0.1 / n_genes) for g, each in p.items()}
            p = {g: each / sum(joint.values()) for g, each in joint.items()}
        above = sum(each > p[gene] * (1 + 1e-9) for each in p.values())
        ties = sum(math.isclose(each, p[gene], rel_tol=1e-9) for each in p.values())
        prediction.append((-math.log(p[gene]), above, ties))
    losses, above, ties = (np.array(column) for column in zip(*prediction, strict=True))
    return Prediction(losses_M=losses, above_M=above, ties_M=ties)


@pytest.mark.parametrize("name", task.BASELINES[1:])
def test_counted_baselines_are_those_counted_by_hand(name: str) -> None:
    train = [[5, 6, 7], [6, 5, 8, 9], [5, 6], [5, 7, 6, 10], [5, 9, 6]]
    cells = [[6, 5, 7, 8], [5, 6, 7], [10, 5], [9, 6, 5, 7], [7], [5, 8, 6, 9]]
    case = case_of(cells * 20, 6, train)
    masked_cells = case.masked_cells(3)
    assert set(masked_cells.corruptions_M) == {0, 1, 2}
    (method,) = (each for each in task.baselines(case) if each.name == name)
    found, wanted = method.predict()(masked_cells), by_hand(masked_cells, train, 6, name)
    np.testing.assert_allclose(found.losses_M, wanted.losses_M, rtol=1e-12)
    np.testing.assert_array_equal(found.above_M, wanted.above_M)
    np.testing.assert_array_equal(found.ties_M, wanted.ties_M)


def test_where_a_rank_tells_the_gene_only_the_ranked_baselines_know_it() -> None:
    order = list(range(N_SPECIAL, N_SPECIAL + 40))
    found = scores_of(case_of([order] * 20, 40, [order] * 2_000))
    plain, ranked, hidden, _ = (values(found[name]) for name in task.BASELINES[1:])
    assert plain["loss"] == pytest.approx(math.log(40), abs=1e-6)
    # eight bins hold one rank each, the last one nine: between 0 and ln 9
    assert ranked["loss"] < 2.0 < plain["loss"]
    assert ranked["top1"] > 5 * plain["top1"]
    assert hidden["loss"] < ranked["loss"]


def test_where_order_tells_nothing_ranks_are_of_no_use_and_what_is_visible_is() -> None:
    """Every cell shows all genes: hidden are just those that are not visible, each as likely."""
    rng = np.random.default_rng(0)
    genes = np.arange(N_SPECIAL, N_SPECIAL + 40)
    train, cells = ([rng.permutation(genes).tolist() for _ in range(n)] for n in (2_000, 50))
    found = scores_of(case_of(cells, 40, train))
    plain, ranked, hidden, _ = (values(found[name]) for name in task.BASELINES[1:])
    assert plain["loss"] == pytest.approx(math.log(40), abs=1e-6)
    assert ranked["loss"] == pytest.approx(math.log(40), abs=0.03)
    # six of forty are chosen
    assert hidden["loss"] == pytest.approx(math.log(6), abs=0.05)
    assert hidden["top1"] == pytest.approx(1 / 6, abs=0.08)
    assert hidden["top5"] == pytest.approx(5 / 6, abs=0.08)
    # what a place shows is 1 + 40 times as likely as each of the five others
    aware = found[baselines.COPY_AWARE].breakdowns["by corruption"]
    assert aware["mask"] == pytest.approx(math.log(6), abs=0.05)
    assert aware["kept"] == pytest.approx(math.log((41 + 5) / 41), abs=0.02)


def test_only_what_is_shown_tells_the_copy_aware_baseline_more() -> None:
    case = case_of(shuffled(300, 60, least=30), 60, shuffled(500, 60))
    without, aware = (
        method.predict()(case.masked_cells(0))
        for method in task.baselines(case)
        if method.name in (baselines.NOT_VISIBLE, baselines.COPY_AWARE)
    )
    kinds = case.masked_cells(0).corruptions_M
    masked, random, kept = (kinds == kind for kind in range(3))
    np.testing.assert_array_equal(aware.losses_M[masked], without.losses_M[masked])
    assert (aware.losses_M[kept] < without.losses_M[kept]).all()
    assert (aware.losses_M[random] >= without.losses_M[random] - 1e-9).all()
    # the shares of the protocol are right: over both kinds it gains
    shown = ~masked
    assert aware.losses_M[shown].mean() < without.losses_M[shown].mean() - 0.5


def test_each_half_of_a_file_is_predicted_from_the_other() -> None:
    # cell i shows gene i and nothing else: in the table that it is predicted from, its gene is not
    # counted
    cells = packed([[N_SPECIAL + i] for i in range(30)])
    count = baselines.halves(cells, np.arange(3, 21), 1, N_SPECIAL + 30)
    tables = count(0)
    assert np.array_equal(tables[0][0], ~tables[1][0])
    for mine, counts in tables:
        assert counts[0, N_SPECIAL + 3 + np.flatnonzero(mine)].sum() == 0
        assert counts[0, N_SPECIAL + 3 + np.flatnonzero(~mine)].sum() == (~mine).sum()
    assert sum(counts.sum() for _, counts in tables) == 30
    assert np.array_equal(count(0)[0][0], tables[0][0])
    assert not np.array_equal(count(1)[0][0], tables[0][0])
