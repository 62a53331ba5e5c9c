"""Model directories that lie: each is refused in one line, or means what it meant before."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.json_tables import put
from support.tiny import save_model

from cellscribe.config import ModelConfig, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.registry import Opened, open_model
from cellscribe.model import checksums
from cellscribe.model.checkpoint import load_checkpoint
from cellscribe.model.heads import Head, load_head, save_head

pytestmark = pytest.mark.usefixtures("one_thread")
NESTED = json.loads("[" * 40 + "]" * 40)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 10**12, 10**30, 1.5, 2.0, -0.0, 1e300, "", "silu", "4", "\x1b[31m",
    [], [1], {}, {"a": 1}, NESTED,
)  # fmt: skip
RAW = ("NaN", "Infinity", "1e999", '"\\ud800"', "9" * 5_000, "[" * 5_000 + "]" * 5_000)
"""Values that JSON libraries write, or that only a text editor does."""
GENES = "genes.tsv"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("hostile") / "model", cell_vector_size=8)


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_model(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 2_000
    return line


def vectors(opened: Opened) -> torch.Tensor:
    """Vectors of two cells, whatever the context is."""
    cells = opened.cells
    ranked = [np.arange(5, 25), np.arange(9, 40)[::-1].copy()]
    with torch.inference_mode():
        return cells.vectors(*cells.hidden(ranked))  # type: ignore[attr-defined]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every value of a JSON table."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(each, dict | list) and len(at) < 3:
            yield from places(each, (*at, key))


def test_every_field_of_every_kind_is_refused_or_means_what_it_meant(
    saved: Path, model: Path
) -> None:
    """A value that is taken decides alone: the model is then the one that the config describes."""
    before = open_model(saved)
    expected = vectors(before)
    config = json.loads((model / "config.json").read_text())
    draw = random.Random(0)
    taken = 0
    for at in list(places(config)):
        some = [*draw.sample(ODD, 8), ..., *draw.sample(ODD[:8], 2)]
        for value in some:
            (model / "config.json").write_text(json.dumps(put(config, at, value)))
            try:
                opened = open_model(model)
            except InputError as error:
                assert "\n" not in str(error)
                assert "config.json" in str(error) or "model.safetensors" in str(error)
                continue
            taken += 1
            if opened.identity == before.identity:
                torch.testing.assert_close(vectors(opened), expected, rtol=0, atol=0)
            else:
                # the value is in the model's own shape, and so in its identity
                name = at[-1]
                assert getattr(opened.header.config, name) == value  # type: ignore[attr-defined]
                assert torch.isfinite(vectors(opened)).all()
    assert 50 < taken < 500


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:9])
def test_text_that_is_no_json_value(raw: str, saved: Path, model: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    for at in (("hidden_size",), ("layer_norm_eps",), ("cellscribe", "provenance", "note")):
        text = json.dumps(put(config, at, "HERE")).replace('"HERE"', raw)
        (model / "config.json").write_text(text)
        assert "config.json" in refusal(model)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown activation": ({"hidden_act": "silu"}, "hidden_act must be 'relu', 'gelu' or"),
    "layers without end": ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole"),
    "fewer layers": ({"num_hidden_layers": 1}, "holds 2 layers, and num_hidden_layers in config"),
    "more layers": ({"num_hidden_layers": 900}, "holds 2 layers"),
    "wide": ({"hidden_size": 65_536}, "values where config.json asks for"),
    "a flag": ({"num_attention_heads": True}, "num_attention_heads must be a whole number, not"),
    "a float": ({"vocab_size": 205.0}, "vocab_size must be a whole number, not 205.0"),
    "positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type must be"),
    "another kind": ({"model_type": "gpt2"}, "model_type must be 'bert', not 'gpt2'"),
}
OWN: dict[str, tuple[dict[str, Any], str]] = {
    "norm": ({"norm": "x"}, "norm must be 'post' or 'pre', not 'x'"),
    "format": ({"format": 2}, "format must be 1, not 2"),
    "misspelt": ({"contxt": 4}, "'contxt' is unknown"),
    "layer": ({"pooling": {"hidden_layer": -9, "pool": "genes"}}, "pooling.hidden_layer -9"),
    "pool": ({"pooling": {"hidden_layer": -1, "pool": "best"}}, "pool must be 'genes', 'cls'"),
    "half a pooling": ({"pooling": {"pool": "genes"}}, "pooling: hidden_layer is missing"),
    "provenance": ({"provenance": []}, "provenance must be a table, not an empty list"),
    "trained on": ({"provenance": {"trained on": 7}}, "provenance.trained on must be text"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_values_that_are_refused_by_name(name: str, model: Path) -> None:
    change, told = CONFIGS[name]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    assert told in refusal(model)


@pytest.mark.parametrize("name", OWN)
def test_values_of_our_own_that_are_refused_by_name(name: str, model: Path) -> None:
    change, told = OWN[name]
    config = json.loads((model / "config.json").read_text())
    config["cellscribe"] |= change
    (model / "config.json").write_text(json.dumps(config))
    assert told in refusal(model)


@pytest.mark.parametrize("name", ["num_attention_heads", "layer_norm_eps", "hidden_act"])
def test_a_field_that_is_missing_is_named(name: str, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    del config[name]
    (model / "config.json").write_text(json.dumps(config))
    assert f"config.json: {name} is missing" in refusal(model)


def test_a_key_that_stands_twice_is_refused(model: Path) -> None:
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace("{", '{"hidden_act": "gelu", ', 1))
    assert "the key 'hidden_act' stands twice" in refusal(model)


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "nowhere", "device", "gone"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", GENES, checksums.SUMS])
def test_what_is_no_file(name: str, kind: str, model: Path) -> None:
    path = model / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "gone":
        target = {"loop": path.name, "nowhere": "none", "device": "/dev/zero"}[kind]
        path.symlink_to(target)
    if (name, kind) == (checksums.SUMS, "gone"):
        assert open_model(model).hash  # a model of before
    else:
        assert name in refusal(model)


def test_files_that_are_too_large_are_not_read(model: Path) -> None:
    for name in ("config.json", GENES):
        before = (model / name).read_bytes()
        os.truncate(model / name, 1 << 40)  # sparse: nothing is written
        assert f"{name}: 1,099,511,627,776 bytes where at most" in refusal(model)
        (model / name).write_bytes(before)


def edit_header(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "integers": lambda h: h[WORDS].update(dtype="I32"),
    "flags": lambda h: h[WORDS].update(dtype="BOOL"),
    "unknown type": lambda h: h[WORDS].update(dtype="X9"),
    "shape": lambda h: h[WORDS].update(shape=h[WORDS]["shape"][::-1]),
    "large shape": lambda h: h[WORDS].update(shape=[1 << 40, 1 << 40]),
    "negative": lambda h: h[WORDS].update(shape=[-1, 32]),
    "beyond": lambda h: h[WORDS].update(data_offsets=[0, 1 << 60]),
    "overlap": lambda h: h[WORDS].update(data_offsets=[4, 8]),
    "text": lambda h: h.update({WORDS: "none"}),
    "renamed": lambda h: h.update({"x": h.pop(WORDS)}),
    "one more": lambda h: h.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_weights_that_lie(name: str, model: Path) -> None:
    edit_header(model / "model.safetensors", HEADERS[name])
    assert "model.safetensors" in refusal(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_named_and_counted(
    value: float, dtype: torch.dtype, model: Path
) -> None:
    weights = {k: v.to(dtype) for k, v in load_file(model / "model.safetensors").items()}
    weights[WORDS][7, 3:5] = value
    save_file(weights, model / "model.safetensors")
    n = weights[WORDS].numel()
    assert f"2 of {n:,} values of {WORDS} are not finite" in refusal(model)


def test_large_but_finite_weights_are_no_fault(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["cls.predictions.bias"] += 3e38  # their sum is infinite
    save_file(weights, model / "model.safetensors")
    checksums.seal(model)
    assert open_model(model).hash


def test_one_bit_of_any_file_is_seen(saved: Path, model: Path) -> None:
    draw = random.Random(1)
    for name in ("model.safetensors", GENES):
        raw = (saved / name).read_bytes()
        for _ in range(12):
            changed = bytearray(raw)
            changed[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            (model / name).write_bytes(changed)
            assert name in refusal(model)
        (model / name).write_bytes(raw)
    assert open_model(model).hash == open_model(saved).hash


def test_a_change_of_ones_own_is_read_without_the_list(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights[WORDS] *= 2
    save_file(weights, model / "model.safetensors")
    assert "if the change is yours, remove SHA256SUMS" in refusal(model)
    (model / checksums.SUMS).unlink()
    assert open_model(model).hash


SUMS: dict[str, Callable[[str], str]] = {
    "no sum": lambda text: text.replace(text[:64], "xyz"),
    "twice": lambda text: text + text,
    "outside": lambda text: text + "0" * 64 + "  ../other\n",
    "absolute": lambda text: text + "0" * 64 + "  /etc/passwd\n",
    "gone": lambda text: text + "0" * 64 + "  gene_ids.tsv\n",
    "not listed": lambda text: "\n".join(t for t in text.splitlines() if GENES not in t) + "\n",
    "empty": lambda text: "",
}


@pytest.mark.parametrize("name", SUMS)
def test_lists_of_checksums_that_lie(name: str, model: Path) -> None:
    path = model / checksums.SUMS
    path.write_text(SUMS[name](path.read_text()))
    assert "SHA256SUMS" in refusal(model)


def test_coreutils_agree_with_the_list(saved: Path) -> None:
    import subprocess

    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum here")
    done = subprocess.run(
        [tool, "-c", checksums.SUMS], cwd=saved, capture_output=True, text=True, check=True
    )
    assert done.stdout == "genes.tsv: OK\nmodel.safetensors: OK\n"


TABLES: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "zero": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\t0"), "line 10: '0'"),
    "negative": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\t-3"), "line 10: '-3'"),
    "nan": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\tnan"), "line 10: 'nan'"),
    "infinite": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\t1e999"), "line 10: '1e"),
    "underscore": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\t1_0"), "line 10: '1_0"),
    "none": (lambda t: t.__setitem__(9, t[9].rpartition("\t")[0] + "\t"), "line 10: every gene"),
    "twice": (lambda t: t.__setitem__(9, "8" + t[8][1:]), "line 10: an id stands twice"),
    "column": (lambda t: t.__setitem__(9, t[9] + "\t1"), "line 10: expected token 8"),
    "head": (lambda t: t.__setitem__(0, "gene\tmedian"), "the first line must be"),
    "no genes": (lambda t: t.__delitem__(slice(6, None)), "no gene in it"),
    "many": (lambda t: t.extend(["x"] * 70_000), "tokens, at most 65,536 fit"),
    "half of a letter": (lambda t: t.__setitem__(9, "\udcff"), "not a text file"),
}


@pytest.mark.parametrize("name", TABLES)
def test_gene_tables_are_refused_by_line(name: str, model: Path) -> None:
    change, told = TABLES[name]
    lines = (model / GENES).read_text().splitlines()
    change(lines)
    text = "\n".join(lines) + "\n"
    (model / GENES).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert told in refusal(model)


def test_every_field_of_a_head_is_refused_or_means_what_it_meant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = Head(
        labels=["a", "b", "c"], weight=rng.normal(size=(3, 8)).astype(np.float32),
        bias=np.zeros(3, np.float32), temperature=1.5, threshold=0.4,
        about={"label": "cell_type", "sources": [{"name": "x.h5ad", "cells": 9}]},
    )  # fmt: skip
    save_head(tmp_path, head)
    told = json.loads((tmp_path / "head.json").read_text())
    for at in list(places(told)):
        for value in (*ODD, ...):
            (tmp_path / "head.json").write_text(json.dumps(put(told, at, value)))
            try:
                found = load_head(tmp_path)
            except InputError as error:
                assert "head.json" in str(error)
                continue
            assert found.temperature > 0
            assert 0 <= found.threshold <= 1
            assert len(set(found.labels)) == 3
    (tmp_path / "head.json").write_text(json.dumps(told))
    for name, wrong in (("weight", np.nan), ("bias", np.inf)):
        tensors = {"weight": head.weight.copy(), "bias": head.bias.copy()}
        tensors[name][0] = wrong
        save_file(
            {k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / "head.safetensors"
        )
        with pytest.raises(InputError, match=f"{name} is of type float32, or holds"):
            load_head(tmp_path)


def test_an_edited_config_is_another_model(saved: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    before, after = open_model(saved).identity, open_model(model).identity
    assert before["model"] == after["model"]
    assert before["model_config"] != after["model_config"]


@pytest.mark.parametrize("name", ["x" * 5_000, "\0", "a/b\nc"])
def test_names_that_no_model_has(name: str) -> None:
    with pytest.raises(InputError, match="no model") as caught:
        load_checkpoint(name)
    assert len(str(caught.value)) < 500


def test_options_made_in_python_are_checked_too() -> None:
    for field, value in (("hidden_size", "wide"), ("hidden_act", None), ("layer_norm_eps", np.nan)):
        with pytest.raises(InputError, match=f"{field} must be"):
            ModelConfig(**{field: value})
    assert ModelConfig(hidden_size=np.int64(64)).hidden_size == 64
    assert from_mapping(ModelConfig, {"layer_norm_eps": 1}, "x").layer_norm_eps == 1.0
