"""BioNeMo's layouts: every one gives the same weights, under the names that NVIDIA gives them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import published_bionemo as made
from families import published_geneformer
from hypothesis import given
from hypothesis import strategies as st

from cellscribe.config import ImportOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.families.base import PublishedBert
from cellscribe.families.bionemo import checkpoint, distributed_checkpoint, megatron
from cellscribe.families.bionemo import transformer_engine as engine
from cellscribe.families.bionemo.distributed_checkpoint import _names
from cellscribe.families.geneformer import checkpoint as geneformer
from cellscribe.families.locate import recognise as family_of
from cellscribe.families.pickle_limits import Damaged
from cellscribe.families.pickle_machine import run
from cellscribe.families.source import Source
from cellscribe.families.unpickle import read_tensors
from cellscribe.model.metadata import config_to_json

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/bionemo.json").read_text())
N_TOKENS = len(made.SPECIALS) + len(made.MADE_GENES)
LAYER_1 = "bert.encoder.layer.1"


def read(path: Path, genes: Path | None = None) -> PublishedBert:
    source = Source(path)
    assert family_of(source) is checkpoint
    return checkpoint.read_published(source, ImportOptions(genes=genes))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_nemo(tmp_path_factory.mktemp("nemo") / "small.nemo")


@pytest.fixture(scope="module")
def from_archive(archive: Path) -> PublishedBert:
    return read(archive)


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "no dots": lambda path: made.write_nemo(path / "a.nemo", dots=False),
    "gzip": lambda path: made.write_nemo(path / "a.nemo", gzip=True),
    "in a folder": lambda path: made.write_nemo(path / "a.nemo").parent,
    "NeMo 2": lambda path: made.write_nemo_2(path / "a"),
    "its weights alone": lambda path: made.write_nemo_2(path / "a") / "weights",
    "indexed layers": lambda path: made.write_nemo_2(path / "a", stack=False),
    "local layers": lambda path: made.write_nemo_2(path / "a", stack=False, engine=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(
    layout: str, from_archive: PublishedBert, tmp_path: Path
) -> None:
    published = read(LAYOUTS[layout](tmp_path))
    assert (published.config, published.pooling) == (from_archive.config, from_archive.pooling)
    assert published.table.ids == from_archive.table.ids
    assert published.tensors.keys() == from_archive.tensors.keys()
    for name, tensor in published.tensors.items():
        assert torch.equal(tensor, from_archive.tensors[name]), name


def test_weights_lie_where_megatron_puts_them(from_archive: PublishedBert) -> None:
    core = made.core_weights(made.SHAPES["small"], N_TOKENS)
    packed = core["encoder.layers.1.self_attention.linear_qkv.weight"]
    ours = from_archive.tensors
    # rows go by head: q, k and v of head 0, then of head 1, 64 each
    places = {"query": (0, 192), "key": (64, 256), "value": (128, 320)}
    for kind, (first, second) in places.items():
        found = ours[f"{LAYER_1}.attention.self.{kind}.weight"]
        assert torch.equal(found, torch.cat([packed[first : first + 64], packed[second:][:64]]))
    before_mlp = core["encoder.layers.1.pre_mlp_layernorm.bias"]
    assert torch.equal(ours[f"{LAYER_1}.output.LayerNorm.bias"], before_mlp)
    final = core["encoder.final_layernorm.weight"]
    assert torch.equal(ours["bert.embeddings.LayerNorm.weight"], final)
    words = core["embedding.word_embeddings.weight"]
    assert words.shape[0] == 384
    assert torch.equal(ours["bert.embeddings.word_embeddings.weight"], words[:N_TOKENS])
    assert torch.equal(ours["cls.predictions.bias"], core["output_layer.bias"][:N_TOKENS])
    assert ours["bert.embeddings.token_type_embeddings.weight"].shape == (0, 128)


def test_the_header_says_how_it_computes(from_archive: PublishedBert) -> None:
    model = dataclasses.asdict(from_archive.config)
    wanted = {
        "vocab_size": N_TOKENS,
        "num_attention_heads": 2,
        "context": 95,
        "hidden_act": "gelu_new",
        "head_act": "gelu",
        "norm": "pre",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 0,
        "cls_token": True,
        "sep_token": False,
        "pad_token_id": 2,
    }
    assert {key: model[key] for key in wanted} == wanted
    assert from_archive.pooling == Pooling(hidden_layer=-1, pool="genes_but_last")
    json.dumps(config_to_json(from_archive.config, {}, from_archive.pooling))
    assert from_archive.table.symbols[5:7] == ("S0000", "S0001")


def test_names_are_those_of_nvidias_mapping() -> None:
    for nemo_1, nemo_2 in GOLDEN["nemo 1 names"].items():
        assert megatron.core_name(nemo_1) == megatron.core_name(f"module.{nemo_2}")
    ours = {megatron.core_name(name) for name in GOLDEN["nemo 1 names"]}
    assert ours == made.core_weights(made.SHAPES["small"], N_TOKENS).keys()


def test_saved_keys_are_those_of_megatrons_saver(tmp_path: Path) -> None:
    folder = made.write_nemo_2(tmp_path / "a") / "weights"
    tensors = distributed_checkpoint.read_distributed(folder, megatron.holds_weights)
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == GOLDEN["saved"]


@given(heads=st.integers(1, 5), width=st.integers(1, 4))
def test_heads_are_taken_apart_as_they_were_packed(heads: int, width: int) -> None:
    rows = heads * 3 * width
    packed = torch.arange(rows * 2).view(rows, 2)
    query, key, value = megatron.split_heads(packed, heads)
    for head in range(heads):
        for place in range(width):
            row = head * 3 * width + place
            assert torch.equal(query[head * width + place], packed[row])
            assert torch.equal(key[head * width + place], packed[row + width])
            assert torch.equal(value[head * width + place], packed[row + 2 * width])


def test_halves_are_kept_as_float32_and_told(from_archive: PublishedBert, tmp_path: Path) -> None:
    published = read(made.write_nemo_2(tmp_path / "a", dtype=torch.bfloat16))
    name = f"{LAYER_1}.output.dense.weight"
    assert torch.equal(published.tensors[name], from_archive.tensors[name].bfloat16().float())
    assert any("bfloat16" in note for note in published.notes)


def test_relu_in_a_config_is_gelu_and_told(tmp_path: Path) -> None:
    path = made.write_nemo(tmp_path / "a.nemo")
    made.edit_config(path, lambda text: text.replace("activation: gelu", "activation: relu"))
    published = read(path)
    assert published.config.hidden_act == "gelu_new"
    assert any("GELU" in note for note in published.notes)


def test_heads_are_read_from_io_json_or_taken_to_be_64_wide(tmp_path: Path) -> None:
    folder = made.write_nemo_2(tmp_path / "a")
    (folder / "context/model.yaml").unlink()
    assert read(folder).config.num_attention_heads == 2
    io_json = (folder / "context/io.json").read_text().replace('"value": 2', '"value": 4')
    (folder / "context/io.json").write_text(io_json.replace('"num_layers"', '"layers"'))
    assert read(folder).config.num_attention_heads == 4
    shutil.rmtree(folder / "context")
    published = read(folder)
    assert published.config.num_attention_heads == 2
    assert any("64 wide" in note for note in published.notes)


def test_medians_may_be_given_as_geneformers_pickle(archive: Path, tmp_path: Path) -> None:
    medians = {gene: np.float64(value) for gene, value in made.made_medians().items()}
    (tmp_path / "gene_median_dictionary_gc30M.pkl").write_bytes(pickle.dumps(medians))
    folder = made.write_nemo_2(tmp_path / "a", beside=False)
    for genes in (tmp_path, tmp_path / "gene_median_dictionary_gc30M.pkl"):
        table = read(folder, genes).table
        np.testing.assert_array_equal(table.medians[5:], list(medians.values()))
        assert table.symbols == ("",) * len(table)  # of made-up genes nothing is known


def test_megatrons_own_class_of_metadata_is_read(
    from_archive: PublishedBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.checkpoint.metadata import Metadata

    folder = made.write_nemo_2(tmp_path / "a")
    module = types.ModuleType("megatron.core.dist_checkpointing.strategies.torch")
    heir = type("MCoreMetadata", (Metadata,), {"__module__": module.__name__})
    module.MCoreMetadata = heir  # type: ignore[attr-defined]
    parts = module.__name__.split(".")
    for depth in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:depth]))
        monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = folder / "weights/.metadata"
    metadata = heir(**vars(pickle.loads(path.read_bytes())))
    metadata.mcore_data = {"a": {"nd_reformulated_orig_global_shape": (2, 3)}}
    path.write_bytes(pickle.dumps(metadata))
    monkeypatch.undo()
    name = f"{LAYER_1}.attention.self.key.bias"
    assert torch.equal(read(folder).tensors[name], from_archive.tensors[name])


# The export for Transformer Engine


@pytest.fixture(scope="module")
def published_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_geneformer.write_published(tmp_path_factory.mktemp("geneformer"), "V1")


def test_the_export_is_nvidias() -> None:
    source = made.engine_source()
    exported = made.engine_weights(source, heads=2)
    digests = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in exported.items()
        if ".decoder." not in name  # tied copies, which NVIDIA's mapping leaves to tie_weights
    }
    assert digests == GOLDEN["export"]
    for name, tensor in engine.to_hugging_face(exported, 2, "export").items():
        assert ".decoder." in name or torch.equal(tensor, source[name]), name


@pytest.mark.parametrize("bin_file", [False, True])
def test_an_export_is_the_geneformer_it_was_made_of(
    published_v1: Path, tmp_path: Path, bin_file: bool
) -> None:
    folder = made.write_transformer_engine(published_v1, tmp_path / "te", bin_file=bin_file)
    dictionaries = published_v1.parent / "geneformer/gene_dictionaries_30m"
    (weights,) = [path for path in folder.iterdir() if path.suffix != ".json"]
    assert checkpoint.recognise(Source(weights))
    ours = read(folder, dictionaries)
    wanted = geneformer.read_published(Source(published_v1), ImportOptions())
    assert ours.family == "geneformer"
    assert (ours.config, ours.pooling) == (wanted.config, wanted.pooling)
    assert ours.table.hash == wanted.table.hash
    assert ours.tensors.keys() == wanted.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, wanted.tensors[name]), name


def test_an_export_in_halves_is_told(published_v1: Path, tmp_path: Path) -> None:
    folder = made.write_transformer_engine(published_v1, tmp_path / "te", dtype=torch.bfloat16)
    ours = read(folder, published_v1.parent / "geneformer/gene_dictionaries_30m")
    assert any("bfloat16" in note for note in ours.notes)
    assert {tensor.dtype for tensor in ours.tensors.values()} == {torch.float32}


def test_an_export_without_dictionaries_or_with_other_heads_is_refused(
    published_v1: Path, tmp_path: Path
) -> None:
    folder = made.write_transformer_engine(published_v1, tmp_path / "te")
    with pytest.raises(InputError, match="give --genes the folder that holds token_dictionary"):
        read(folder)
    weights = read_tensors(folder / "model.safetensors")
    with pytest.raises(InputError, match="has 384 rows, which 5 heads do not divide"):
        engine.to_hugging_face(weights, 5, "x")


def test_another_familys_metadata_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"date": "2024"}')
    assert not checkpoint.recognise(Source(tmp_path))
    assert not checkpoint.recognise(Source(tmp_path / "metadata.json"))


def test_members_of_enumerations_are_read_as_every_python_saves_them() -> None:
    """Python 3.11.0 to 3.11.3 save ``getattr(Enum, name)``; of nothing else may that be asked."""
    where = b"ctorch.distributed.checkpoint.planner\n"
    asked = b"\x80\x02cbuiltins\ngetattr\n" + where + b"%s\nX\x06\x00\x00\x00TENSOR\x86R."
    assert run(asked % b"WriteItemType", _names())[0] == "TENSOR"
    with pytest.raises(Damaged, match="an attribute of an object"):
        run(asked % b"WriteItem", _names())
