"""Imports of what is whole but cannot be right: weights, medians, tokens and settings."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from families import every, published_bionemo
from families.published_geneformer import write_published
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

import cellscribe
from cellscribe.errors import InputError
from cellscribe.families.geneformer.dictionaries import check_medians, species_of
from cellscribe.families.source import parse_json
from cellscribe.families.unpickle import read_torch
from cellscribe.families.weights import as_float, renamed
from cellscribe.model.weights import check_finite

KINDS = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")
WORDS = "bert.embeddings.word_embeddings.weight"


def refusal(source: Path, genes: Path | None = None) -> str:
    out = source.parent / "never"
    with pytest.raises(InputError) as error:
        cellscribe.import_model(source, out, genes=genes, log=lambda line: None)
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert not list(source.parent.glob(".never*"))
    return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_published(tmp_path, "V2", sizes={"positions": 48, "layers": 1})


def table(folder: Path, kind: str) -> Path:
    return folder.parent / "geneformer" / f"{kind}_gc104M.pkl"


# Numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_counted_and_named(value: float, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[WORDS][3, 4:7] = value
    save_file(weights, folder / "model.safetensors")
    line = refusal(folder)
    assert f"3 of {weights[WORDS].numel():,} values of {WORDS}" in line
    assert str(folder) in line and "not finite" in line


@pytest.mark.parametrize("family", ["scgpt", "scbert", "scfoundation"])
def test_other_families_are_looked_at_too(family: str, tmp_path: Path) -> None:
    source, genes = every.write(family, tmp_path / "published")
    path = (
        source
        if source.is_file()
        else next(path for path in source.iterdir() if path.suffix in (".pt", ".pth", ".ckpt"))
    )
    data = read_torch(path)
    part = data.get("model_state_dict", data.get("cell", data))
    part = part.get("state_dict", part)
    name = next(n for n, x in part.items() if x.is_floating_point() and "norm" in n)
    part[name].view(-1)[1] = np.nan
    torch.save(data, path)
    assert "1 of " in (line := refusal(source, genes)) and "not finite" in line
    part[name] = torch.ones(part[name].shape, dtype=torch.int32)
    torch.save(data, path)
    assert "quantised (torch.int32)" in refusal(source, genes)


def test_large_weights_are_fine_and_many_bad_ones_are_counted() -> None:
    check_finite({"a": torch.full((9,), 3e38), "b": torch.zeros(0), "c": -torch.ones(2)}, "x")
    bad = {f"t{i}": torch.tensor([1.0, np.nan]) for i in range(9)}
    with pytest.raises(InputError, match=r"1 of 2 values of t0, .*t4 and 4 more tensors are not"):
        check_finite(bad, "x")


def test_floats_that_need_a_scale_are_no_weights() -> None:
    for dtype in (torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64):
        with pytest.raises(InputError, match=f"a is quantised .{dtype}"):
            as_float("a", torch.ones(2).to(dtype), "x")
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert as_float("a", torch.ones(2).to(dtype), "x").dtype == torch.float32


# Tables of genes in each other's place


@pytest.mark.parametrize(
    ("put", "at", "words"),
    [
        ("token_dictionary", "gene_median_dictionary", "tokens, not medians"),
        (
            "gene_median_dictionary",
            "token_dictionary",
            "not a dictionary from gene names to tokens",
        ),
        ("gene_name_id_dict", "gene_median_dictionary", "not a dictionary from gene names to med"),
        ("ensembl_mapping_dict", "gene_name_id_dict", "it is a ensembl_mapping_dict"),
        ("gene_name_id_dict", "ensembl_mapping_dict", "are read as nothing by it"),
        ("token_dictionary", "gene_name_id_dict", ""),
    ],
)
def test_tables_in_the_place_of_others(put: str, at: str, words: str, folder: Path) -> None:
    table(folder, at).write_bytes(table(folder, put).read_bytes())
    if words:
        assert words in refusal(folder)
    else:  # no text in it, so no names: symbols are those of the table of human genes
        out = folder.parent / "ours"
        cellscribe.import_model(folder, out, log=lambda line: None)


def test_tokens_of_another_release_are_no_medians(folder: Path) -> None:
    tokens = pickle.loads(table(folder, "token_dictionary").read_bytes())
    shifted = {name: (7 * token) % 61 + 100 for name, token in tokens.items()}
    table(folder, "gene_median_dictionary").write_bytes(pickle.dumps(shifted))
    assert "tokens, not medians" in refusal(folder)


@given(st.lists(st.floats(1e-3, 9_999, allow_nan=False), min_size=1, max_size=30))
def test_any_medians_of_counts_per_10_000_are_fine(values: list[float]) -> None:
    medians = np.array([*values, values[0]])
    check_medians(medians, "x")
    for bad in (0.0, -1.0, np.nan, np.inf, 10_001.0):
        with pytest.raises(InputError, match="1 genes have no median above zero"):
            check_medians(np.array([*medians, bad]), "x")


@pytest.mark.parametrize(
    "names", [["a\tb"], ["a\nb"], ["a\x1b[2J"], ["\u2028"]], ids=["tab", "line", "escape", "mark"]
)
def test_names_that_no_table_can_hold(names: list[str], folder: Path) -> None:
    path = table(folder, "token_dictionary")
    tokens = pickle.loads(path.read_bytes())
    last = max(tokens, key=tokens.__getitem__)
    tokens[names[0]] = tokens.pop(last)
    path.write_bytes(pickle.dumps(tokens))
    line = refusal(folder)
    assert "is no name of a gene" in line and line.isprintable()


# Settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "silu"),
        ("hidden_act", ["gelu"]),
        ("hidden_act", None),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("is_decoder", "yes"),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
        ("tie_word_embeddings", False),
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", "1"),
        ("num_hidden_layers", 2),
        ("hidden_size", 10**400),
        ("vocab_size", True),
        ("vocab_size", 0),
        ("vocab_size", 10**30),
        ("layer_norm_eps", "small"),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", [48]),
    ],
)
def test_settings_are_known_or_refused(key: str, value: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    line = refusal(folder)
    assert key in line or (key, value) == ("vocab_size", 10**30)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, '{"a": 1, "a": 2}', "{", "\0", '{"a": ' + "9" * 9999 + "}"],
    ids=["lists", "tables", "twice", "cut", "zero", "digits"],
)
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match=r"x\.json: (damaged JSON|a stands in it twice)"):
        parse_json(text, "x.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embsize", 10**400),
        ("embsize", float("nan")),
        ("nlayers", 10**12),
        ("nlayers", 1.5),
        ("nheads", True),
        ("pad_value", float("inf")),
        ("pad_value", 10**400),
        ("d_hid", -1),
    ],
)
def test_scgpts_settings_are_bounded(key: str, value: Any, tmp_path: Path) -> None:
    source, _ = every.write("scgpt", tmp_path / "published")
    args = json.loads((source / "args.json").read_text())
    (source / "args.json").write_text(json.dumps({**args, key: value}))
    assert "args.json" in refusal(source)


# Other species


def as_mouse(folder: Path, rename: Callable[[str], str]) -> tuple[str, ...]:
    """Make the V1 dictionaries next to a model those of Mouse-Geneformer, in its own folder."""
    place = folder.parent / "geneformer" / "gene_dictionaries_30m"
    tokens = pickle.loads((place / "token_dictionary_gc30M.pkl").read_bytes())
    medians = pickle.loads((place / "gene_median_dictionary_gc30M.pkl").read_bytes())
    for path in place.iterdir():
        path.unlink()
    ids = tuple(name if name[0] == "<" else rename(name) for name in tokens)
    files = {
        "MLM-re_token_dictionary_v1": {name: i for i, name in enumerate(ids)},
        "mouse_gene_median_dictionary": {rename(name): value for name, value in medians.items()},
        "MLM-re_token_dictionary_v1_GeneSymbol_to_EnsemblID": {
            f"Gene{i}": name for i, name in enumerate(ids[2:])
        },
    }
    for name, values in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(values))
    return ids


def test_a_mouse_model_keeps_its_own_genes(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "a", "V1", sizes={"positions": 48, "layers": 1})
    ids = as_mouse(folder, lambda name: f"ENSMUSG{name[4:]}")
    told: list[str] = []
    out = cellscribe.import_model(folder, tmp_path / "ours", log=told.append)
    assert "mouse genes" in told[0]
    header = cellscribe.families.registry.read_model(out)
    assert header.table.ids == ids
    assert header.table.symbols[2:5] == ("Gene0", "Gene1", "Gene2")
    facts = cellscribe.info(out)
    assert facts["species"] == "mouse"
    assert "Apache" not in facts["provenance"]["licence"]
    # cells named either way give the same vectors, and human ones are refused
    counts = np.random.default_rng(5).poisson(1.0, (4, len(ids) - 2))
    embedder = cellscribe.load(out, device="cpu", threads=1, precision="float32")
    vectors = [
        embedder.embed(AnnData(csr_matrix(counts), var=pd.DataFrame(index=list(names))))
        for names in (ids[2:], header.table.symbols[2:])
    ]
    np.testing.assert_array_equal(*vectors)
    assert np.isfinite(vectors[0]).all() and vectors[0].any(axis=1).all()
    people = [f"ENSG{name[7:]}" for name in ids[2:]]
    with pytest.raises(InputError, match="mouse"):
        embedder.embed(AnnData(csr_matrix(counts), var=pd.DataFrame(index=people)))


def test_which_medians_go_with_it_is_asked_where_there_are_two(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "a", "V1", sizes={"positions": 48, "layers": 1})
    as_mouse(folder, lambda name: f"ENSMUSG{name[4:]}")
    path = folder / "mouse_gene_median_dictionary.pkl"
    (folder / "rat_gene_median_dictionary.pkl").write_bytes(path.read_bytes())
    assert "which of mouse_gene_median_dictionary.pkl, rat_gene" in refusal(folder)


@pytest.mark.parametrize(
    ("genes", "species"),
    [
        (["ENSG00000000003", "ENSG00000000005"], "human"),
        (["ENSMUSG00000000001", "ENSG00000000005", "ENSMUSG00000000028"], "mouse"),
        (["ENSSSCG00000000002"], "ENSSSCG"),
        (["TP53", "ENSG00000000003", "MYC"], ""),
        ([], ""),
    ],
)
def test_species_by_most_ids(genes: list[str], species: str) -> None:
    assert species_of(genes) == species


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_attention_heads: 2", "num_attention_heads: 1e400"),
        ("num_attention_heads: 2", "num_attention_heads: 1.5"),
        ("num_attention_heads: 2", "num_attention_heads: -2"),
        ("layernorm_epsilon: 1.0e-12", "layernorm_epsilon: nan"),
        ("normalization: LayerNorm", "normalization: RMSNorm"),
    ],
)
def test_bionemos_settings_are_bounded(old: str, new: str, tmp_path: Path) -> None:
    folder = published_bionemo.write_nemo_2(tmp_path / "a")
    path = folder / "context" / "model.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert new.partition(":")[0].removeprefix("num_").split("_")[0] in refusal(folder)


@pytest.mark.parametrize("part", [torch.tensor(1.0), np.zeros(3), None, [1]])
def test_a_branch_of_something_else(part: Any, tmp_path: Path) -> None:
    source, _ = every.write("scfoundation", tmp_path / "published")
    path = source if source.is_file() else next(source.glob("*.ckpt"))
    data = read_torch(path)
    torch.save({**data, "gene": part}, path)
    assert "branch gene: no table" in refusal(source)
    config = {**data["gene"]["config"], "model": part}
    torch.save({**data, "gene": {**data["gene"], "config": config}}, path)
    assert "branch gene: its configuration lacks" in refusal(source)


def test_rows_that_cannot_be_stacked() -> None:
    one, two = torch.zeros(2, 3), torch.zeros(2, 4)
    names = {"a": ("b", "c")}
    assert renamed({"b": one, "c": one}, names, "x")["a"].shape == (4, 3)
    for other in (two, torch.tensor(1.0), torch.zeros(3)):
        with pytest.raises(InputError, match="b, c do not fit each other"):
            renamed({"b": one, "c": other}, names, "x")
    assert renamed({"b": torch.tensor(1.0)}, {"a": ("b",)}, "x")["a"].ndim == 0


# The disk


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_a_full_disk_is_said_and_nothing_is_left(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = every.write(family, tmp_path / "published")
    ours = cellscribe.import_model(source, tmp_path / "ours", log=lambda line: None)

    def full(*_: Any, **__: Any) -> None:
        text = "I/O error: No space left on device (os error 28)"
        raise SafetensorError(f"Error while serializing: {text}")

    for module in ("safetensors.torch", "cellscribe.model.checkpoint"):
        monkeypatch.setattr(f"{module}.save_file", full)
    with pytest.raises(InputError, match="cannot be written: the disk is full"):
        cellscribe.import_model(source, tmp_path / "out", log=lambda line: None)
    if family == "geneformer":
        with pytest.raises(InputError, match="cannot be written: the disk is full"):
            cellscribe.export_model(ours, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"published", "ours"}
