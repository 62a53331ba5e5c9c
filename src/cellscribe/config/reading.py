"""From TOML files, presets and mappings to dataclasses; an unknown key is an error."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cellscribe.config.checked import from_mapping
from cellscribe.config.encoder import ModelConfig
from cellscribe.config.files import read_text
from cellscribe.config.train import TrainOptions
from cellscribe.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why not."""
    text = read_text(Path(path), fix="give a TOML file of options")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{path}: not valid TOML (it nests too deep)") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None


def preset_names() -> list[str]:
    """Names of the bundled presets."""
    folder = resources.files("cellscribe") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model's shape and how it is trained."""

    name: str
    model: dict[str, Any]
    training: dict[str, Any]


def read_preset(name: str) -> Preset:
    """Read a bundled preset, or a TOML file with tables ``[model]`` and ``[training]``.

    Raises
    ------
    InputError
        No preset has that name, the file cannot be read, or a key is unknown.
    """
    if name in preset_names():
        with resources.as_file(resources.files("cellscribe") / "presets" / f"{name}.toml") as path:
            tables = read_toml(path)
    elif name.endswith(".toml"):
        tables = read_toml(Path(name))
    else:
        raise InputError(
            f"no preset {name!r}; there are {', '.join(preset_names())}, or give a .toml file"
        )
    for table in tables:
        if table not in ("model", "training"):
            raise InputError(f"preset {name}: unknown table {table!r}; known are model, training")
    preset = Preset(
        name=Path(name).stem, model=tables.get("model", {}), training=tables.get("training", {})
    )
    from_mapping(ModelConfig, preset.model, f"preset {name}")
    from_mapping(TrainOptions, preset.training, f"preset {name}")
    return preset


def load_preset(name: str) -> ModelConfig:
    """Shape of the model of a preset, see `read_preset`."""
    return from_mapping(ModelConfig, read_preset(name).model, f"preset {name}")
