"""Geneformer files that are damaged or do not belong together: one line says what and the mend."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.published_geneformer import N_GENES, write_published
from safetensors.torch import load_file, save_file

from cellscribe.config import ImportOptions
from cellscribe.errors import InputError
from cellscribe.families.geneformer import checkpoint
from cellscribe.families.importing import import_model
from cellscribe.families.source import Source

TOKENS = "geneformer/token_dictionary_gc104M.pkl"
MEDIANS = "geneformer/gene_median_dictionary_gc104M.pkl"
WORDS = "bert.embeddings.word_embeddings.weight"
LAST_LAYER = "bert.encoder.layer.0."
Weights = dict[str, torch.Tensor]


def published(root: Path) -> Path:
    return write_published(root, "V2", sizes={"positions": 48, "layers": 1})


def refusal(folder: Path, genes: Path | None = None) -> str:
    """The line, and that nothing is left under the name of the import."""
    out = folder.parent / "ours"
    with pytest.raises(InputError) as caught:
        import_model(folder, out, ImportOptions(genes=genes), log=lambda line: None)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def without(name: str) -> Callable[[Weights], Any]:
    return lambda weights: weights.pop(name)


def another_decoder(weights: Weights) -> None:
    weights["cls.predictions.decoder.weight"] = weights[WORDS] + 1


def halved(weights: Weights) -> None:
    weights[WORDS] = weights[WORDS][:-3].clone()


def quantised(weights: Weights) -> None:
    weights[f"{LAST_LAYER}output.dense.weight"] = torch.zeros(128, 512, dtype=torch.int8)


def more(weights: Weights) -> None:
    weights["bert.encoder.layer.1.output.dense.bias"] = torch.zeros(128)
    weights["adapter.weight"] = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{LAST_LAYER}output.dense.bias"), [f"missing: {LAST_LAYER}output.dense.bias"]),
        (without("cls.predictions.bias"), ["missing: cls.predictions.bias"]),
        (more, ["2 tensors are left over", "adapter.weight"]),
        (another_decoder, ["decoder.weight differs from", "another model"]),
        (halved, [WORDS, "[61, 128]", "[64, 128]"]),
        (quantised, ["quantised", "int8"]),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[Weights], Any], words: list[str], tmp_path: Path
) -> None:
    folder = published(tmp_path)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    line = refusal(folder)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_act": "silu"}, ["'silu'", "relu"]),
        ({"position_embedding_type": "relative_key"}, ["absolute positions"]),
        ({"num_attention_heads": None}, ["num_attention_heads missing"]),
        ({"num_attention_heads": 3}, ["multiple of num_attention_heads"]),
        ({"vocab_size": "many"}, ["no vocab_size"]),
        ({"max_position_embeddings": "48"}, ["config.json"]),
    ],
)
def test_configurations_that_are_not_geneformers(
    fields: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    folder = published(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for key, value in fields.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    line = refusal(folder)
    assert all(word in line for word in words), line


def test_half_a_file_and_a_pointer_to_one(tmp_path: Path) -> None:
    folder = published(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "damaged or cut short" in refusal(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.a": torch.zeros(9)}, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[:-40])
    assert "damaged or cut short" in refusal(folder)
    torch.save([torch.zeros(1)], folder / "pytorch_model.bin")
    assert "not a state dict" in refusal(folder)
    (tmp_path / TOKENS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Git LFS pointer" in refusal(folder)


def test_a_dictionary_of_the_other_release(tmp_path: Path) -> None:
    folder = published(tmp_path)
    first = write_published(tmp_path / "first", "V1", sizes={"positions": 48, "layers": 1})
    line = refusal(folder, first.parent)
    assert f"{N_GENES + 4} tokens" in line
    assert f"has {N_GENES + 2}" in line
    assert "gc30M (25,426 tokens) go with V1" in line
    assert "gc104M (20,275) with V2" in line


def test_the_dictionaries_of_a_repository_with_both_releases_are_told_apart(
    tmp_path: Path,
) -> None:
    folders = {v: write_published(tmp_path, v, sizes={"positions": 48}) for v in ("V1", "V2")}
    for version, folder in folders.items():
        found = checkpoint.read_published(Source(folder), ImportOptions())
        assert found.title.startswith(f"Geneformer {version}, 3 layers, 128 wide")
        assert found.pooling.pool == ("cls" if version == "V2" else "genes")


def test_dictionaries_from_elsewhere(tmp_path: Path) -> None:
    folder = published(tmp_path / "a")
    moved = tmp_path / "genes"
    (tmp_path / "a" / "geneformer").rename(moved)
    deep = tmp_path / "b" / "c" / "d" / "e" / "model"
    deep.parent.mkdir(parents=True)
    folder.rename(deep)
    line = refusal(deep)
    assert "--genes the folder" in line
    assert "token_dictionary*.pkl" in line
    assert "no such file" in refusal(deep, tmp_path / "nowhere")
    by_folder = checkpoint.read_published(Source(deep), ImportOptions(genes=moved))
    tokens = moved / Path(TOKENS).name
    by_file = checkpoint.read_published(Source(deep), ImportOptions(genes=tokens))
    assert by_folder.table.ids == by_file.table.ids
    other = tokens.rename(moved / "tokens.pkl")
    assert "name it as published" in refusal(deep, other)


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(values), protocol=4))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (TOKENS, lambda d: {**d, "ENSG00000999999": 64, "ENSG00000999998": 64}, ["each once"]),
        (TOKENS, lambda d: {k: str(v) for k, v in d.items()}, ["not a dictionary", "tokens"]),
        (TOKENS, lambda d: list(d), ["not a dictionary"]),
        (TOKENS, lambda d: {k.strip("<>"): v for k, v in d.items()}, ["<pad> and <mask>"]),
        (MEDIANS, lambda d: dict(list(d.items())[7:]), ["7 genes", "no median", "ENSG0"]),
        (MEDIANS, lambda d: {k: float("nan") for k in d}, ["median above zero"]),
        (MEDIANS, lambda d: {k: np.zeros(2) for k in d}, ["not a dictionary", "medians"]),
        ("geneformer/ensembl_mapping_dict_gc104M.pkl", lambda d: [d], ["not a dictionary"]),
    ],
)
def test_dictionaries_that_are_damaged(
    file: str, change: Callable[[dict[str, Any]], Any], words: list[str], tmp_path: Path
) -> None:
    folder = published(tmp_path)
    rewritten(tmp_path / file, change)
    line = refusal(folder)
    assert all(word in line for word in words), line


def test_no_medians(tmp_path: Path) -> None:
    folder = published(tmp_path)
    (tmp_path / MEDIANS).unlink()
    line = refusal(folder)
    assert "gene_median_dictionary_gc104M.pkl is missing" in line


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


def test_a_dictionary_that_would_run_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published(tmp_path)
    (tmp_path / TOKENS).write_bytes(pickle.dumps({"<pad>": Evil()}))
    assert "builtins.print" in refusal(folder)
    assert capsys.readouterr().out == ""


def test_what_is_no_text_in_the_dictionaries_of_names_is_passed_over(tmp_path: Path) -> None:
    folder = published(tmp_path)
    for kind in ("ensembl_mapping_dict", "gene_name_id_dict"):
        path = tmp_path / "geneformer" / f"{kind}_gc104M.pkl"
        rewritten(path, lambda d: {**d, "NOTHING": None, float("nan"): "ENSG00000000003"})
    found = checkpoint.read_published(Source(folder), ImportOptions())
    assert "NOTHING" not in (found.table.synonyms or {})
