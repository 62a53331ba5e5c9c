"""scFoundation: its own tokens and numbers, whatever stands beside a cell."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pytest
import torch
from families import published_scfoundation as published
from families.published_scfoundation import load, read, relative
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cellscribe.cells.counts import open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.tokens import CellTokens, known_counts
from cellscribe.config import InputOptions
from cellscribe.errors import InputError
from cellscribe.families.base import ExpressionModel, GeneModel, Published, tokenizer_of
from cellscribe.families.scfoundation import checkpoint
from cellscribe.families.scfoundation.config import Depth, ScfoundationConfig
from cellscribe.families.scfoundation.depths import with_depths
from cellscribe.families.scfoundation.network import Scfoundation
from cellscribe.model.attention import Lengths
from cellscribe.model.encoder import set_compute_dtype

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/scfoundation.json").read_text(encoding="utf-8")
)
MADE = np.arange(len(published.MADE_NAMES), dtype=np.int32)
EVERY = 8
"""Of the published genes, every eighth is in the small model of real cells."""


def every_row(model: Scfoundation, cells: CellTokens) -> npt.NDArray[np.int64]:
    return np.flatnonzero(model.places(cells))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write_published(tmp_path_factory.mktemp("scfoundation") / "small")


@pytest.fixture(scope="module")
def imported(small: Path) -> Published:
    return read(small)


@pytest.fixture(scope="module")
def model(imported: Published) -> Scfoundation:
    return load(imported)


# --- its own numbers ------------------------------------------------------------------------------


def compute(imported: Published, counts: csr_matrix, run: str) -> npt.NDArray[np.float32]:
    """What a run of the golden numbers asks for, a row a cell."""
    what, _, depth = run.partition(" ")
    embeds = what in checkpoint.POOLS
    model = load(imported, pool=what if embeds else None, target_depth=depth or None)
    cells = model.tokenize(counts, np.arange(counts.shape[1], dtype=np.int32))
    rows = every_row(model, cells)
    if embeds:
        return model.embed(cells, rows).numpy()
    if what == "enhanced":
        values = model.expression(cells, rows).numpy()
        assert not values[:, counts.shape[1] :].any()
        return values[:, : counts.shape[1]]
    tokens, vectors = model.gene_vectors(cells, rows)
    assert tokens.tolist() == list(range(counts.shape[1])) * len(rows)
    return vectors.unflatten(0, (len(rows), -1)).numpy()


def check(imported: Published, counts: csr_matrix, key: str, kept: str, runs: Sequence[str]) -> int:
    """Compare with the golden numbers; returns how many results were compared."""
    golden, compared = GOLDEN[key], 0
    for run in runs:
        what = run.partition(" ")[0]
        steps = GOLDEN["about"]["kept"][kept].get(
            what if what in ("genes", "enhanced") else "cells"
        )
        part = tuple(slice(None, None, step) for step in steps or ())
        for ours, cell in zip(compute(imported, counts, run), golden, strict=True):
            assert list(ours.shape) == cell[run]["shape"]
            assert relative(ours[part].ravel(), cell[run]["values"]) < 2e-5, run
            compared += 1
    return compared


def check_tokens(imported: Published, counts: csr_matrix, golden: list[dict[str, Any]]) -> None:
    """Tokens are those on record to the last one, values to float32's last digits."""
    cells = load(imported).tokenize(counts, np.arange(counts.shape[1], dtype=np.int32))
    assert cells.values is not None
    for row, wanted in enumerate(golden):
        span = slice(cells.offsets[row], cells.offsets[row + 1])
        assert cells.tokens[span].tolist() == wanted["tokens"]
        np.testing.assert_allclose(cells.values[span], wanted["values"], rtol=3e-7)


@pytest.fixture(scope="module")
def made() -> csr_matrix:
    """The made cells that the published program can read."""
    return published.made_cells()[: len(GOLDEN["made"])]


def test_made_cells_have_the_tokens_of_scfoundation(imported: Published, made: csr_matrix) -> None:
    check_tokens(imported, made, GOLDEN["made"])


@pytest.mark.parametrize("run", list(GOLDEN["about"]["runs"]))
def test_made_cells_give_the_numbers_of_scfoundation(
    imported: Published, made: csr_matrix, run: str
) -> None:
    assert check(imported, made, "made", "small", [run]) == 4


def real_cells(folder: Path, golden: list[dict[str, Any]], names: Sequence[str]) -> csr_matrix:
    """The golden cells, their columns being the model's genes."""
    (file,) = {cell["file"] for cell in golden}
    data = anndata.read_h5ad(folder / file)[[cell["row"] for cell in golden]]
    token_of = {name: token for token, name in enumerate(names)}
    dense = np.zeros((len(golden), len(names)), np.int64)
    for column, symbol in enumerate(data.var["gene_symbol"]):
        if symbol in token_of:
            dense[:, token_of[symbol]] += np.asarray(data.X[:, column].todense())[:, 0].astype(int)
    return csr_matrix(dense)


def test_real_cells_give_the_numbers_of_scfoundation(
    shared_genes: Path, shared_data: Path, tmp_path: Path
) -> None:
    names = published.published_names(shared_genes)[::EVERY]
    imported = read(published.write_published(tmp_path, names=names))
    counts = real_cells(shared_data, GOLDEN["real"], names)
    check_tokens(imported, counts, GOLDEN["real"])
    runs = list(GOLDEN["about"]["runs"])
    assert check(imported, counts, "real", "real", runs) == 3 * len(runs)


@pytest.mark.slow
def test_full_size_gives_the_numbers_of_scfoundation(
    shared_genes: Path, shared_data: Path, tmp_path: Path
) -> None:
    names = published.published_names(shared_genes)
    imported = read(published.write_published(tmp_path, "full", names=names))
    counts = real_cells(shared_data, GOLDEN["full"], names)
    check_tokens(imported, counts, GOLDEN["full"])
    runs = [run for run in GOLDEN["about"]["runs"] if run in GOLDEN["full"][0]]
    assert check(imported, counts, "full", "full", runs) == 3 * len(runs)
    # Published: encoder, places and value embedding, the latter without mask and padding.
    network = load(imported).network
    n_parameters = sum(tensor.numel() for tensor in network.parameters())
    assert n_parameters == 85_056_000 + 14_797_056 + 88_636 - 2 * 768


# --- tokens ---------------------------------------------------------------------------------------


def restated(
    counts: Sequence[int], token_of_column: Sequence[int], genes: int, depth: str
) -> list[tuple[int, float]]:
    """Tokens and values of a cell, by the published rule, gene by gene."""
    summed = [0] * genes
    for count, token in zip(counts, token_of_column, strict=True):
        if token >= 0:
            summed[token] += count
    total = sum(summed)
    if not total:
        return []
    number = float(depth[1:])
    target = {
        "t": lambda: number,
        "f": lambda: math.log10(total * number),
        "a": lambda: math.log10(total) + number,
    }[depth[0]]()
    read = [
        (gene, math.log1p(count / total * 1e4)) for gene, count in enumerate(summed) if count > 0
    ]
    return [*read, (genes, target), (genes + 1, math.log10(total))]


@given(
    cells=st.lists(
        st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 90_000]), min_size=6, max_size=6), min_size=1
    ),
    token_of_column=st.lists(st.integers(-1, 4), min_size=6, max_size=6),
    depth=st.sampled_from(["t4", "t0.5", "f2", "f0.1", "a5", "a-1"]),
)
def test_tokens_are_those_of_the_published_rule(
    cells: list[list[int]], token_of_column: list[int], depth: str
) -> None:
    config = ScfoundationConfig(genes=5)
    known = known_counts(csr_matrix(np.array(cells)), np.array(token_of_column, np.int32))
    ours = with_depths(known, config, Depth.parse(depth))
    assert ours.values is not None
    for row, counts in enumerate(cells):
        span = slice(ours.offsets[row], ours.offsets[row + 1])
        wanted = restated(counts, token_of_column, 5, depth)
        assert ours.tokens[span].tolist() == [token for token, _ in wanted]
        np.testing.assert_allclose(ours.values[span], [v for _, v in wanted], rtol=3e-7, atol=1e-7)


def test_the_published_example() -> None:
    config = ScfoundationConfig()
    known = known_counts(csr_matrix(np.array([[3, 97]])), np.array([0, 1], np.int32))
    for depth, target in (("t4", 4), ("f2", 2.3010), ("a5", 7)):
        cells = with_depths(known, config, Depth.parse(depth))
        assert cells.tokens.tolist() == [0, 1, 19_264, 19_265]
        assert cells.values is not None
        np.testing.assert_allclose(cells.values, [5.7071, 9.1800, target, 2], atol=5e-5)


def test_bulk_samples_are_read_by_the_published_rule(model: Scfoundation) -> None:
    """Of ``get_embedding.py --input_type bulk --pre_normalized F``, sample by sample."""
    table = np.random.default_rng(0).gamma(0.2, 400.0, (5, len(MADE)))
    table[3] = 0
    counts = csr_matrix(table)
    tokens = MADE[: counts.shape[1]]
    ours = model.bulk_tokenizer([counts[:2], counts[2:]], tokens)(counts, tokens)
    target = np.median([sum(sample) for sample in table if any(sample)])
    assert ours.values is not None
    for row, sample in enumerate(table):
        span = slice(ours.offsets[row], ours.offsets[row + 1])
        if row == 3:
            assert span.start == span.stop
            continue
        wanted = np.array([math.log1p(value * target / sum(sample)) for value in sample])
        both = [math.log10(wanted.sum())] * 2
        np.testing.assert_allclose(ours.values[span], [*wanted[wanted > 0], *both], rtol=1e-6)
        assert ours.tokens[span][-2:].tolist() == [model.config.genes, model.config.genes + 1]


def test_bulk_samples_go_their_own_way_only_where_they_are_said_to_be(model: Scfoundation) -> None:
    """Whether samples of a file are split into blocks does not matter: the median is of all."""
    table = np.random.default_rng(0).gamma(0.2, 400.0, (5, len(MADE)))
    n = len(MADE)
    genes = GeneMap(
        token=MADE, key="var_names", n_genes=n, n_known=n, n_tokens=n,
        n_ensembl=0, n_symbol=n, n_alias=0,
        n_duplicates=0, n_other_species=0, unknown_examples=(),
    )  # fmt: skip
    found = {}
    for kind in ("fractional", "tpm"):
        said: list[str] = []
        options = InputOptions(counts=kind)  # type: ignore[arg-type]
        source = anndata.AnnData(table)
        with open_counts(source, options=options, trusted=True, log=said.append) as counts:
            tokenize = tokenizer_of(model, counts, genes)
        found[kind] = tokenize(csr_matrix(table[:2]), MADE)
        assert ["median total" in line for line in said] == [True] * (kind == "tpm")
    whole = model.bulk_tokenizer([csr_matrix(table)], MADE)(csr_matrix(table), MADE).slice(0, 2)
    np.testing.assert_array_equal(found["tpm"].values, whole.values)
    np.testing.assert_array_equal(
        found["fractional"].values, model.tokenize(csr_matrix(table[:2]), MADE).values
    )


def test_a_cell_of_one_count_gets_zeros_for_the_published_program_stops_at_it(
    model: Scfoundation,
) -> None:
    cells = model.tokenize(published.made_cells(), MADE)
    assert cells.tokens[-3:].tolist() == [30, 500, 501]
    assert cells.values is not None and cells.values[-1] == 0
    assert model.places(cells).tolist() == [3, 10, 111, 502, 0]
    # Without S there are two places, and no gene is left to take the maximum of.
    with pytest.raises(IndexError):
        model.embed(cells, np.array([4]))
    # Decoders need no such pooling.
    assert model.expression(cells, np.array([4])).isfinite().all()


def test_without_t_places_shift_as_published(imported: Published) -> None:
    counts = csr_matrix(np.array([[0, 3, 2, 5]]))
    cells = load(imported, target_depth="f0.1").tokenize(counts, MADE[:4])
    assert cells.values is not None
    assert cells.values[-2] == 0
    shifted = load(imported, target_depth="f0.1").embed(cells, np.array([0]))[0]
    with torch.inference_mode():
        network = load(imported).network
        kept = torch.tensor([0, 1, 2, 4])
        tokens, values = torch.from_numpy(cells.tokens.astype(np.int64)), torch.tensor(cells.values)
        hidden = network(tokens[kept], values[kept], Lengths((4,), torch.device("cpu")))
    assert relative(shifted[:128], hidden[3]) < 1e-5
    assert relative(shifted[128:256], hidden[2]) < 1e-5
    assert relative(shifted[256:384], hidden[:2].amax(0)) < 1e-5


def test_a_file_without_known_genes_has_empty_cells(model: Scfoundation) -> None:
    cells = model.tokenize(published.made_cells(), np.full(len(MADE), -1, np.int32))
    assert cells.lengths.tolist() == model.places(cells).tolist() == [0] * 5
    assert cells.umis.tolist() == published.made_cells().sum(axis=1).ravel().tolist()[0]


@pytest.mark.parametrize(
    "depth", ["", "4", "t", "tx", "t0", "t-1", "t103", "f0", "f-2", "a99", "x4", "tnan", "finf"]
)
def test_depths_that_no_cell_has_are_refused(depth: str) -> None:
    with pytest.raises(InputError, match=r"--target-depth .*t4.*f2.*a1"):
        Depth.parse(depth)


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", list(checkpoint.POOLS))
def test_a_vector_does_not_depend_on_its_neighbours(imported: Published, pool: str) -> None:
    model = load(imported, pool=pool)
    cells = model.tokenize(published.made_cells(), MADE)
    rows = every_row(model, cells)
    together = model.embed(cells, rows)
    alone = torch.cat([model.embed(cells, row[None]) for row in rows])
    assert together.shape == (4, model.width)
    assert relative(together, alone) < 1e-5


def test_genes_and_expression_do_not_depend_on_neighbours(model: Scfoundation) -> None:
    cells = model.tokenize(published.made_cells(), MADE)
    last = np.array([2])
    both = np.array([3, 2])
    assert isinstance(model, GeneModel)
    assert isinstance(model, ExpressionModel)
    assert (
        relative(model.gene_vectors(cells, both)[1][500:], model.gene_vectors(cells, last)[1])
        < 1e-5
    )
    assert relative(model.expression(cells, both)[1:], model.expression(cells, last)) < 1e-5


def test_decoders_follow_the_network_that_embeds(imported: Published) -> None:
    plain, half = load(imported), load(imported)
    set_compute_dtype(half.network, torch.bfloat16, cast_weights=True)
    cells = plain.tokenize(published.made_cells(), MADE)
    rows = np.array([2])
    exact, rounded = plain.gene_vectors(cells, rows)[1], half.gene_vectors(cells, rows)[1]
    assert rounded.dtype == torch.float32
    assert 1e-4 < relative(rounded, exact) < 0.1


def test_a_model_says_what_it_does(model: Scfoundation, imported: Published) -> None:
    assert (model.width, model.gene_width, model.context) == (512, 64, 500)
    assert load(imported, pool="max").width == 128
    assert "maximum" in model.pooling
    assert "single count" in model.pooling
    assert "target depth a5" in load(imported, target_depth="a5").pooling
    assert not model.network.training
    with pytest.raises(InputError, match="--hidden-layer"):
        load(imported, hidden_layer=-2)
    with pytest.raises(InputError, match="--pool cls; it has all, max, rde-all, rde-max"):
        load(imported, pool="cls")
