"""A model directory of any family: what it says of itself, and the model, loaded.

The header is read without torch, so that all that can be refused is refused in no time.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.cells.genes import GeneMap, map_genes
from cellscribe.cells.pipeline import Tokenize
from cellscribe.cells.rank import rank_cells
from cellscribe.cells.tokens import CellTokens
from cellscribe.cells.vocabulary import GeneTable, Vocabulary
from cellscribe.config import ModelConfig, ModelOptions
from cellscribe.errors import InputError
from cellscribe.families.symbols import map_symbols
from cellscribe.model.metadata import (
    BERTS,
    Header,
    config_text,
    find_checkpoint,
    read_config,
    read_header,
)

if TYPE_CHECKING:
    import pandas as pd

    from cellscribe.families.base import CellModel

FAMILIES = ("geneformer", "bionemo", "scgpt", "scbert", "scfoundation")
"""Modules of this room, in the order in which a folder is looked at."""


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """A model directory of any family, without its weights."""

    name: str
    directory: Path
    family: str
    table: GeneTable
    provenance: dict[str, Any]
    settings: dict[str, Any]
    """The family's configuration; of a BERT, see `config`."""
    config: ModelConfig | None = None
    """Shape of a BERT."""
    bert: Header | None = None
    """All that `model.checkpoint` reads of a BERT before its weights."""

    def map_genes(
        self, var: pd.DataFrame, *, gene_key: str | None = None, name: str = "input"
    ) -> GeneMap:
        """Tokens of a file's columns: by Ensembl id for a BERT, else by published symbol.

        Raises
        ------
        InputError
            See `cells.genes.map_genes` and `names.map_symbols`.
        """
        look_up = map_genes if self.family in BERTS else map_symbols
        return look_up(var, self.table, gene_key=gene_key, name=name)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded model of any family, with its header."""

    header: ModelHeader
    cells: CellModel
    hash: str
    """SHA-256 of the weights file, the first 16 hexadecimal digits."""


def family_module(family: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"cellscribe.families.{family}.checkpoint")


def read_model(name: str | Path | ModelHeader) -> ModelHeader:
    """Read config and gene table of a model of any family, without torch.

    Raises
    ------
    InputError
        Unknown name or family; config or gene table missing, damaged or not of one model.
    """
    if isinstance(name, ModelHeader):
        return name
    directory = find_checkpoint(name)
    data = read_config(config_text(directory), str(directory / "config.json"))
    own = data["cellscribe"]
    family = own.get("family", BERTS[0])
    if family in BERTS:
        header = read_header(directory)
        return ModelHeader(
            name=header.name,
            directory=directory,
            family=family,
            table=header.vocabulary,
            provenance=header.provenance,
            settings={},
            config=header.config,
            bert=header,
        )
    if family not in FAMILIES:
        raise InputError(
            f"{directory}: a model of the family {family!r}, which this version does not know "
            f"(known: {', '.join((BERTS[0], *FAMILIES))}); update cellscribe"
        )
    return ModelHeader(
        name=directory.resolve().name,
        directory=directory,
        family=family,
        table=GeneTable.read(directory / "genes.tsv"),
        provenance=own["provenance"],
        settings=own["settings"],
    )


def open_model(name: str | Path | ModelHeader, options: ModelOptions | None = None) -> Opened:
    """Load a model of any family, on the CPU in float32.

    Raises
    ------
    InputError
        See `read_model`; weights missing or damaged; an option that the family does not have.
    """
    options = options or ModelOptions()
    header = read_model(name)
    cells: CellModel
    if header.bert is not None:
        from cellscribe.families.bert.model import Bert
        from cellscribe.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(header.bert)
        cells, digest = Bert(checkpoint, options), checkpoint.hash
    else:
        from cellscribe.model.checkpoint import read_weights

        weights, digest = read_weights(header.directory)
        module = family_module(header.family)
        cells = module.load(header.settings, weights, header.table, options)
    return Opened(header=header, cells=cells, hash=digest)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What turns counts into a model's tokens; no torch for a BERT."""

    tokenize: Tokenize
    front: tuple[int, ...] = ()
    back: tuple[int, ...] = ()
    about: dict[str, Any]
    """What the tokens mean."""


def open_tokenizer(header: ModelHeader) -> Tokenizer:
    """Tokeniser of a model of any family.

    Raises
    ------
    InputError
        As `open_model`, for families other than BERT.
    """
    about: dict[str, Any] = {"family": header.family, "vocabulary_hash": header.table.hash}
    config, table = header.config, header.table
    if config is None:
        return Tokenizer(tokenize=open_model(header.directory).cells.tokenize, about=about)
    assert isinstance(table, Vocabulary)
    about |= {"context": config.context, "cls_token": config.cls_token}

    def rank(block: Any, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        return rank_cells(block, token_of_column, table.medians, config.context)

    front, back = table.around(config.cls_token, config.sep_token)
    return Tokenizer(tokenize=rank, front=front, back=back, about=about)
