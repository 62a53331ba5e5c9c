"""scGPT: its own numbers, from its own format, and one line for whatever does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pytest
import torch
from families import published_scgpt as published
from scipy.sparse import csr_matrix

from cellscribe.cells.tokens import CellTokens
from cellscribe.config import ImportOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, Published
from cellscribe.families.scgpt import checkpoint
from cellscribe.families.scgpt.network import Scgpt
from cellscribe.families.source import Source

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/scgpt.json").read_text(encoding="utf-8")
)
MADE = np.arange(len(published.MADE_NAMES), dtype=np.int32)


def read(folder: Path, **options: Any) -> Published:
    return checkpoint.read_published(Source(folder), ImportOptions(**options))


def load(read: Published, **options: Any) -> CellModel:
    return checkpoint.load(read.settings, read.tensors, read.table, ModelOptions(**options))


def vectors(model: CellModel, cells: CellTokens) -> npt.NDArray[np.float32]:
    rows = np.flatnonzero(model.places(cells))
    with torch.inference_mode():
        return model.embed(cells, rows).numpy()


def relative(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    return float(np.abs(np.subtract(ours, theirs)).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write_published(tmp_path_factory.mktemp("scgpt") / "small")


@pytest.fixture(scope="module")
def model(small: Path) -> CellModel:
    return load(read(small))


@pytest.fixture
def broken(small: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, to be spoilt."""
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- its own numbers ------------------------------------------------------------------------------


def check_tokens(cells: CellTokens, golden: list[dict[str, Any]], counts: csr_matrix) -> None:
    """Tokens and bins are those on record, and scGPT might have drawn each of the bins itself."""
    assert cells.values is not None
    for cell, wanted in enumerate(golden):
        span = slice(cells.offsets[cell], cells.offsets[cell + 1])
        assert cells.tokens[span].tolist() == wanted["tokens"]
        assert cells.values[span].tolist() == wanted["bins"]
        count_of = dict(zip(counts[cell].indices, counts[cell].data, strict=True))
        for token, value in zip(wanted["tokens"], wanted["bins"], strict=True):
            low, high = wanted["ranges"][str(int(count_of[token]))]
            assert low <= value <= high


def test_made_cells_give_the_numbers_of_scgpt(model: CellModel, small: Path) -> None:
    counts = published.made_cells()
    cells = model.tokenize(counts, MADE)
    check_tokens(cells, GOLDEN["made"], counts)
    assert cells.genes_known.max() > 1_199 == cells.lengths.max()
    mean = load(read(small), pool="mean")
    for pool, ours in (("cls", vectors(model, cells)), ("mean", vectors(mean, cells))):
        for vector, wanted in zip(ours, GOLDEN["made"], strict=True):
            assert relative(vector, wanted[pool]) < 2e-5


def real_cells(folder: Path, golden: list[dict[str, Any]], names: tuple[str, ...]) -> csr_matrix:
    """The golden cells, their columns being the vocabulary's tokens."""
    token_of = {name: token for token, name in enumerate(names)}
    over_tokens = []
    for wanted in golden:
        data = anndata.read_h5ad(folder / wanted["file"], backed="r")
        row = np.asarray(data[[wanted["row"]]].to_memory().X.todense())[0]
        dense = np.zeros(len(names), np.int64)
        for symbol, count in zip(data.var["gene_symbol"], row, strict=True):
            if symbol in token_of:
                dense[token_of[symbol]] += count
        data.file.close()
        over_tokens.append(dense)
    return csr_matrix(np.array(over_tokens))


@pytest.fixture(scope="module")
def whole_human(shared_genes: Path) -> tuple[str, ...]:
    return published.whole_human_names(shared_genes)


def test_real_cells_give_the_numbers_of_scgpt(
    whole_human: tuple[str, ...], shared_data: Path, tmp_path: Path
) -> None:
    counts = real_cells(shared_data, GOLDEN["real"], whole_human)
    model = load(read(published.write_published(tmp_path, names=whole_human)))
    cells = model.tokenize(counts, np.arange(len(whole_human), dtype=np.int32))
    check_tokens(cells, GOLDEN["real"], counts)
    for vector, wanted in zip(vectors(model, cells), GOLDEN["real"], strict=True):
        assert relative(vector, wanted["cls"]) < 2e-5


@pytest.mark.slow
def test_full_size_gives_the_numbers_of_scgpt(
    whole_human: tuple[str, ...], shared_data: Path, tmp_path: Path
) -> None:
    counts = real_cells(shared_data, GOLDEN["full"], whole_human)
    imported = read(published.write_published(tmp_path, "full", names=whole_human))
    # The published file without its heads: gene and value encoders, and twelve layers.
    n_parameters = sum(tensor.numel() for tensor in imported.tensors.values())
    assert n_parameters == 31_077_888 + 264_704 + 18_935_808
    model = load(imported)
    cells = model.tokenize(counts, np.arange(len(whole_human), dtype=np.int32))
    for vector, wanted in zip(vectors(model, cells), GOLDEN["full"], strict=True):
        assert relative(vector, wanted["cls"]) < 2e-5


# --- tokens ---------------------------------------------------------------------------------------


def test_a_cell_gives_the_same_tokens_in_any_row_file_and_order_of_genes(model: CellModel) -> None:
    counts = published.made_cells()
    once = model.tokenize(counts, MADE)
    order = np.random.default_rng(1).permutation(counts.shape[1])
    rows = np.array([6, 2, 5, 0])
    again = model.tokenize(counts[rows][:, order], MADE[order])
    for here, there in enumerate(rows):
        for name in ("tokens", "values"):
            np.testing.assert_array_equal(
                getattr(again.slice(here, here + 1), name),
                getattr(once.slice(there, there + 1), name),
            )


def test_what_was_counted_is_kept(model: CellModel) -> None:
    counts = csr_matrix(np.array([[3, 0, 2, 4], [0, 0, 0, 4], [0, 0, 0, 0]]))
    cells = model.tokenize(counts, np.array([5, 6, 5, -1], np.int32))
    assert cells.tokens.tolist() == [5]
    assert cells.umis.tolist() == [9, 4, 0]
    assert cells.umis_known.tolist() == [5, 0, 0]
    assert cells.genes.tolist() == [3, 1, 0]
    assert cells.genes_known.tolist() == [1, 0, 0]
    assert model.places(cells).tolist() == [2, 0, 0]


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", list(checkpoint.POOLS))
def test_a_vector_does_not_depend_on_its_neighbours(small: Path, pool: str) -> None:
    model = load(read(small), pool=pool)
    cells = model.tokenize(published.made_cells(), MADE)
    together = vectors(model, cells)
    alone = [vectors(model, cells.slice(row, row + 1))[0] for row in range(len(together))]
    assert relative(together, alone) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)


def test_a_model_says_what_it_does(model: CellModel) -> None:
    assert (model.width, model.context) == (32, 1_199)
    assert "<cls>" in model.pooling
    assert isinstance(model, Scgpt)
    assert not model.network.training


def test_options_of_other_families_are_refused(small: Path) -> None:
    imported = read(small)
    for options in ({"pool": "max"}, {"hidden_layer": -2}, {"target_depth": "t4"}):
        with pytest.raises(InputError, match=f"--{next(iter(options)).replace('_', '-')}"):
            load(imported, **options)


# --- the published format -------------------------------------------------------------------------


def test_what_is_read(small: Path) -> None:
    imported = read(small)
    assert imported.family == "scgpt"
    assert imported.title == "scGPT, 2 layers, 32 wide, 1,503 tokens"
    assert imported.table.symbols == (*published.MADE_NAMES, *published.SPECIALS)
    assert json.loads(json.dumps(imported.settings)) == imported.settings
    assert imported.settings["cls_token"] == 1_501
    said = " ".join(imported.notes)
    assert "decoder, mvc_decoder, flag_encoder" in said
    assert "batch norm" not in said
    parts = {name.partition(".")[0] for name in imported.tensors}
    assert parts == {"encoder", "value_encoder", "transformer_encoder"}


def rename(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("attention", list(published.ATTENTION))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: rename(state, "module."),
        lambda state: {"epoch": 3, "model_state_dict": rename(state, "_orig_mod.")},
        lambda state: {"state_dict": {name: x.double() for name, x in state.items()}},
    ],
    ids=["bare", "ddp", "run", "double"],
)
def test_every_layout_gives_the_same_weights(
    small: Path, broken: Path, attention: str, wrap: Callable[[Any], Any]
) -> None:
    state = published.weights("small", len(published.MADE_NAMES) + 3, attention)
    torch.save(wrap(state), broken / "best_model.pt")
    plain, other = read(small).tensors, read(broken).tensors
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        assert tensor.dtype == other[name].dtype == torch.float32
        assert torch.equal(tensor, other[name])


def edit(file: Path, **changes: Any) -> None:
    data = json.loads(file.read_text())
    data |= changes
    kept = {key: value for key, value in data.items() if value is not None}
    file.write_text(json.dumps(kept))


def test_special_tokens_that_lack_are_appended(small: Path, broken: Path) -> None:
    edit(broken / "vocab.json", **dict.fromkeys(published.SPECIALS))
    imported = read(broken)
    assert imported.table.symbols == read(small).table.symbols
    assert "Appended to the vocabulary, as scGPT does: <pad>, <cls>, <eoc>." in imported.notes


def test_the_vocabulary_may_lie_elsewhere(broken: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("genes") / "list.json"
    (broken / "vocab.json").rename(elsewhere)
    with pytest.raises(InputError, match=r"vocab\.json is missing.*--genes"):
        read(broken)
    assert read(broken, genes=elsewhere).table.symbols[7] == "GENE7"


def test_batch_norms_are_left_out_as_embed_data_does_and_said(broken: Path) -> None:
    spoil(broken, lambda state: state | {"dsbn.bns.0.running_mean": torch.zeros(32)})
    assert any("batch norm" in note and "dsbn" in note for note in read(broken).notes)


def test_settings_that_embed_data_passes_over_are_said(broken: Path) -> None:
    edit(broken / "args.json", n_bins=101, input_style="log1p")
    imported = read(broken)
    assert imported.settings["n_bins"] == 51
    assert any("101" in note for note in imported.notes)
    assert any("log1p" in note for note in imported.notes)


def test_recognise(small: Path, broken: Path, tmp_path_factory: Any) -> None:
    assert checkpoint.recognise(Source(small))
    assert checkpoint.recognise(Source(small / "best_model.pt"))
    (broken / "best_model.pt").rename(broken / "model_e5.pt")
    assert checkpoint.recognise(Source(broken))
    assert read(broken).title == read(small).title
    (broken / "args.json").unlink()
    assert not checkpoint.recognise(Source(broken))
    assert not checkpoint.recognise(Source(tmp_path_factory.mktemp("empty")))


# --- bad input ------------------------------------------------------------------------------------


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    torch.save(change(torch.load(folder / "best_model.pt")), folder / "best_model.pt")


def without(part: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda state: {name: x for name, x in state.items() if part not in name}


LAYER = "transformer_encoder.layers.0."
WRONG = {
    "no args": (lambda d: (d / "args.json").unlink(), r"args\.json is missing"),
    "args cut short": (lambda d: (d / "args.json").write_text('{"embsize": 3'), "damaged JSON"),
    "args is a list": (lambda d: (d / "args.json").write_text("[1]"), "not a table"),
    "no heads": (lambda d: edit(d / "args.json", nheads=None), "nheads is missing"),
    "odd heads": (lambda d: edit(d / "args.json", nheads=5), "not a multiple of its 5 heads"),
    "half a layer": (lambda d: edit(d / "args.json", nlayers=1.5), "whole number"),
    "category": (
        lambda d: edit(d / "args.json", input_emb_style="category"),
        "input_emb_style 'category'",
    ),
    "pre norm": (lambda d: edit(d / "args.json", pre_norm=True), "pre_norm"),
    "more layers": (
        lambda d: edit(d / "args.json", nlayers=3),
        r"12 tensors are missing: transformer_encoder\.layers\.2\.\S+ (\S+ ){4}and 7 more;",
    ),
    "fewer layers": (
        lambda d: edit(d / "args.json", nlayers=1),
        r"12 tensors are left over: transformer_encoder\.layers\.1\.\S+ (\S+ ){4}and 7 more;",
    ),
    "other width": (
        lambda d: edit(d / "args.json", d_hid=64),
        r"linear1\.weight has shape \[48, 32\] where the configuration asks for \[64, 32\]",
    ),
    "no attention": (
        lambda d: spoil(d, without("layers.0.self_attn.Wqkv")),
        f"missing: {LAYER}self_attn.in_proj_weight, {LAYER}self_attn.in_proj_bias;",
    ),
    "no value encoder": (lambda d: spoil(d, without("value_encoder.norm")), "missing: value_enc"),
    "perturbation": (
        lambda d: spoil(d, lambda s: s | {"pert_encoder.weight": torch.ones(3, 32)}),
        r"left over: pert_encoder\.weight;",
    ),
    "no embedding": (lambda d: spoil(d, without("encoder.embedding")), "no scGPT, for it has no"),
    "a tensor": (lambda d: torch.save(torch.ones(3), d / "best_model.pt"), "holds a Tensor"),
    "a module": (
        lambda d: torch.save(torch.nn.Linear(2, 2), d / "best_model.pt"),
        r"torch\.nn\.modules\.linear\.Linear",
    ),
    "half a file": (
        lambda d: (d / "best_model.pt").write_bytes((d / "best_model.pt").read_bytes()[:9_000]),
        "cut short",
    ),
    "vocabulary of another model": (
        lambda d: edit(d / "vocab.json", MORE=1_503),
        "1,504 tokens .* has 1,503 gene vectors",
    ),
    "a gap in the vocabulary": (lambda d: edit(d / "vocab.json", GENE7=None), "not numbered 0 to"),
    "a token twice": (lambda d: edit(d / "vocab.json", GENE7=8), "not numbered 0 to"),
    "names by token": (lambda d: edit(d / "vocab.json", GENE7="x"), "not a table of token num"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_bad_input_gives_one_line(broken: Path, case: str) -> None:
    change, message = WRONG[case]
    change(broken)
    with pytest.raises(InputError, match=message) as caught:
        read(broken)
    assert "\n" not in str(caught.value)


def test_a_stored_model_that_does_not_fit_is_refused(small: Path) -> None:
    imported = read(small)
    other = checkpoint.symbol_table(published.MADE_NAMES)
    with pytest.raises(InputError, match="1,500 tokens"):
        checkpoint.load(imported.settings, imported.tensors, other, ModelOptions())
    with pytest.raises(InputError, match=r"missing: encoder\.embedding\.weight"):
        checkpoint.load(imported.settings, {}, imported.table, ModelOptions())
    unknown = imported.settings | {"depth": 3}
    with pytest.raises(InputError, match="unknown key 'depth'"):
        checkpoint.load(unknown, imported.tensors, imported.table, ModelOptions())
