"""Header of a model directory: all but the weights, read without torch.

``config.json`` is BERT's, as `transformers` reads it; fields that BERT lacks are under
``"cellscribe"``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from cellscribe.cells.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, Pooling, from_mapping
from cellscribe.errors import InputError

OWN_FIELDS = (
    "context", "norm", "cls_token", "sep_token", "head_act", "cell_vector_size", "cell_scores",
)  # fmt: skip
"""Fields of `ModelConfig` that BERT's configuration does not have."""
BERTS = ("sc-fm", "geneformer", "bionemo")
"""Families that share one network, a BERT of ranked genes; the first is our own."""
POOLS: tuple[str, ...] = get_args(get_type_hints(Pooling)["pool"])
"""Ways in which a BERT's vector of a cell can be made."""


def pools_of(config: ModelConfig) -> tuple[str, ...]:
    """Return those of `POOLS` that a model of this shape has."""
    return tuple(pool for pool in POOLS if pool != "head" or config.cell_vector_size)


def hash_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings as sorted JSON, the first 16 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The directory of a BERT of ranked genes, without its weights."""

    name: str
    directory: Path
    config: ModelConfig
    table: Vocabulary
    provenance: dict[str, Any]
    """Origin of the weights: data, recipe, time, losses."""
    pooling: Pooling
    """Where the vector of a cell is read by default."""
    family: str

    @property
    def vocabulary(self) -> Vocabulary:
        """The gene table."""
        return self.table

    @cached_property
    def config_hash(self) -> str:
        """`hash_settings` of family, shape and pooling."""
        shape, pooling = dataclasses.asdict(self.config), dataclasses.asdict(self.pooling)
        return hash_settings({"family": self.family, "model": shape, "pooling": pooling})

    @classmethod
    def from_config(cls, directory: Path, data: Mapping[str, Any]) -> Self:
        """Take what ``config.json`` holds, and read the gene table.

        Parameters
        ----------
        directory
            Of the model.
        data
            From `read_config`, of one of the families `BERTS`.

        Raises
        ------
        InputError
            Config or gene table damaged or not of one model.
        """
        where, own = str(directory / "config.json"), data["cellscribe"]
        config = _model_config(data, where)
        pooling = from_mapping(Pooling, own.get("pooling", {}), where)
        vocabulary = Vocabulary.read(directory / "genes.tsv")
        if len(vocabulary) != config.vocab_size:
            raise InputError(
                f"{directory}: genes.tsv has {len(vocabulary):,} tokens, config.json says "
                f"{config.vocab_size:,}; they belong to different models"
            )
        return cls(
            name=directory.resolve().name,
            directory=directory,
            config=config,
            table=vocabulary,
            provenance=own["provenance"],
            pooling=pooling,
            family=own.get("family", BERTS[0]),
        )


def config_to_json(
    config: ModelConfig,
    provenance: Mapping[str, Any],
    pooling: Pooling | None = None,
    family: str = BERTS[0],
) -> dict[str, Any]:
    """Build ``config.json``: BERT's own keys, and ours under ``"cellscribe"``."""
    fields = dataclasses.asdict(config)
    own = {key: fields.pop(key) for key in OWN_FIELDS}
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"] if config.norm == "post" else [],
        "dtype": "float32",
        **fields,
        "cellscribe": {
            "format": 1,
            "family": family,
            **own,
            "pooling": dataclasses.asdict(pooling or Pooling.default(config)),
            "provenance": dict(provenance),
        },
    }


def config_from_json(text: str, where: str) -> tuple[ModelConfig, dict[str, Any]]:
    """Read ``config.json``; keys of BERT that we do not use are ignored."""
    data = read_config(text, where)
    return _model_config(data, where), data["cellscribe"]["provenance"]


def _model_config(data: Mapping[str, Any], where: str) -> ModelConfig:
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    fields = {key: value for key, value in {**data, **data["cellscribe"]}.items() if key in known}
    return from_mapping(ModelConfig, fields, where)


def read_config(text: str, where: str) -> dict[str, Any]:
    """Parse ``config.json`` of any family.

    Raises
    ------
    InputError
        It is not one that cellscribe wrote.
    """
    try:
        data = json.loads(text)
        own = data["cellscribe"]
        if isinstance(own["provenance"], dict) and isinstance(own.get("family", ""), str):
            return data
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(
        f"{where}: not a cellscribe model's config.json; bring in a published model with "
        "cellscribe import"
    )


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("cellscribe") / "bundled"
    return sorted(f.name for f in folder.iterdir() if (f / "config.json").is_file())


def find_checkpoint(name: str | Path) -> Path:
    """Find the directory of a model: a path, or the name of a bundled one.

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


def config_text(directory: Path) -> str:
    """Text of a model directory's ``config.json``.

    Raises
    ------
    InputError
        There is none.
    """
    try:
        return (directory / "config.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{directory}: no readable config.json; not a model directory") from None


def read_header(name: str | Path) -> Header:
    """Read config and gene table of a BERT: a checkpoint directory or a bundled model.

    Raises
    ------
    InputError
        Unknown name; config or gene table missing, damaged or not of one model; another family.
    """
    directory = find_checkpoint(name)
    data = read_config(config_text(directory), str(directory / "config.json"))
    family = data["cellscribe"].get("family", BERTS[0])
    if family not in BERTS:
        raise InputError(
            f"{directory} is a model of the family {family}, which only embed, annotate "
            f"--reference and info can use; this needs one of {', '.join(BERTS)}"
        )
    return Header.from_config(directory, data)
