"""BioNeMo's Geneformer: same tokens and numbers as NVIDIA's own code (`tests/golden`)."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from families import published_bionemo as made
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from cellscribe.cells.gene_names.genes import map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable, Vocabulary
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import PER_CELL, CellTokens
from cellscribe.config import ImportOptions, ModelOptions
from cellscribe.families.base import CellModel
from cellscribe.families.bionemo import checkpoint, megatron
from cellscribe.families.bionemo.genes import read_table
from cellscribe.families.importing import import_model
from cellscribe.families.registry import Opened, open_model
from cellscribe.families.source import Source
from cellscribe.families.unpickle import read_pickle
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/bionemo.json").read_text())
COLUMNS = np.arange(len(made.MADE_GENES), dtype=np.int32) + len(made.SPECIALS)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our directory of the small archive."""
    folder = tmp_path_factory.mktemp("bionemo")
    return import_model(made.write_nemo(folder / "small.nemo"), folder / "small", log=str)


@pytest.fixture(scope="module")
def model(imported: Path) -> CellModel:
    return open_model(imported).cells


def packed(cells: list[list[int]]) -> CellTokens:
    """Cells of given tokens; what is known of them beside is left at zero."""
    nothing: dict[str, Any] = {name: np.zeros(len(cells), np.int64) for name in PER_CELL}
    return CellTokens(
        tokens=np.array([token for cell in cells for token in cell], np.uint16),
        offsets=np.cumsum([0, *map(len, cells)]),
        **nothing,
    )


def vectors(model: CellModel, cells: CellTokens) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(cells, np.arange(len(cells.lengths))).numpy()


def cells_of(tokens: CellTokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.tokens, tokens.offsets[1:-1])]


def assert_close(ours: np.ndarray, theirs: Any) -> None:
    """To 1e-5 of the greatest value, ten times closer than asked for."""
    theirs = np.array(theirs, np.float64)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_tokens_are_those_of_nvidias_code_up_to_ties(model: CellModel) -> None:
    counts = made.made_cells()
    ours = cells_of(model.tokenize(counts, COLUMNS))
    theirs = [tokens[1:] for tokens in GOLDEN["made"]["tokens"]]
    value = counts.toarray() / np.array(list(made.made_medians().values()))
    tied = 0
    for row, mine, published in zip(value, ours, theirs, strict=True):
        same = [row[np.array(tokens) - len(made.SPECIALS)] for tokens in (mine, published)]
        np.testing.assert_array_equal(*same)
        assert len(set(mine)) == len(mine)
        tied += mine != published
    assert tied == 1  # the cell that was made with four equal values
    assert [len(tokens) for tokens in ours][-1] == made.SHAPES["small"].positions - 1


def test_vectors_are_those_of_nvidias_network(model: CellModel) -> None:
    cells = [tokens[1:] for tokens in GOLDEN["made"]["tokens"]]
    ours = vectors(model, packed(cells))
    assert GOLDEN["made"]["embeddings"][0] == [None] * model.width  # one gene: no answer
    assert np.isfinite(ours[0]).all()
    for mine, theirs in list(zip(ours, GOLDEN["made"]["embeddings"], strict=True))[1:]:
        assert_close(mine, theirs)


def test_hidden_layer_and_logits_are_those_of_nvidias_network(imported: Path) -> None:
    network = load_checkpoint(imported).model
    golden = GOLDEN["made"]
    for i, tokens in enumerate(golden["tokens"]):
        cells = Lengths((len(tokens),), torch.device("cpu"))
        with torch.inference_mode():
            hidden = network.encoder(torch.tensor(tokens), cells)
            logits = network.logits(hidden[0])
        assert_close(hidden[[0, -1]].numpy(), golden["hidden at [CLS] and last gene"][i])
        if i < len(golden["logits at [CLS]"]):
            assert_close(logits.numpy(), golden["logits at [CLS]"][i])


def test_pools_are_means_of_the_hidden_layer(imported: Path) -> None:
    network = load_checkpoint(imported).model
    tokens = GOLDEN["made"]["tokens"][2]
    with torch.inference_mode():
        hidden = network.encoder(torch.tensor(tokens), Lengths((len(tokens),), torch.device("cpu")))
    wanted = {
        None: hidden[1:-1].mean(0),
        "genes_but_last": hidden[1:-1].mean(0),
        "genes": hidden[1:].mean(0),
        "cls": hidden[0],
    }
    assert set(wanted) - {None} == set(checkpoint.POOLS)
    for pool, vector in wanted.items():
        cells = open_model(imported, ModelOptions(pool=pool)).cells
        assert_close(vectors(cells, packed([tokens[1:]]))[0], vector.numpy())


def test_a_cell_does_not_depend_on_its_neighbours(model: CellModel) -> None:
    cells = model.tokenize(made.made_cells(), COLUMNS)
    together = vectors(model, cells)
    for row in range(len(cells.lengths)):
        alone = vectors(model, cells.slice(row, row + 1))[0]
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(counts=arrays(np.int64, (3, 12), elements=st.sampled_from([0, 0, 1, 2, 3, 50, 4000])))
def test_the_tokeniser_is_the_published_rule(model: CellModel, counts: np.ndarray) -> None:
    genes = list(made.MADE_GENES[:10])
    medians = made.made_medians()
    columns = np.array([*COLUMNS[:10], -1, -1], np.int32)  # the last two are no genes of the table
    ours = cells_of(model.tokenize(csr_matrix(counts), columns))
    for row, mine in zip(counts, ours, strict=True):
        kept = {gene: int(count) for gene, count in zip(genes, row, strict=False) if count}
        total = sum(kept.values())
        scaled = {gene: count / total * 10_000 / medians[gene] for gene, count in kept.items()}
        # ties: the published sort has no order for them, ours is by token
        ranked = sorted(scaled, key=lambda gene: (-round(scaled[gene], 6), genes.index(gene)))
        assert mine == [5 + genes.index(gene) for gene in ranked]


def test_the_tiny_cell_of_the_published_vocabulary(shared_genes: Path, tmp_path: Path) -> None:
    table = published_table(shared_genes, tmp_path)
    counts = {
        "ENSG00000075624": 40,
        "ENSG00000111640": 20,
        "ENSG00000198851": 10,
        "ENSG00000010610": 3,
        "ENSG00000141510": 1,
    }
    columns = np.array([table.token_of[gene] for gene in counts], np.int32)
    block = csr_matrix(np.array([list(counts.values())]))
    tokens = rank_cells(block, columns, table.medians, 2047).tokens
    # CD3E, CD4, GAPDH, ACTB, TP53; by count alone it would be ACTB first
    assert tokens.tolist() == [17279, 272, 3909, 1322, 8091]
    assert table.ids[:5] == made.SPECIALS
    assert len(table) == 25_429
    assert table.symbols[1322] == "ACTB"


def published_table(shared_genes: Path, folder: Path) -> Vocabulary:
    path = made.write_nemo(folder / "m.nemo", artifacts=False)
    options = ImportOptions(genes=shared_genes / "gene_median_dictionary_gc30M.pkl")
    return read_table(Source(path), options, None)


@pytest.fixture(scope="module")
def full(shared_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The full-size model, its medians given as Geneformer publishes them."""
    medians = shared_genes / "gene_median_dictionary_gc30M.pkl"
    folder = tmp_path_factory.mktemp("full")
    published = made.write_nemo_2(
        folder / "geneformer_10M", "full", medians=read_pickle(medians), beside=False
    )
    out = import_model(published, folder / "ours", ImportOptions(genes=medians), log=str)
    return open_model(out)


def as_published(var: pd.DataFrame, table: GeneTable) -> np.ndarray:
    """Tokens of columns, but for names that the published code does not read: HLA.A for HLA-A."""
    tokens = map_genes(var, table).token.copy()
    columns = {column: var[column].astype(str) for column in ("ensembl_id", "gene_symbol")}
    exact = np.logical_or.reduce(
        [columns["ensembl_id"].isin(table.ids), columns["gene_symbol"].isin(table.symbols)]
    )
    dotted = columns["gene_symbol"].str.contains(".", regex=False).to_numpy()
    tokens[dotted & ~exact] = -1
    return tokens


def test_real_cells_at_full_size(full: Opened, shared_data: Path) -> None:
    lengths = []
    for name, cells in groupby(GOLDEN["real"]["cells"], key=lambda cell: cell["file"]):
        recorded = list(cells)
        data = anndata.read_h5ad(shared_data / name, backed="r")
        counts = csr_matrix(data.X[sorted(cell["row"] for cell in recorded)])
        tokens = full.cells.tokenize(counts, as_published(data.var, full.header.table))
        assert cells_of(tokens) == [cell["tokens"][1:] for cell in recorded], name
        for ours, cell in zip(vectors(full.cells, tokens), recorded, strict=True):
            assert_close(ours, cell["embedding"])
            lengths.append(len(cell["tokens"]))
    assert max(lengths) == 2048
    assert full.cells.context == 2047


def test_the_full_size_is_the_published_one(full: Opened) -> None:
    network = load_checkpoint(full.header.directory).model
    rows = megatron.PADDED_TO * 199 - len(full.header.table)  # left out at import
    held = sum(p.numel() for p in network.parameters())
    assert held + rows * (256 + 1) == 10_300_032  # what NeMo logs for the 10M model
