"""Checkpoint directories: there and back, into Hugging Face, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.model.attention import Lengths
from cellscribe.model.checkpoint import load_checkpoint, save_checkpoint
from cellscribe.model.encoder import MaskedGeneModel, initialise

CONFIG = ModelConfig(
    vocab_size=45,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
    context=19,
    hidden_act="gelu",
    hidden_dropout_prob=0.0,
)
PROVENANCE = {"data": ["a.h5ad", "b.h5ad"], "steps": 12, "loss": 3.25}


def make_vocabulary(n_genes: int = 40) -> Vocabulary:
    medians = np.random.default_rng(0).lognormal(size=n_genes)
    ids = [f"ENSG{i:011}" for i in range(n_genes)]
    return Vocabulary.build(ids, [f"G{i}" for i in range(n_genes)], medians)


def make_model(config: ModelConfig = CONFIG) -> MaskedGeneModel:
    model = MaskedGeneModel(config)
    initialise(model, 3)
    with torch.no_grad():
        model.bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", make_model(), make_vocabulary(), PROVENANCE, readme="Hi\n")
    return tmp_path / "model"


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_there_and_back(tmp_path: Path, norm: str) -> None:
    config = replace(CONFIG, norm=norm, cls_token=False)
    model, vocabulary = make_model(config), make_vocabulary()
    save_checkpoint(tmp_path / "deep" / "model", model, vocabulary, PROVENANCE, readme="Hi\n")
    names = ["README.md", "SHA256SUMS", "config.json", "genes.tsv", "model.safetensors"]
    assert sorted(os.listdir(tmp_path / "deep" / "model")) == names
    assert os.listdir(tmp_path / "deep") == ["model"]
    loaded = load_checkpoint(tmp_path / "deep" / "model")
    assert (loaded.name, loaded.config, loaded.provenance) == ("model", config, PROVENANCE)
    assert loaded.vocabulary.hash == vocabulary.hash
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not loaded.model.training
    weights = (tmp_path / "deep" / "model" / "model.safetensors").read_bytes()
    assert loaded.hash == sha256(weights).hexdigest()[:16]
    assert (tmp_path / "deep" / "model" / "README.md").read_text() == "Hi\n"


def test_half_precision_on_disk_is_float32_in_memory(tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "half", model, make_vocabulary(), {}, dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    after = load_checkpoint(tmp_path / "half").model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(after[name], tensor.half().float())


def test_training_a_loaded_model_leaves_its_file_alone(saved: Path) -> None:
    """Weights lie where the file is mapped; what is written to them must not reach the disk."""
    before = (saved / "model.safetensors").read_bytes()
    loaded = load_checkpoint(saved).model
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    assert (saved / "model.safetensors").read_bytes() == before
    kept = load_checkpoint(saved).model.state_dict()
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(kept[name] + 1.0, tensor)


def test_transformers_loads_it_as_it_is(saved: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        saved, output_loading_info=True
    )
    assert type(theirs).__name__ == "BertForMaskedLM"
    assert theirs.dtype == torch.float32
    for kind, names in report.items():
        assert not names, kind  # nothing missing, unexpected or of another shape
    for name in ("vocab_size", "hidden_size", "hidden_act", "layer_norm_eps", "pad_token_id"):
        assert getattr(theirs.config, name) == getattr(CONFIG, name)
    tokens_BL = torch.arange(5, 17).view(2, 6)
    with torch.no_grad():
        ours = load_checkpoint(saved).model(tokens_BL, Lengths((6, 6), torch.device("cpu")))
        torch.testing.assert_close(ours, theirs.eval()(tokens_BL).logits, rtol=0, atol=1e-5)


def test_what_transformers_saves_is_read(saved: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(saved)
    theirs.save_pretrained(tmp_path / "theirs")
    shutil.copy(saved / "genes.tsv", tmp_path / "theirs")
    before, after = load_checkpoint(saved), load_checkpoint(tmp_path / "theirs")
    assert after.config == before.config
    expected = before.model.state_dict()
    for name, tensor in after.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def change_tensor(name: str, change: Callable) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        changed = change(weights.pop(name))
        save_file(
            weights | ({} if changed is None else {name: changed}), folder / "model.safetensors"
        )

    return damage


def change_config(**changes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("config.json"), "config.json: no such file; give a model directory"),
        (write("config.json", "{"), "config.json: damaged JSON"),
        (write("config.json", '{"model_type": "bert"}'), "not a cellscribe model's config.json"),
        (change_config(hidden_size="wide"), "config.json: "),
        (
            change_config(num_attention_heads=0),
            "num_attention_heads must be a whole number",
        ),
        (drop("genes.tsv"), "the gene table is missing"),
        (
            lambda folder: make_vocabulary(39).write(folder / "genes.tsv"),
            "genes.tsv has 44 tokens, config.json says 45",
        ),
        (drop("model.safetensors"), "model.safetensors: no such file; SHA256SUMS lists it"),
        (cut("model.safetensors", 0), "model.safetensors: damaged"),
        (cut("model.safetensors", 4), "model.safetensors: damaged"),
        (cut("model.safetensors", 100), "model.safetensors: damaged"),
        (cut("model.safetensors", 9_000), "model.safetensors: damaged"),
        (write("model.safetensors", "version https://git-lfs.github.com/spec/v1"), "damaged"),
        (change_tensor(QUERY, lambda t: None), f"{QUERY} is missing"),
        (
            change_tensor(QUERY, lambda t: t[:, :-1].contiguous()),
            r"query.weight has shape \[16, 15\] where config.json asks for \[16, 16\]",
        ),
        (
            change_config(num_hidden_layers=3),
            "holds 2 layers, and num_hidden_layers",
        ),
        (change_config(intermediate_size=32), "belong to different models"),
    ],
)
def test_damaged_directories_are_refused_in_a_line(
    saved: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(saved)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="no model 'gene-former': give a checkpoint directory"):
        load_checkpoint("gene-former")


def test_an_existing_directory_is_kept(saved: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_checkpoint(saved, make_model(), make_vocabulary(), {})
    assert (saved / "model.safetensors").read_bytes() == before


def test_a_gene_table_of_another_size_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the gene table has 44 tokens, the model 45"):
        save_checkpoint(tmp_path / "model", make_model(), make_vocabulary(39), {})
    assert os.listdir(tmp_path) == []


def test_nothing_half_written_is_left_when_saving_fails(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):  # behind the weights
        save_checkpoint(tmp_path / "model", make_model(), make_vocabulary(), {"when": object()})
    assert os.listdir(tmp_path) == []
