"""What a model directory says of itself before any weight is read; no torch in here.

``config.json`` is BERT's, as `transformers` reads it; what BERT has no field for stands under
``"cellscribe"``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, from_mapping
from cellscribe.errors import InputError

OWN_FIELDS = ("context", "norm", "cls_token")
"""Fields of `ModelConfig` that BERT's configuration does not have."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A model directory without its weights."""

    name: str
    directory: Path
    config: ModelConfig
    vocabulary: Vocabulary
    provenance: dict[str, Any]
    """How the weights came about: data, recipe, time, losses."""


def config_to_json(config: ModelConfig, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Build ``config.json``: BERT's own keys, and ours under ``"cellscribe"``."""
    fields = dataclasses.asdict(config)
    own = {key: fields.pop(key) for key in OWN_FIELDS}
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"] if config.norm == "post" else [],
        "dtype": "float32",
        **fields,
        "cellscribe": {"format": 1, **own, "provenance": dict(provenance)},
    }


def config_from_json(text: str, where: str) -> tuple[ModelConfig, dict[str, Any]]:
    """Read ``config.json`` back; keys of BERT that we do not use are passed over."""
    try:
        data = json.loads(text)
        own = data["cellscribe"]
        provenance = own["provenance"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where}: not a cellscribe model's config.json") from None
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    fields = {key: value for key, value in {**data, **own}.items() if key in known}
    return from_mapping(ModelConfig, fields, where), provenance


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("cellscribe") / "bundled"
    return sorted(f.name for f in folder.iterdir() if (f / "config.json").is_file())


def find_checkpoint(name: str | Path) -> Path:
    """Directory of a model: a path, or the name of a bundled one.

    Raises
    ------
    InputError
        There is neither a directory nor a bundled model of that name.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if str(name) in bundled_models():
        return Path(str(resources.files("cellscribe") / "bundled" / str(name)))
    raise InputError(
        f"no model {str(name)!r}: give a checkpoint directory or a bundled model "
        f"({', '.join(bundled_models()) or 'none here'})"
    )


def read_header(name: str | Path) -> Header:
    """Read config and gene table of a checkpoint directory or a bundled model.

    Raises
    ------
    InputError
        Unknown name; config or gene table missing, damaged or not of one model.
    """
    directory = find_checkpoint(name)
    try:
        text = (directory / "config.json").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise InputError(f"{directory}: no readable config.json; not a model directory") from None
    config, provenance = config_from_json(text, str(directory / "config.json"))
    vocabulary = Vocabulary.read(directory / "genes.tsv")
    if len(vocabulary) != config.vocab_size:
        raise InputError(
            f"{directory}: genes.tsv has {len(vocabulary):,} tokens, config.json says "
            f"{config.vocab_size:,}; they belong to different models"
        )
    return Header(
        name=directory.resolve().name,
        directory=directory,
        config=config,
        vocabulary=vocabulary,
        provenance=provenance,
    )
