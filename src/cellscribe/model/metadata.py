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
from typing import Any, Literal, NotRequired, Self, TypedDict, get_args, get_type_hints

from cellscribe.cells.gene_names.synonyms import FILE as SYNONYMS
from cellscribe.cells.gene_names.vocabulary import Vocabulary
from cellscribe.config import ModelConfig, Pooling, from_mapping
from cellscribe.config.checked import check_value, shown
from cellscribe.config.files import parse_json, read_text
from cellscribe.errors import InputError
from cellscribe.model.checksums import check_sum

OWN_FIELDS = (
    "context", "norm", "cls_token", "sep_token", "head_act", "cell_vector_size", "cell_scores",
    "pooler",
)  # fmt: skip
"""Fields of `ModelConfig` that BERT's configuration does not have."""
MOST_CONFIG = 16 << 20
"""Bytes of ``config.json``; the names of 100,000 datasets take 5 MB."""
BERTS = ("sc-fm", "geneformer", "bionemo")
"""Families that share one network, a BERT of ranked genes; the first is our own."""
POOLS: tuple[str, ...] = get_args(get_type_hints(Pooling)["pool"])
"""Ways in which a BERT's vector of a cell can be made."""


LATER = ("head_act", "sep_token", "cell_vector_size", "cell_scores", "pooler")
"""Fields of `ModelConfig` that the first checkpoints lack."""
AGAIN = "copy or download the model folder again"


class BertKeys(TypedDict):
    """What is read of BERT's part of ``config.json`` besides the fields of `ModelConfig`."""

    model_type: NotRequired[Literal["bert"]]
    position_embedding_type: NotRequired[Literal["absolute"] | None]
    is_decoder: NotRequired[Literal[False] | None]
    add_cross_attention: NotRequired[Literal[False] | None]
    tie_word_embeddings: NotRequired[Literal[True] | None]


class OwnKeys(TypedDict):
    """The part of ``config.json`` under ``"cellscribe"``, without the fields of `ModelConfig`."""

    format: Literal[1]
    family: NotRequired[str]
    pooling: NotRequired[dict[str, Any]]
    settings: NotRequired[dict[str, Any]]
    vector: NotRequired[dict[str, Any]]
    provenance: Provenance


Provenance = TypedDict(
    "Provenance",
    {
        "trained on": NotRequired[list[str] | str],
        "trained before on": NotRequired[list[str] | str],
        "corpus": NotRequired[str],
        "step": NotRequired[int],
    },
)
"""Entries that are read again; the others are shown as they are."""


LAST_LAYER = ("head", "pooler")
"""Ways that read the last layer alone."""


def pools_of(config: ModelConfig) -> tuple[str, ...]:
    """Return those of `POOLS` that a model of this shape has."""
    parts = {"head": config.cell_vector_size > 0, "pooler": config.pooler}
    return tuple(pool for pool in POOLS if parts.get(pool, True))


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
        if not self.config.pooler:  # as before there were any
            del shape["pooler"]
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
        pooling = _pooling(own, config, where)
        vocabulary = Vocabulary.read(directory / "genes.tsv")
        if len(vocabulary) != config.vocab_size:
            raise InputError(
                f"{directory}: genes.tsv has {len(vocabulary):,} tokens, config.json says "
                f"{config.vocab_size:,}; they belong to different models"
            )
        check_tables(directory)
        return cls(
            name=name_of_model(directory),
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
    own = data["cellscribe"]
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    fields = {name: data[name] for name in names if name in data and name not in OWN_FIELDS}
    fields |= {name: own[name] for name in OWN_FIELDS if name in own}
    # the first checkpoints have no family, and lack what came later
    later = LATER if "family" not in own else LATER[2:]
    needed = [name for name in names if name not in later]
    try:
        check_value(BertKeys, data, "")
    except InputError as error:
        raise InputError(f"{where}: {error}; {AGAIN}") from None
    return from_mapping(ModelConfig, fields, where, needed=needed)


def _pooling(own: Mapping[str, Any], config: ModelConfig, where: str) -> Pooling:
    """Read which vectors make the vector of a cell, of those that the model has."""
    if "family" in own and "pooling" not in own:
        raise InputError(f"{where}: pooling is missing; {AGAIN}")
    needed = ("hidden_layer", "pool") if "pooling" in own else ()
    pooling = from_mapping(Pooling, own.get("pooling", {}), f"{where}: pooling", needed=needed)
    layers = config.num_hidden_layers
    if -pooling.hidden_layer > layers + 1:
        raise InputError(
            f"{where}: pooling.hidden_layer {pooling.hidden_layer} of a model of {layers} layers; "
            f"{AGAIN}"
        )
    read_last = pooling.pool in LAST_LAYER and pooling.hidden_layer != -1
    is_there = pooling.pool in pools_of(config) and (pooling.pool != "cls" or config.cls_token)
    if read_last or not is_there:
        raise InputError(
            f"{where}: pooling.pool {pooling.pool!r} is not one of this model with hidden_layer "
            f"{pooling.hidden_layer}; {AGAIN}"
        )
    return pooling


def check_tables(directory: Path) -> None:
    """Compare the gene table, and the names next to it, with the directory's checksums.

    Raises
    ------
    InputError
        One is not the file that was saved.
    """
    check_sum(directory / "genes.tsv")
    if (directory / SYNONYMS).exists():
        check_sum(directory / SYNONYMS)


def read_config(text: str, where: str) -> dict[str, Any]:
    """Parse ``config.json`` of any family.

    Raises
    ------
    InputError
        It is not one that cellscribe wrote.
    """
    data = parse_json(text, where, fix=AGAIN)
    own = data.get("cellscribe")
    if not isinstance(own, dict):
        raise InputError(
            f"{where}: not a cellscribe model's config.json; bring in a published model with "
            "cellscribe import"
        )
    known = (*OwnKeys.__annotations__, *OWN_FIELDS)
    try:
        for key in own:
            if key not in known:
                raise InputError(f"{shown(key)} is unknown; known are {', '.join(known)}")
        check_value(OwnKeys, own, "")
    except InputError as error:
        raise InputError(
            f"{where}: not a cellscribe model's config.json of this version: cellscribe: {error}; "
            f"{AGAIN}, or update cellscribe"
        ) from None
    return data


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("cellscribe") / "bundled"
    return sorted(f.name for f in folder.iterdir() if (f / "config.json").is_file())


RUN, MODEL = "run.json", "model"
"""File by which a training run's folder is known, and the folder in it that has its model."""
PUBLISHED = ("geneformer", "bionemo", "scgpt", "scbert", "scfoundation")
"""What the name of a published model has in it."""


def name_of_model(directory: Path) -> str:
    """Name of a model: that of its directory, or of the run that trained it."""
    directory = directory.resolve()
    of_run = directory.name == MODEL and (directory.parent / RUN).is_file()
    return directory.parent.name if of_run else directory.name


def find_checkpoint(name: str | Path) -> Path:
    """Find the directory of a model: a path, a training run's path, or the name of a bundled one.

    Raises
    ------
    InputError
        There is neither a directory nor a bundled model of that name.
    """
    path = Path(name)
    try:
        if (path / RUN).is_file():
            if not (path / MODEL).is_dir():
                raise InputError(f"{path}: the run has no model yet; let it end, or resume it")
            return path / MODEL
        if path.is_dir():
            return path
    except OSError as error:  # a name that no file can have
        raise InputError(f"no model {shown(str(name))}: {error.strerror}") from None
    if str(name) in bundled_models():
        return Path(str(resources.files("cellscribe") / "bundled" / str(name)))
    published = ""
    if any(family in str(name).lower() for family in PUBLISHED):
        published = "; bring a published one in with cellscribe import SOURCE -o FOLDER"
    raise InputError(
        f"no model {str(name)[:200]!r}: give a checkpoint directory or a bundled model "
        f"({', '.join(bundled_models()) or 'none here'}){published}"
    )


def config_text(directory: Path) -> str:
    """Text of a model directory's ``config.json``.

    Raises
    ------
    InputError
        There is none, or it cannot be read.
    """
    return read_text(directory / "config.json", fix="give a model directory", most=MOST_CONFIG)


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
        raise InputError(of_another_family(directory, family))
    return Header.from_config(directory, data)


def of_another_family(directory: Path, family: str) -> str:
    """Refusal of a model where a BERT of ranked genes is needed."""
    return (
        f"{directory} is a model of the family {family}: embed, tokenize, genes, perturb, "
        "evaluate, finetune, annotate and info take it, but export and train --init-from need one "
        f"of {', '.join(BERTS)}"
    )
