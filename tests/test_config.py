"""Settings: presets, TOML, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cellscribe.config import (
    EmbedOptions,
    ModelConfig,
    from_mapping,
    load_preset,
    preset_names,
    read_toml,
)
from cellscribe.errors import InputError
from cellscribe.model.encoder import MaskedGeneModel, count_parameters


def test_presets() -> None:
    assert preset_names() == ["geneformer-106m", "geneformer-10m", "mini"]
    for name in preset_names():
        assert isinstance(load_preset(name), ModelConfig)
    with pytest.raises(InputError, match="no preset 'maxi'; there are geneformer-106m"):
        load_preset("maxi")


@pytest.mark.parametrize(
    ("name", "published"), [("geneformer-10m", 10.3e6), ("geneformer-106m", 106e6)]
)
def test_presets_have_the_published_number_of_parameters(name: str, published: float) -> None:
    config = load_preset(name)
    with torch.device("meta"):
        n_parameters = count_parameters(MaskedGeneModel(config))
    assert n_parameters == pytest.approx(published, rel=0.01)
    assert config.vocab_size == 25_424 + 5


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(
        InputError, match=r"run\.toml: unknown key 'hiden_size'; known are vocab_size"
    ):
        from_mapping(ModelConfig, {"hiden_size": 64}, "run.toml")
    with pytest.raises(InputError, match="unknown key 'modle'"):
        from_mapping(EmbedOptions, {"modle": "mini"}, "flags")


def test_a_mapping_gives_its_values_and_the_defaults() -> None:
    config = from_mapping(ModelConfig, {"num_hidden_layers": 2, "norm": "pre"}, "here")
    assert config == dataclasses.replace(ModelConfig(), num_hidden_layers=2, norm="pre")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 250}, "250 is not a multiple of num_attention_heads 4"),
        ({"context": 2_048}, "do not fit into max_position_embeddings 2048"),
        ({"hidden_size": "wide"}, "here: "),
    ],
)
def test_shapes_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(ModelConfig, values, "here")


def test_a_context_that_just_fits() -> None:
    assert ModelConfig(context=2_047).context == 2_047
    assert ModelConfig(context=2_048, cls_token=False).context == 2_048


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 3  # type: ignore[misc]


def test_toml_is_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(InputError, match="no such file"):
        read_toml(path)
    path.write_text("[model]\nhidden_size = 64\n")
    assert read_toml(path) == {"model": {"hidden_size": 64}}
    for bad in (b"[model\n", b"\xff\xfe"):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"not valid TOML|not a text file") as caught:
            read_toml(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path)
