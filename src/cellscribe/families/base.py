"""What a family gives: a published checkpoint, read, and a loaded model that embeds.

A family is a module, ``families/NAME/checkpoint.py``, that has what `Family` lists. A family with a
network of its own also has what `NetworkFamily` adds; the others become a BERT of our own.

Letters: ``B`` cells, ``G`` columns of the file, ``D`` width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cellscribe.cells.gene_names.vocabulary import GeneTable, Vocabulary
from cellscribe.cells.tokens import CellTokens, Tokenize
from cellscribe.config import ImportOptions, ModelConfig, ModelOptions, Pooling
from cellscribe.errors import InputError
from cellscribe.families.source import Source

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

    from cellscribe.cells.counts import Counts
    from cellscribe.cells.gene_names.genes import GeneMap


@dataclass(frozen=True, kw_only=True)
class PublishedHead:
    """Classifier of a published fine-tune: linear in the vector that its network makes."""

    of: Literal["cells", "genes"]
    labels: list[str]
    weight: torch.Tensor
    """``[C, D]`` float32."""
    bias: torch.Tensor
    """``[C]`` float32."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint, read and checked."""

    family: str
    """Key of `registry.FAMILIES`."""
    title: str
    """One line that describes it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Configuration of a family with a network of its own, as JSON holds it."""
    tensors: dict[str, torch.Tensor]
    """Weights, float32, under the names that the loader of the family reads."""
    table: GeneTable
    """Genes in token order."""
    licence: str
    """Licence of the weights, as far as it is stated."""
    origin: str
    """Publisher and address."""
    notes: tuple[str, ...] = ()
    """Facts that a user must know."""
    texts: dict[str, str] = field(default_factory=dict)
    """Further files of the checkpoint directory, by name."""
    head: PublishedHead | None = None
    """Of a fine-tuned classifier; its vector is the one that the model makes by default."""
    vector: dict[str, Any] = field(default_factory=dict)
    """How a network of its own makes vectors, where it is not the first of `Family.POOLS`."""


@dataclass(frozen=True, kw_only=True)
class PublishedBert(Published):
    """A published BERT of ranked genes, which becomes one of our own."""

    table: Vocabulary
    """Genes in token order, with the medians that scale them."""
    config: ModelConfig
    pooling: Pooling
    """Where a cell's vector is read, as published."""


class Family(Protocol):
    """Module that reads the published checkpoints of a family."""

    @property
    def WANTS(self) -> str:
        """What the checkpoints consist of, for messages."""
        ...

    @property
    def POOLS(self) -> Mapping[str, str]:
        """Ways to make a cell's vector, each with its sentence, the published one first."""
        ...

    def recognise(self, source: Source) -> bool:
        """Whether a folder or file looks like one of the family's checkpoints."""
        ...

    def read_published(self, source: Source, options: ImportOptions) -> Published:
        """Read and check a published checkpoint."""
        ...


class NetworkFamily(Family, Protocol):
    """Module of a family with a network of its own."""

    @property
    def CONFIG(self) -> type[Any]:
        """Dataclass of what `Published.settings` holds; it checks its own fields."""
        ...

    def load(
        self,
        settings: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        table: GeneTable,
        options: ModelOptions,
    ) -> CellModel:
        """Make a model of what `read_published` gave."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainedParts:
    """Parts of a network that fine-tuning tells apart; what the vector does not use is in none."""

    blocks: Sequence[torch.nn.Module]
    """Those that the vector goes through, in their order."""
    closing: Sequence[torch.nn.Module] = ()
    """Norms after the blocks, trained with the last ones."""
    vector: Sequence[torch.nn.Module] = ()
    """Layers of their own that make the vector, trained in every mode."""
    adapted: tuple[str, ...]
    """Names of a block's linear layers that get an adapter."""
    fixed: Sequence[torch.Tensor] = ()
    """Never trained, as published."""


class CellModel(Protocol):
    """A loaded model of any family: counts to tokens, tokens to vectors."""

    width: int
    """``D``, the length of a vector."""
    context: int
    """Largest number of genes of a cell that are read."""
    pooling: str
    """How a vector is made, in words."""

    reads_subsets: bool
    """Whether a cell may be read by some of its genes, see `forward`."""
    network: Any
    """The `torch.nn.Module`, in evaluation mode."""

    def tokenize(self, block: csr_matrix, token_of_column: npt.NDArray[np.int32]) -> CellTokens:
        """Tokens of each cell of raw counts ``[B, G]``; a cell without a known gene has none."""
        ...

    def places(self, cells: CellTokens) -> npt.NDArray[np.int64]:
        """Number of places of each cell in the network, ``[B]``, 0 for a cell without tokens."""
        ...

    def embed(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Vectors of some cells, none of them empty, ``[len(rows), D]`` float32."""
        ...

    def forward(
        self,
        cells: CellTokens,
        rows: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> torch.Tensor:
        """Vectors as `embed` makes them, differentiably.

        Parameters
        ----------
        cells, rows
            As for `embed`.
        places
            Of each of `rows`, the places of the tokens that are read, ascending; all if not given.
            Only where `reads_subsets`.
        """
        ...

    def trained_parts(self) -> TrainedParts:
        """Tell apart the parts of the network that fine-tuning trains."""
        ...

    def stored(self) -> dict[str, torch.Tensor]:
        """Tensors of the network as it now is, by their names in a model directory."""
        ...


@runtime_checkable
class GeneModel(Protocol):
    """A model that also has vectors of the genes of a cell."""

    gene_width: int
    """Length of a gene's vector."""

    def gene_vectors(
        self, cells: CellTokens, rows: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Genes of some cells, none of them empty, and their vectors in those cells.

        Returns
        -------
        tokens
            ``[M]`` int64, of all these cells together.
        vectors
            ``[M, gene_width]`` float32.
        """
        ...


@runtime_checkable
class ExpressionModel(Protocol):
    """A model that predicts expression values."""

    def expression(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Expression of every gene of the table in some cells, ``[len(rows), V]`` float32."""
        ...


@runtime_checkable
class ImportanceModel(Protocol):
    """A model that computes the share of attention that genes get."""

    def importance(self, cells: CellTokens, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Share of the attention in some cells that each gene gets, ``[len(rows), V]`` float32."""
        ...


@runtime_checkable
class BulkModel(Protocol):
    """A model that reads bulk samples in a way of its own."""

    bulk_rule: str
    """That way, in words."""

    def bulk_tokenizer(
        self, blocks: Iterable[csr_matrix], token_of_column: npt.NDArray[np.int32]
    ) -> Tokenize:
        """Make the tokeniser of bulk samples, which may depend on all `blocks` of them."""
        ...


def tokenizer_of(model: CellModel, counts: Counts, genes: GeneMap) -> Tokenize:
    """Return what makes a model's tokens of opened counts, by what the counts are."""
    if counts.kind != "tpm" or not isinstance(model, BulkModel):
        return model.tokenize
    counts.log(f"{counts.name}: {model.bulk_rule}")
    return model.bulk_tokenizer(counts.blocks(), genes.token)


def copy_of(model: CellModel) -> CellModel:
    """Copy a model, so that the network may be changed."""
    other = copy.copy(model)
    other.network = copy.deepcopy(model.network)
    return other


def check_options(
    options: ModelOptions, pools: Mapping[str, str], family: str, *, also: tuple[str, ...] = ()
) -> str:
    """Refuse options that a family does not have, and return the pool.

    Parameters
    ----------
    options
        Options of the user.
    pools
        The family's ``POOLS``, its default first.
    family
        Name of the family in messages.
    also
        Fields of `options` other than ``pool`` that the family has.

    Raises
    ------
    InputError
        Another pool, or an option of another family.
    """
    for name in ("hidden_layer", "target_depth"):
        if name not in also and getattr(options, name) is not None:
            flag = name.replace("_", "-")
            raise InputError(f"{family} has no --{flag}; leave it out")
    pool = options.pool or next(iter(pools))
    if pool not in pools:
        raise InputError(f"{family} has no --pool {pool}; it has {', '.join(pools)}")
    return pool


MOST = 1 << 20
"""Of any size of a network."""
