"""Models of any family: what a model directory says of itself, and the model, loaded.

A header is read without torch, so that all that can be refused is refused in no time. There are two
kinds: `RankedHeader` for the BERTs that read ranked genes, `ModelHeader` for all others; whatever
differs between the two is a method of the header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.cells.gene_names.genes import GeneMap, map_genes
from cellscribe.cells.gene_names.vocabulary import GeneTable
from cellscribe.cells.rank import ranker
from cellscribe.cells.tokens import Tokenize
from cellscribe.config import ModelOptions, Species, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.base import CellModel, Family, NetworkFamily
from cellscribe.families.bionemo import checkpoint as bionemo
from cellscribe.families.geneformer import checkpoint as geneformer
from cellscribe.families.scbert import checkpoint as scbert
from cellscribe.families.scfoundation import checkpoint as scfoundation
from cellscribe.families.scgpt import checkpoint as scgpt
from cellscribe.families.symbols import map_symbols
from cellscribe.model.metadata import (
    BERTS,
    Header,
    check_tables,
    config_text,
    find_checkpoint,
    hash_settings,
    name_of_model,
    pools_of,
    read_config,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch

NETWORKS: Mapping[str, NetworkFamily] = {
    "scgpt": scgpt,
    "scbert": scbert,
    "scfoundation": scfoundation,
}
"""Families with a network of their own."""
FAMILIES: Mapping[str, Family] = {"geneformer": geneformer, "bionemo": bionemo, **NETWORKS}
"""Families that can be imported, in the order in which a folder is looked at."""
BEGINNINGS: Mapping[tuple[str, str | None], Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    ("scbert", "conv"): scbert.with_convolution,
}
"""Vectors that need parts which published weights lack -> settings that add them."""
UNTRAINED: Mapping[str, Callable[[Mapping[str, Any], int], dict[str, torch.Tensor]]] = {
    "scbert": scbert.untrained,
}
"""First weights of such parts, by settings and seed."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded model of any family, with its header."""

    header: ModelHeader
    cells: CellModel
    hash: str
    """SHA-256 of the weights file, the first 16 hexadecimal digits."""
    options: ModelOptions = field(default_factory=ModelOptions)
    """How vectors are made; what is not given is the family's own."""

    @property
    def identity(self) -> dict[str, str]:
        """All of a model's files that can change a vector: weights, gene table and configuration.

        The options of a call (pool, layer, depth) are not in it.
        """
        header = self.header
        return {
            "model": self.hash,
            "gene_table": header.table.hash,
            "model_config": header.config_hash,
        }


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What turns counts into a model's tokens."""

    tokenize: Tokenize
    front: tuple[int, ...] = ()
    back: tuple[int, ...] = ()
    about: dict[str, Any]
    """What the tokens mean."""


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """A model directory without its weights."""

    name: str
    directory: Path
    family: str
    table: GeneTable
    provenance: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    """Configuration of a family with a network of its own."""
    vector: ModelOptions = field(default_factory=ModelOptions)
    """How vectors are made where nothing else is said: what is not given is the family's own."""
    untrained: int | None = None
    """Seed of the parts that `settings` add to the network and that the weights lack."""

    @cached_property
    def config_hash(self) -> str:
        """`hash_settings` of all that ``config.json`` says of how vectors are made."""
        vector = given_options(self.vector)
        told = {"family": self.family, "settings": self.settings}
        return hash_settings(told | ({"vector": vector} if vector else {}))

    @property
    def pools(self) -> tuple[str, ...]:
        """Ways to make a cell's vector, for which the model has all parts."""
        return tuple(pool for pool in FAMILIES[self.family].POOLS if not self._lacks(pool))

    def map_genes(
        self,
        var: pd.DataFrame,
        *,
        gene_key: str | None = None,
        species: Species = "human",
        cells: Callable[[], Iterable[str]] | None = None,
        name: str = "input",
    ) -> GeneMap:
        """Find the token of each column of a file, by the symbols that the family publishes.

        Raises
        ------
        InputError
            See `symbols.map_symbols`.
        """
        return map_symbols(
            var, self.table, gene_key=gene_key, species=species, cells=cells, name=name
        )

    def load(self, options: ModelOptions | None = None) -> Opened:
        """Load the weights, on the CPU in float32.

        Raises
        ------
        InputError
            Weights missing or damaged; an option that the family does not have.
        """
        from cellscribe.model.weights import read_weights

        weights, digest = read_weights(self.directory)
        if self.untrained is not None:
            weights = {**weights, **UNTRAINED[self.family](self.settings, self.untrained)}
        chosen = replace(self.vector, **given_options(options or ModelOptions()))
        cells = NETWORKS[self.family].load(self.settings, weights, self.table, chosen)
        return Opened(header=self, cells=cells, hash=digest, options=chosen)

    def to_train(self, options: ModelOptions, seed: int) -> ModelHeader:
        """Add what a vector of these options needs and the weights lack, as it begins."""
        pool = options.pool or self.vector.pool
        if not self._lacks(pool):
            return self
        settings = BEGINNINGS[self.family, pool](self.settings)
        return replace(self, settings=settings, untrained=seed)

    def _lacks(self, pool: str | None) -> bool:
        """Whether the weights lack parts that a vector needs."""
        add = BEGINNINGS.get((self.family, pool))
        return add is not None and add(self.settings) != self.settings

    def tokenizer(self) -> Tokenizer:
        """Load the model for its tokeniser.

        Raises
        ------
        InputError
            See `load`.
        """
        about = {"family": self.family, "vocabulary_hash": self.table.hash}
        return Tokenizer(tokenize=self.load().cells.tokenize, about=about)


@dataclass(frozen=True, kw_only=True)
class RankedHeader(Header, ModelHeader):
    """A model directory of a BERT that reads ranked genes, without its weights."""

    @property
    def pools(self) -> tuple[str, ...]:
        """Ways to make a cell's vector."""
        return pools_of(self.config)

    def map_genes(
        self,
        var: pd.DataFrame,
        *,
        gene_key: str | None = None,
        species: Species = "human",
        cells: Callable[[], Iterable[str]] | None = None,
        name: str = "input",
    ) -> GeneMap:
        """Find the token of each column of a file, by Ensembl id, symbol or alias.

        Raises
        ------
        InputError
            See `cells.genes.map_genes`.
        """
        return map_genes(
            var, self.table, gene_key=gene_key, species=species, cells=cells, name=name
        )

    def load(self, options: ModelOptions | None = None) -> Opened:
        """Load the weights, on the CPU in float32.

        Raises
        ------
        InputError
            Weights missing or damaged; a pool or layer that the model does not have.
        """
        from cellscribe.families.bert.model import Bert
        from cellscribe.model.checkpoint import load_checkpoint

        checkpoint, options = load_checkpoint(self), options or ModelOptions()
        cells = Bert(checkpoint, options)
        chosen = ModelOptions(**given_options(options))
        return Opened(header=self, cells=cells, hash=checkpoint.hash, options=chosen)

    def tokenizer(self) -> Tokenizer:
        """Make the tokeniser, which needs neither the weights nor torch."""
        config = self.config
        front, back = self.table.around(config.cls_token, config.sep_token)
        about = {
            "family": self.family,
            "vocabulary_hash": self.table.hash,
            "context": config.context,
            "cls_token": config.cls_token,
        }
        tokenize = ranker(self.table.medians, config.context)
        return Tokenizer(tokenize=tokenize, front=front, back=back, about=about)


def family_module(family: str) -> Family:
    """Module of a family that can be imported."""
    return FAMILIES[family]


def read_model(name: str | Path | ModelHeader) -> ModelHeader:
    """Read config and gene table of a model of any family, without torch.

    Parameters
    ----------
    name
        A model directory, the name of a bundled model, or a header, which is returned as it is.

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
        return RankedHeader.from_config(directory, data)
    if family not in NETWORKS:
        raise InputError(
            f"{directory}: a model of the family {family!r}, which this version does not know "
            f"(known: {', '.join((BERTS[0], *FAMILIES))}); update cellscribe"
        )
    kind, where = NETWORKS[family].CONFIG, f"{directory / 'config.json'}: settings"
    names = [each.name for each in fields(kind) if not each.metadata.get("later")]
    stated = own.get("settings", {})
    checked = asdict(from_mapping(kind, stated, where, needed=names))
    table = GeneTable.read(directory / "genes.tsv")
    check_tables(directory)
    return ModelHeader(
        name=name_of_model(directory),
        directory=directory,
        family=family,
        table=table,
        provenance=own["provenance"],
        settings={name: checked[name] for name in stated},
        vector=from_mapping(
            ModelOptions, own.get("vector", {}), f"{directory / 'config.json'}: vector"
        ),
    )


def given_options(options: ModelOptions) -> dict[str, Any]:
    """Options that differ from what a family publishes, by name; `options` may have others too."""
    names = [each.name for each in fields(ModelOptions)]
    return {name: found for name in names if (found := getattr(options, name)) is not None}


def open_model(name: str | Path | ModelHeader, options: ModelOptions | None = None) -> Opened:
    """Load a model of any family, on the CPU in float32.

    Parameters
    ----------
    name
        As for `read_model`; of a header only the weights are still read.
    options
        Pool, layer and depth, where they differ from the published ones.

    Raises
    ------
    InputError
        See `read_model` and `ModelHeader.load`.
    """
    return read_model(name).load(options)


def open_tokenizer(header: ModelHeader) -> Tokenizer:
    """Make the tokeniser of a model of any family; see `ModelHeader.tokenizer`."""
    return header.tokenizer()
