"""Edits of cells against a slow restatement, shifts against closed forms and another route."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu
from support.formats import annotated
from support.tiny import CONTEXT, N_GENES, WIDTH, real_genes, some_counts

import cellscribe
from cellscribe.cells.counts import open_counts
from cellscribe.cells.rank import rank_cells
from cellscribe.errors import InputError
from cellscribe.families.registry import read_model
from cellscribe.perturbation.by_counts import deleted_vectors
from cellscribe.perturbation.by_tokens import FEWEST_NEAR, edited, null_genes
from cellscribe.perturbation.statistics import (
    NULL,
    false_discovery_rates,
    mann_whitney_of_each,
)

pytestmark = pytest.mark.usefixtures("one_thread")

IDS, SYMBOLS = real_genes(N_GENES)
SPECIAL = 5
"""Tokens before the first gene."""
DENSE = some_counts(30, seed=4)
EXACT: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def adata() -> ad.AnnData:
    found = annotated(csr_matrix(DENSE), real_genes)
    found.obs["kind"] = pd.Categorical(["x", "y", "z"] * 10)
    return found


@pytest.fixture(scope="module")
def flat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No layers and no positions: a cell is the mean of its genes' vectors, whatever the order."""
    from cellscribe.cells.gene_names.vocabulary import Vocabulary
    from cellscribe.config import ModelConfig
    from cellscribe.model.checkpoint import save_checkpoint
    from cellscribe.model.encoder import MaskedGeneModel, initialise

    config = ModelConfig(
        vocab_size=N_GENES + SPECIAL,
        hidden_size=WIDTH,
        num_hidden_layers=0,
        num_attention_heads=2,
        max_position_embeddings=64,
        context=CONTEXT,
        initializer_range=0.4,
    )
    network = MaskedGeneModel(config)
    initialise(network, seed=1)
    with torch.no_grad():
        network.encoder.positions.weight.zero_()
        network.encoder.token_types.weight.zero_()
    medians = np.sqrt(np.arange(2, N_GENES + 2) + 0.1234)
    folder = tmp_path_factory.mktemp("flat") / "flat"
    vocabulary = Vocabulary.build(IDS, SYMBOLS, medians)
    save_checkpoint(folder, network, vocabulary, {"trained on": "nothing"})
    return folder


def vectors_of_genes(model: Path) -> np.ndarray:
    """``[V, D]`` gene vectors behind the LayerNorm, by hand."""
    from cellscribe.model.checkpoint import load_checkpoint

    rows = load_checkpoint(model).model.encoder.genes.weight.detach().double().numpy()
    centred = rows - rows.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # [PAD] is zero
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))


def ranking(row: np.ndarray) -> list[int]:
    """Tokens of a cell, ranked and not cut, the slow way."""
    medians = np.sqrt(np.arange(2, N_GENES + 2) + 0.1234)
    value = row / medians
    return [SPECIAL + g for g in sorted(np.flatnonzero(row), key=lambda g: (-value[g], g))]


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@settings(max_examples=200)
@given(
    st.lists(st.integers(5, 60), unique=True, max_size=30),
    st.lists(st.integers(5, 60), unique=True, min_size=1, max_size=4),
    st.integers(4, 12),
)
def test_an_edit_is_what_the_slow_way_says(cell: list[int], genes: list[int], context: int) -> None:
    kept = [token for token in cell if token not in genes]
    deleted = edited(np.array(cell, int), np.array(genes), context, promote=False)
    assert deleted.tolist() == kept[:context]
    promoted = edited(np.array(cell, int), np.array(genes), context, promote=True)
    assert promoted.tolist() == [*genes, *kept][:context]


def test_a_cut_cell_gets_the_next_gene() -> None:
    cell = np.arange(10, 20)
    assert edited(cell, np.array([12]), 5, promote=False).tolist() == [10, 11, 13, 14, 15]
    assert edited(cell, np.array([40]), 5, promote=True).tolist() == [40, 10, 11, 12, 13]
    assert edited(cell, np.array([12]), 20, promote=False).tolist() == [
        10, 11, 13, 14, 15, 16, 17, 18, 19,
    ]  # fmt: skip


def test_an_edit_at_the_tokens_is_a_ranking_without_the_counts() -> None:
    medians = np.concatenate([np.full(5, np.nan), np.sqrt(np.arange(2, N_GENES + 2) + 0.1234)])
    token_of = np.arange(SPECIAL, SPECIAL + N_GENES, dtype=np.int32)
    whole = rank_cells(csr_matrix(DENSE), token_of, medians, CONTEXT + 2)
    rng = np.random.default_rng(0)
    for genes in rng.choice(N_GENES, (20, 2), replace=False):
        without = DENSE.copy()
        without[:, genes] = 0
        wanted = rank_cells(csr_matrix(without), token_of, medians, CONTEXT)
        for row in range(len(DENSE)):
            cell = whole.tokens[whole.offsets[row] : whole.offsets[row + 1]].astype(int)
            after = edited(cell, genes + SPECIAL, CONTEXT, promote=False)
            expected = wanted.tokens[wanted.offsets[row] : wanted.offsets[row + 1]]
            np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("mode", ["delete", "promote"])
def test_shifts_of_a_bag_of_genes_have_a_closed_form(
    mode: str, flat_model: Path, adata: ad.AnnData
) -> None:
    names = [SYMBOLS[3], IDS[40], SYMBOLS[7]]
    table = cellscribe.perturb(adata, model=flat_model, genes=names, mode=mode, **EXACT)
    vectors = vectors_of_genes(flat_model)
    assert set(table["symbol"]) == {SYMBOLS[3], SYMBOLS[40], SYMBOLS[7]}
    for gene in (3, 40, 7):
        shifts = []
        for row in DENSE:
            cell = ranking(row)
            token = gene + SPECIAL
            rest = [each for each in cell if each != token]
            if not cell or (mode == "delete" and token not in cell[:CONTEXT]):
                continue
            after = (rest if mode == "delete" else [token, *rest])[:CONTEXT]
            if after:
                old, new = vectors[cell[:CONTEXT]].mean(0), vectors[after].mean(0)
                shifts.append(one_minus_cosine(old, new))
        line = table.set_index("symbol").loc[SYMBOLS[gene]]
        assert line["gene"] == IDS[gene]
        assert line["n_cells"] == len(shifts) > 3
        assert line["shift"] == pytest.approx(np.mean(shifts), rel=1e-4)
        assert line["shift_sd"] == pytest.approx(np.std(shifts, ddof=1), rel=1e-4)
        assert line["gene_shift"] == pytest.approx(0, abs=1e-9)  # nothing hears of its neighbours


@pytest.mark.parametrize("mode", ["delete", "promote"])
def test_other_genes_are_followed_to_their_new_places(
    mode: str, tiny_model: Path, adata: ad.AnnData
) -> None:
    """Every cell on its own, by the public ways of the family."""
    genes = [2, 11]
    token_of = np.arange(SPECIAL, SPECIAL + N_GENES, dtype=np.int32)
    table = cellscribe.perturb(
        adata, model=tiny_model, genes=[IDS[g] for g in genes], mode=mode, combine=True, **EXACT
    )
    model: Any = cellscribe.load(tiny_model, **EXACT).cells
    own = np.array(genes) + SPECIAL

    def state(cell: list[int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        first = model.tokenize(csr_matrix(DENSE[:1]), token_of)
        cells = type(first)(
            **{**vars(first), "tokens": np.array(cell, np.uint16)}
            | {"offsets": np.array([0, len(cell)])}
        )
        one = np.array([0])
        with torch.inference_mode():
            tokens, vectors = model.gene_vectors(cells, one)
            vector = model.embed(cells, one)[0].double().numpy()
        return vector, dict(zip(tokens.tolist(), vectors.double().numpy(), strict=True))

    shifts, gene_shifts = [], []
    for row in DENSE:
        cell = ranking(row)
        if not cell or (mode == "delete" and not np.isin(own, cell[:CONTEXT]).any()):
            continue
        rest = [token for token in cell if token not in own]
        after = (rest if mode == "delete" else [*own.tolist(), *rest])[:CONTEXT]
        if not after:
            continue
        (old, old_genes), (new, new_genes) = state(cell[:CONTEXT]), state(after)
        shifts.append(one_minus_cosine(old, new))
        both = (old_genes.keys() & new_genes.keys()) - set(own.tolist())
        if both:
            moves = [one_minus_cosine(old_genes[t], new_genes[t]) for t in both]
            gene_shifts.append(np.mean(moves))
    (line,) = table.to_dict("records")
    assert line["gene"] == f"{IDS[2]}+{IDS[11]}"
    assert line["n_cells"] == len(shifts) > 10
    assert line["shift"] == pytest.approx(np.mean(shifts), rel=1e-3)
    assert line["gene_shift"] == pytest.approx(np.mean(gene_shifts), rel=1e-3)
    assert line["gene_shift"] > 1e-4


def test_both_routes_to_a_deletion_agree(tiny_model: Path, adata: ad.AnnData) -> None:
    table = cellscribe.perturb(adata, model=tiny_model, top=12, **EXACT).set_index("gene")
    embedder = cellscribe.load(tiny_model, **EXACT)
    before = embedder.embed(adata)
    with open_counts(adata) as counts:
        genes = embedder.header.map_genes(counts.var)
    for gene in table.index:
        token = embedder.header.table.token_of[gene]
        rows, after = deleted_vectors(embedder, csr_matrix(DENSE), genes, np.array([token]))
        read = [row for row in rows if token in ranking(DENSE[row])[:CONTEXT]]
        moves = [
            one_minus_cosine(before[row].astype(float), new.astype(float))
            for row, new in zip(rows, after, strict=True)
            if row in read
        ]
        assert table.loc[gene, "n_cells"] == len(moves)
        assert table.loc[gene, "shift"] == pytest.approx(np.mean(moves), rel=1e-2, abs=1e-6)


def test_the_most_shown_genes_are_taken(tiny_model: Path, adata: ad.AnnData) -> None:
    order = np.argsort(-(DENSE > 0).sum(axis=0), kind="stable")
    named, often = order[30], order[:5]
    table = cellscribe.perturb(adata, model=tiny_model, top=5, genes=IDS[named], **EXACT)
    assert set(table["gene"]) == {IDS[named], *(IDS[gene] for gene in often)}
    assert table["shift"].is_monotonic_decreasing


def test_workers_do_not_change_figures(tiny_model: Path, adata: ad.AnnData) -> None:
    one, two = (
        cellscribe.perturb(adata, model=tiny_model, top=6, threads=n, **EXACT) for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_groups_are_the_same_cells_alone(tiny_model: Path, adata: ad.AnnData) -> None:
    whole = cellscribe.perturb(adata, model=tiny_model, top=200, group_by="kind", **EXACT)
    assert list(whole["group"].unique()) == ["x", "y", "z"]
    genes = list(whole["gene"].unique())
    part = cellscribe.perturb(adata[adata.obs["kind"] == "y"].copy(), model=tiny_model,
                              genes=genes, **EXACT)  # fmt: skip
    inside = whole[whole["group"] == "y"].set_index("gene")
    alone = part.set_index("gene").loc[inside.index]
    for column in ("n_cells", "shift", "shift_sd", "gene_shift", "p", "fdr"):
        np.testing.assert_allclose(inside[column], alone[column], rtol=1e-3, atol=1e-7)
    missing = whole[whole["n_cells"] == 0]
    assert len(missing) and missing[["shift", "p", "fdr"]].isna().all(axis=None)


def test_towards_the_goal(flat_model: Path) -> None:
    """Cells of the start have gene 0 beside what all have: without it they are as the goal's."""
    rng = np.random.default_rng(0)
    dense = np.zeros((60, N_GENES), int)
    dense[:, 10:40] = rng.poisson(1.0, (60, 30))
    dense[:30, 0] = dense[:30, 5] = dense[30:, 5] = 3
    adata = annotated(csr_matrix(dense), real_genes)
    adata.obs["state"] = ["sick"] * 30 + ["well"] * 30
    table = cellscribe.perturb(
        adata, model=flat_model, genes=[IDS[g] for g in (0, 5, 10, 11, 12, 13)],
        group_by="state", start="sick", goal="well", **EXACT,
    )  # fmt: skip
    vectors = vectors_of_genes(flat_model)
    cells = [ranking(row) for row in dense]
    means = np.array([vectors[cell].mean(0) for cell in cells])
    start, goal = means[:30].mean(0), means[30:].mean(0)
    moves = []
    for cell, mean in zip(cells[:30], means, strict=False):
        new = vectors[[token for token in cell if token != SPECIAL]].mean(0)
        nearer = one_minus_cosine(mean, goal) - one_minus_cosine(new, goal)
        moves.append(nearer - (one_minus_cosine(mean, start) - one_minus_cosine(new, start)))
    assert table["group"].eq("sick").all()
    assert table["gene"].iloc[0] == IDS[0]
    first = table.iloc[0]
    assert first["towards_goal"] == pytest.approx(np.mean(moves), rel=1e-3)
    assert first["towards_goal"] > 0
    assert first["goal_fdr"] < 1e-6
    assert first["n_cells"] == 30
    others = table.iloc[1:]
    assert (others["towards_goal"] < first["towards_goal"] / 3).all()


def test_a_single_gene_is_held_against_random_ones(
    flat_model: Path, tmp_path: Path, adata: ad.AnnData
) -> None:
    """All genes alike but one: it stands out, and one of the many does not."""
    from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint

    often = np.argsort(-(DENSE > 0).sum(axis=0), kind="stable")
    shown, rare = int(often[8]), int(often[-1])
    checkpoint = load_checkpoint(flat_model)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = checkpoint.model.encoder.genes.weight
        odd = torch.empty(WIDTH).normal_(generator=rng)
        common = torch.empty(WIDTH).normal_(generator=rng)
        rows.copy_(common + 0.05 * torch.empty(rows.shape).normal_(generator=rng))
        rows[[SPECIAL + 1, SPECIAL + rare]] = odd
    save_checkpoint(tmp_path / "odd", checkpoint.model, checkpoint.vocabulary, {})

    def p(gene: int, **more: Any) -> float:
        words = {"model": tmp_path / "odd", "genes": IDS[gene], **EXACT, **more}
        (line,) = cellscribe.perturb(adata, **words).to_dict("records")
        assert line["fdr"] == line["p"]
        return line["p"]

    # in front or not is all the same to this model, but a gene that was not there is
    assert p(1) < 1e-4 and p(rare, mode="promote") < 1e-4
    assert min(p(shown, seed=seed) for seed in range(3)) > 1e-3
    assert p(shown) == p(shown)


@settings(max_examples=100)
@given(st.integers(0, 2**20), st.integers(2, 80), st.integers(1, 3))
def test_null_genes_lie_near_and_are_others(seed: int, length: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.permutation(200)[:length]
    genes = rng.choice(cell, min(n, length), replace=False)
    drawn = null_genes(cell, genes, np.arange(200), rng)
    if drawn is None:
        assert length < 2 * FEWEST_NEAR
        return
    assert len(set(drawn) | set(genes)) == 2 * len(genes)
    reach = max(FEWEST_NEAR, length // 10)
    for one, other in zip(genes, drawn, strict=True):
        assert abs(np.flatnonzero(cell == one)[0] - np.flatnonzero(cell == other)[0]) <= reach
    absent = null_genes(cell, np.array([900]), np.arange(250), rng)
    assert absent is not None
    assert absent[0] not in cell


def test_rank_tests_are_scipy_s() -> None:
    rng = np.random.default_rng(1)
    edit = rng.choice([NULL, 0, 1, 2, 4], 300)
    values = rng.integers(0, 12, 300) + 3.0 * (edit == 1)  # with many ties
    found = mann_whitney_of_each(values, edit, 5)
    for number in (0, 1, 2, 4):
        wanted = mannwhitneyu(
            values[edit == number], values[edit != number], method="asymptotic"
        ).pvalue
        assert found[number] == pytest.approx(wanted, rel=1e-9)
    assert np.isnan(found[3])
    assert found[1] < 1e-5 < found[0]
    assert mann_whitney_of_each(np.ones(6), np.array([0, 0, 0, 1, 1, 1]), 2).tolist() == [1, 1]
    assert np.isnan(mann_whitney_of_each(np.arange(4.0), np.zeros(4, int), 1)).all()


def test_false_discovery_rates_by_hand() -> None:
    # 0.01*4/1, 0.02*4/2, 0.03*4/3, 0.5*4/4, each at most the next one's
    rates = false_discovery_rates(np.array([0.02, np.nan, 0.5, 0.01, 0.03]))
    np.testing.assert_allclose(rates, [0.04, np.nan, 0.5, 0.04, 0.04])


@pytest.mark.parametrize("family", ["scgpt", "geneformer"])
def test_imported_families(family: str, tmp_path: Path) -> None:
    from families import every

    source, _ = every.write(family, tmp_path / "published")
    model = tmp_path / family
    cellscribe.import_model(source, model, log=lambda line: None)
    cells = every.cells_of(model)
    quiet: dict[str, Any] = {"model": model, "log": lambda line: None, **EXACT}
    table = cellscribe.perturb(cells, top=3, **quiet)
    assert len(table) == 3 and (table["n_cells"] > 0).all()
    before = cellscribe.load(model, **EXACT).embed(cells)
    gene = table["gene"].iloc[0]
    header = read_model(model)
    with open_counts(cells) as counts:
        column = header.map_genes(counts.var).token == header.table.token_of[gene]
    without = cells.copy()
    dense = without.X.toarray()
    shows = dense[:, column].any(axis=1)
    dense[:, column] = 0
    without.X = csr_matrix(dense)
    after = cellscribe.load(model, **EXACT).embed(without)
    moves = [one_minus_cosine(before[row].astype(float), after[row].astype(float))
             for row in np.flatnonzero(shows)]  # fmt: skip
    assert table["shift"].iloc[0] == pytest.approx(np.mean(moves), rel=2e-2, abs=1e-6)
    single = cellscribe.perturb(cells, genes=gene, **quiet)
    assert 0 <= single["p"].iloc[0] <= 1
    if family == "scgpt":
        assert table["gene_shift"].isna().all()
        with pytest.raises(InputError, match='use mode="delete"'):
            cellscribe.perturb(cells, top=3, mode="promote", **quiet)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, r"genes=\.\.\., or so many of them with top="),
        ({"genes": "nothing like it"}, "knows no gene 'nothing like it'"),
        ({"genes": SYMBOLS[9] + "Q"}, f"near it: .*{SYMBOLS[9]}"),
        ({"genes": "[CLS]"}, r"knows no gene '\[CLS\]'"),
        ({"genes": IDS[:1], "combine": True}, r"two or more genes="),
        ({"top": 2, "combine": True}, "takes no top="),
        ({"top": 0}, "top must be 1 or more"),
        ({"top": 2, "max_cells": 0}, "max_cells must be 1 or more"),
        ({"top": 2, "start": "x"}, "name it: group_by="),
        ({"top": 2, "group_by": "kind", "goal": "x"}, r"goal=\.\.\. needs start="),
        ({"top": 2, "group_by": "kind", "start": "x", "goal": "x"}, "both 'x'"),
        ({"top": 2, "group_by": "kind", "start": "q"}, r"no cell has kind 'q' \(start="),
        ({"top": 2, "group_by": "kind", "start": "x", "goal": "q"}, r"\(goal=.*; there are x, y"),
        ({"top": 2, "group_by": "type"}, "no column 'type'.*batch, kind"),
        ({"top": 2, "group_by": "nothing"}, "'nothing' is empty"),
        ({"genes": "unshown"}, "none of the 30 cells shows the gene"),
    ],
)
def test_what_is_refused(
    words: dict[str, Any], told: str, tiny_model: Path, adata: ad.AnnData
) -> None:
    adata.obs["nothing"] = np.nan
    adata.X = csr_matrix(np.where(np.arange(N_GENES) == 5, 0, DENSE))
    if words.get("genes") == "unshown":
        words = {"genes": SYMBOLS[5]}
    with pytest.raises(InputError, match=told) as refusal:
        cellscribe.perturb(adata, model=tiny_model, **{**EXACT, **words})
    assert "\n" not in str(refusal.value)


def test_cells_without_a_group_are_told(tiny_model: Path, adata: ad.AnnData) -> None:
    adata.obs["kind"] = adata.obs["kind"].astype(object).where(np.arange(30) > 3)
    said: list[str] = []
    words: Callable[[str], None] = said.append
    cellscribe.perturb(adata, model=tiny_model, top=2, group_by="kind", log=words, **EXACT)
    assert "4 cells without a kind are left out." in said
