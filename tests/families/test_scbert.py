"""scBERT against its own network's recorded output, and its bins against the rule spelt out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from families.published_scbert import SHAPES, published_genes, write_published
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cellscribe.cells.tokens import CellTokens, known_counts
from cellscribe.config import ImportOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.base import Published
from cellscribe.families.scbert import checkpoint
from cellscribe.families.scbert.network import (
    Scbert,
    bin_counts,
    build_network,
)
from cellscribe.families.source import Source
from cellscribe.families.symbols import map_symbols, symbol_table

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scbert.json").read_text())
SMALL, FULL = GOLDEN["small"], GOLDEN["full"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint and the genes of its golden numbers."""
    path = tmp_path_factory.mktemp("scbert")
    write_published(path, genes=SMALL["genes"])
    return path


def read(folder: Path, genes: Path | None = None) -> Published:
    options = ImportOptions(genes=genes or folder / "genes.txt")
    return checkpoint.read_published(Source(folder), options)


def loaded(published: Published, pool: str | None = None) -> Scbert:
    model = checkpoint.load(
        published.settings, published.tensors, published.table, ModelOptions(pool=pool)
    )
    assert isinstance(model, Scbert)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> Scbert:
    return loaded(read(folder))


@pytest.fixture(scope="module")
def cells(model: Scbert) -> CellTokens:
    """The golden cells, their columns in an order of their own."""
    counts = np.array([cell["counts"] for cell in SMALL["cells"]], np.int32)
    order = np.arange(96)[::-1].copy()
    return model.tokenize(csr_matrix(counts[:, order]), order.astype(np.int32))


def column(field: str) -> np.ndarray:
    return np.array([cell[field] for cell in SMALL["cells"]])


def far(found: Any, expected: Any) -> float:
    """Largest difference, over the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_bins_are_the_references(model: Scbert, cells: CellTokens) -> None:
    bins = np.stack([model.bins(cells, row).numpy() for row in range(6)])
    np.testing.assert_array_equal(bins, column("tokens"))
    np.testing.assert_array_equal(model.places(cells), 97)
    np.testing.assert_array_equal(cells.umis_known, column("counts").sum(1))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_vectors_are_the_references(folder: Path, cells: CellTokens, pool: str) -> None:
    model = loaded(read(folder), pool)
    vectors = model.embed(cells, np.arange(6))
    assert vectors.dtype == torch.float32
    assert far(vectors, column(pool)) < 1e-5
    assert far(vectors[0], column(pool)[1]) > 1e-2  # cells differ by far more than that


def test_hidden_layer_is_the_references(model: Scbert, cells: CellTokens) -> None:
    with torch.no_grad():
        assert far(model.network(model.bins(cells, 0)), SMALL["hidden_of_first"]) < 1e-5


def test_default_is_the_mean(folder: Path, cells: CellTokens, model: Scbert) -> None:
    assert model.pool == "mean" and "mean" in model.pooling
    rows = np.array([4, 1])
    vectors = model.embed(cells, rows)
    for row, vector in zip(rows, vectors, strict=True):
        alone = model.embed(cells.slice(row, row + 1), np.zeros(1, np.int64))[0]
        torch.testing.assert_close(vector, alone, rtol=0, atol=1e-6)


def test_importance_is_the_references(model: Scbert, cells: CellTokens) -> None:
    expected = column("importance")[:, :-1]
    assert far(model.importance(cells, np.arange(6)), expected) < 1e-4
    assert expected.max() > 2 * expected.min()


def test_importance_of_the_weights_that_mix(model: Scbert, cells: CellTokens) -> None:
    first_row = np.zeros(1, np.int64)
    released = model.importance(cells, first_row)
    own = model.importance(cells, first_row, as_released=False)
    assert far(own, released) > 1e-2
    # a first layer alone: the attention of the embedded places
    layer, bins = model.network.performer.layers[0], model.bins(cells, 0)
    with torch.no_grad():
        first = layer.received(model.network.inputs(bins))  # type: ignore[operator]
    one = loaded_with_depth(model, 1)
    alone = one.importance(cells, first_row, as_released=False)[0]
    assert far(alone, first[:-1] / first.sum()) < 1e-6


def test_gene_vectors_are_the_hidden_layer(model: Scbert, cells: CellTokens) -> None:
    tokens, vectors = model.gene_vectors(cells, np.array([2, 0]))
    assert tokens.tolist() == [*range(model.config.genes)] * 2
    assert far(vectors[model.config.genes :], np.array(SMALL["hidden_of_first"])[:-1]) < 1e-5


def loaded_with_depth(model: Scbert, depth: int) -> Scbert:
    """A model of the first layers of another."""
    config = replace(model.config, depth=depth)
    behind = [f"performer.layers.{i}." for i in range(depth, model.config.depth)]
    state = model.network.state_dict()
    kept = {n: x for n, x in state.items() if not n.startswith(tuple(behind))}
    return Scbert(config, build_network(config, kept, "test"), model.pool, model.pooling)


def by_the_rule(count: int, total: int) -> int:
    """Largest b up to 5 with ``2 ** b <= 1 + x``, x the exact count per 10,000."""
    x = Fraction(10_000 * count, total)
    return max(b for b in range(6) if 2**b <= 1 + x)


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 7, 15, 40, 700, 10_000]), min_size=9),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(-1, 95), min_size=9, max_size=9),
)
def test_bins_follow_the_rule(rows: list[list[int]], tokens: list[int]) -> None:
    rows = [row[:9] for row in rows]
    cells = bin_counts(
        known_counts(csr_matrix(np.array(rows, np.int32)), np.array(tokens, np.int32)), 5
    )
    assert cells.values is not None
    for place, row in enumerate(rows):
        known: dict[int, int] = {}
        for count, token in zip(row, tokens, strict=True):
            if token >= 0 and count:
                known[token] = known.get(token, 0) + count
        own = slice(cells.offsets[place], cells.offsets[place + 1])
        found = dict(zip(cells.tokens[own].tolist(), cells.values[own].tolist(), strict=True))
        total = sum(known.values())
        assert found == {token: by_the_rule(count, total) for token, count in known.items()}


def test_counts_on_other_genes_do_not_matter(model: Scbert) -> None:
    counts = csr_matrix(np.array([[3, 40, 9_000], [0, 0, 7]], np.int32))
    cells = model.tokenize(counts, np.array([0, 1, -1], np.int32))
    assert cells.values is not None
    # 3 and 40 of 43 are far above 31 of 10,000
    assert cells.values.tolist() == [5, 5]
    assert model.places(cells).tolist() == [97, 0]
    assert cells.lengths.tolist() == [2, 0]


def test_what_is_imported(folder: Path) -> None:
    published = read(folder)
    assert published.family == "scbert"
    assert published.title == "scBERT, 2 layers, 40 wide, 96 genes"
    assert published.settings == {
        "genes": 96,
        "bins": 5,
        "width": 40,
        "depth": 2,
        "heads": 2,
        "head_width": 64,
        "ffn_width": 160,
        "features": 266,
    }
    assert published.table.symbols == tuple(SMALL["genes"])
    assert all(x.dtype == torch.float32 for x in published.tensors.values())
    assert "GPL-3.0" in published.licence
    assert any("to_out.bias" in note for note in published.notes)


def test_genes_may_come_from_an_h5ad(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "panglao_10000.h5ad"
    # normalised values, as published: only the names are read
    anndata.AnnData(
        csr_matrix(np.full((2, 96), 0.5, np.float32)), var=pd.DataFrame(index=SMALL["genes"])
    ).write_h5ad(path)
    assert read(folder, path).table.symbols == tuple(SMALL["genes"])


def test_a_head_of_another_kind_is_left_out(folder: Path, tmp_path: Path) -> None:
    path, _ = copied(folder, tmp_path)
    state = {n: x for n, x in state_of(path).items() if not n.startswith("to_out.")}
    state |= {"to_out.conv1.weight": torch.ones(1, 1, 1, 40), "to_out.fc3.bias": torch.ones(9)}
    torch.save({"model_state_dict": state}, path)
    published, plain = read(tmp_path), read(folder)
    assert published.tensors.keys() == plain.tensors.keys()
    assert any("to_out.conv1.weight, to_out.fc3.bias" in note for note in published.notes)


@pytest.mark.parametrize("name", ["conv1.weight", "fc2.weight", "fc3.weight", "fc3.bias"])
def test_a_classifier_whose_layers_do_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    path, genes = write_published(tmp_path, classes=3)
    data = torch.load(path, weights_only=False)
    data["model_state_dict"][f"to_out.{name}"] = torch.ones(7)
    torch.save(data, path)
    with pytest.raises(InputError) as caught:
        read(tmp_path, genes)
    assert "\n" not in str(caught.value)


def test_recognised_by_name_or_contents(folder: Path, tmp_path: Path) -> None:
    path, _ = copied(folder, tmp_path)
    assert checkpoint.recognise(Source(tmp_path)) and checkpoint.recognise(Source(path))
    other = path.rename(tmp_path / "finetuned_best.pth")
    assert checkpoint.recognise(Source(tmp_path)) and checkpoint.recognise(Source(other))
    torch.save({"encoder.weight": torch.ones(2)}, other)
    assert not checkpoint.recognise(Source(tmp_path))
    other.write_bytes(b"PK\3\4 cut short")
    assert not checkpoint.recognise(Source(other))
    assert not checkpoint.recognise(Source(tmp_path / "genes.txt"))


def copied(folder: Path, to: Path) -> tuple[Path, Path]:
    """Checkpoint and genes, to be spoilt."""
    names = ("panglao_pretrain.pth", "genes.txt")
    path, genes = (Path(shutil.copy(folder / name, to)) for name in names)
    return path, genes


def state_of(path: Path) -> dict[str, torch.Tensor]:
    # our own file: it may hold NumPy's numbers
    return dict(torch.load(path, weights_only=False)["model_state_dict"])


def respell(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = state_of(path)
    change(state)
    torch.save({"model_state_dict": state}, path)


def lose_tensors(path: Path, genes: Path) -> None:
    respell(path, lambda s: [s.pop(n) for n in list(s) if n.endswith("to_q.weight")] and None)


def add_tensor(path: Path, genes: Path) -> None:
    respell(path, lambda s: s.update({"conv.weight": torch.ones(2)}))


def misshape(path: Path, genes: Path) -> None:
    name = "performer.net.layers.1.1.fn.fn.w1.weight"
    respell(path, lambda s: s.update({name: torch.ones(7, 40)}))


def cut(path: Path, genes: Path) -> None:
    path.write_bytes(path.read_bytes()[:40_000])


def pickled(path: Path, genes: Path) -> None:
    torch.save({"model_state_dict": state_of(path), "args": Path("x")}, path)


def one_gene_less(path: Path, genes: Path) -> None:
    genes.write_text("\n".join(SMALL["genes"][:-1]))


def gene_twice(path: Path, genes: Path) -> None:
    genes.write_text("\n".join([*SMALL["genes"][:-1], SMALL["genes"][0]]))


def gap(path: Path, genes: Path) -> None:
    genes.write_text("A1BG\n\nA2M\n")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lose_tensors, r"pth: lacks performer\.net\.layers\.0\.0\.fn\.to_q\.weight, .*2 tensors"),
        (add_tensor, r"also holds conv\.weight \(1 tensors"),
        (misshape, r"performer\.layers\.1\.up\.weight has shape \[7, 40\]"),
        (
            lambda path, _: torch.save(state_of(path), path),
            r"no model_state_dict in it \(it begins with token_emb\.weight, ",
        ),
        (cut, "damaged or cut short"),
        (pickled, "would import pathlib"),
        (one_gene_less, r"genes\.txt: 95 genes, but panglao_pretrain\.pth has places for 96; name"),
        (gene_twice, "stand more than once"),
        (gap, "line 2 is empty"),
        (lambda _, genes: genes.unlink(), "no such file"),
    ],
)
def test_bad_input(
    folder: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], line: str
) -> None:
    path, genes = copied(folder, tmp_path)
    spoil(path, genes)
    with pytest.raises(InputError, match=line) as refused:
        checkpoint.read_published(Source(path), ImportOptions(genes=genes))
    assert "\n" not in str(refused.value)


def test_the_gene_list_has_to_be_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds no gene names; name with --genes FILE the list"):
        checkpoint.read_published(Source(folder), ImportOptions())


def test_a_damaged_h5ad_of_genes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "panglao_10000.h5ad"
    with pytest.raises(InputError, match="no such file"):
        read(folder, path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"no \.h5ad file, or damaged"):
        read(folder, path)


def test_what_load_refuses(folder: Path) -> None:
    published = read(folder)
    for options, line in (
        (ModelOptions(pool="cls"), "scBERT has no --pool cls; it has mean, max"),
        (ModelOptions(hidden_layer=-2), "scBERT has no --hidden-layer"),
    ):
        with pytest.raises(InputError, match=line):
            checkpoint.load(published.settings, published.tensors, published.table, options)
    with pytest.raises(InputError, match=r"genes\.tsv has 96 genes, config\.json says 95"):
        checkpoint.load(
            published.settings | {"genes": 95}, published.tensors, published.table, ModelOptions()
        )
    with pytest.raises(InputError, match="heads must be a whole number from 1 to 65,536, not 0"):
        checkpoint.load(
            published.settings | {"heads": 0}, published.tensors, published.table, ModelOptions()
        )
    with pytest.raises(InputError, match=r"lacks norm\.bias"):
        fewer = {n: x for n, x in published.tensors.items() if n != "norm.bias"}
        checkpoint.load(published.settings, fewer, published.table, ModelOptions())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Scbert:
    folder = tmp_path_factory.mktemp("full")
    path, _ = write_published(folder, "full")
    state = state_of(path)
    # published counts; of its tensors, the counter and the projections are no parameters
    sizes = [x.numel() for n, x in state.items() if "projection" not in n and x.ndim]
    assert (len(state), sum(sizes)) == (91, 8_388_607)
    return loaded(read(folder))


def of_full_size(full: Scbert, shared_data: Path, golden: dict[str, Any]) -> None:
    adata = anndata.read_h5ad(shared_data / golden["file"])
    symbols = published_genes(SHAPES["full"])
    # the published code reads names to the letter; here HLA.A, which R writes, is HLA-A too
    exact = adata.var["gene_symbol"].astype(str).where(adata.var["gene_symbol"].isin(symbols), "-")
    genes = map_symbols(adata.var.assign(exact=exact), symbol_table(symbols), gene_key="exact")
    cells = full.tokenize(csr_matrix(adata.X[[golden["row"]]]), genes.token)
    bins = full.bins(cells, 0)
    assert (int(cells.umis_known[0]), int(cells.genes_known[0])) == (
        golden["total"],
        golden["expressed"],
    )
    assert np.flatnonzero(bins).tolist() == golden["above_zero"]
    assert "".join(map(str, bins[bins > 0].tolist())) == golden["bins"]
    with torch.no_grad():
        hidden = full.network(bins)
    assert far(hidden[::500, :10], golden["every_500th"]) < 1e-4
    assert far(hidden[:-1].mean(0), golden["mean"]) < 1e-4
    assert far(hidden[:-1].amax(0), golden["max"]) < 1e-4


def test_a_real_cell_at_full_size(full: Scbert, shared_data: Path) -> None:
    of_full_size(full, shared_data, FULL["cells"][0])


@pytest.mark.slow
@pytest.mark.parametrize("golden", FULL["cells"][1:], ids=lambda cell: cell["file"])
def test_more_real_cells(full: Scbert, shared_data: Path, golden: dict[str, Any]) -> None:
    of_full_size(full, shared_data, golden)
