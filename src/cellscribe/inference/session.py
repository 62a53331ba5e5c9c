"""What a verb begins with: a model, opened cells and a device, each read once.

The header is read at once, the weights when they are first needed: all that can be refused without
torch is refused before it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, log_stderr
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.readers.token_source import Expected, TokenCells, is_tokens, token_map
from cellscribe.config import (
    CountsKind,
    DeviceOptions,
    InputOptions,
    ModelOptions,
    Options,
    Species,
)
from cellscribe.errors import InputError
from cellscribe.families.named import local_model
from cellscribe.families.registry import NETWORKS, ModelHeader, read_model

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.families.registry import Tokenizer
    from cellscribe.inference.embedder import Embedder

DEFAULT_MODEL = "mini"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Opened counts, and the token of each of their columns."""

    counts: Counts
    genes: GeneMap


class Session:
    """A model and the options of a run; from `open_session`.

    Attributes
    ----------
    header
        Name, family and gene table of the model.
    options
        Options of the verb.
    log
        Called with each line that a user should read.
    """

    def __init__(
        self,
        model: str | Path | Embedder,
        options: Options,
        *,
        log: Log = log_stderr,
        stack: ExitStack,
    ) -> None:
        self.options, self.log, self._stack = options, log, stack
        self._embedder: Embedder | None = None
        if isinstance(model, str | Path):
            self.header: ModelHeader = read_model(model)
        else:
            self._embedder = check_loaded(model, options)
            self.header = model.header

    def open(
        self,
        source: str | Path | AnnData | Counts,
        *,
        layer: str | None = None,
        gene_key: str | None = None,
    ) -> Cells:
        """Open cells for the length of the session, and look up their genes.

        Parameters
        ----------
        source
            As for `open_counts`.
        layer, gene_key
            In place of the options of the verb.

        Raises
        ------
        InputError
            Bad input, see `open_counts` and `ModelHeader.map_genes`.
        """
        if gene_key is None and isinstance(self.options, InputOptions):
            gene_key = self.options.gene_key
        return self.map_genes(self.open_counts(source, layer=layer), gene_key)

    def open_counts(
        self, source: str | Path | AnnData | Counts, *, layer: str | None = None
    ) -> Counts:
        """Open cells for the length of the session; no gene is looked up yet."""
        options = part_of(InputOptions, self.options)
        if layer is not None:
            # a reference, and not the file that the options tell of
            options = replace(options, modality=None, table=None)
        opened = open_counts(source, options=options, layer=layer, log=self.log)
        return self._stack.enter_context(opened)

    def open_cells(self, source: str | Path | AnnData | Counts) -> Counts:
        """Open cells that are to be embedded, which may come as tokens.

        Raises
        ------
        InputError
            As `open_counts`; tokens of another model, or options that say where counts are.
        """
        if not is_tokens(source):
            return self.open_counts(source)
        path = Path(source)  # type: ignore[arg-type]
        for field in fields(InputOptions):
            if getattr(self.options, field.name, field.default) != field.default:
                flag = field.name.replace("_", "-")
                raise InputError(f"{path} holds tokens and no counts; leave --{flag} out")
        return self._stack.enter_context(TokenCells(path, self._expected_tokens(), log=self.log))

    def _expected_tokens(self) -> Expected:
        """What tokens have to be for this model."""
        header, table = self.header, self.header.table
        if header.family in NETWORKS:
            about = {"family": header.family, "vocabulary_hash": table.hash}
            return Expected(about=about, n_tokens=len(table), context=None)
        tokenizer = header.tokenizer()
        return Expected(
            about=tokenizer.about,
            n_tokens=len(table),
            n_special=table.n_special,
            front=tokenizer.front,
            back=tokenizer.back,
            context=self.embedder.context,
        )

    def map_genes(
        self, counts: Counts, gene_key: str | None = None, *, species: Species | None = None
    ) -> Cells:
        """Look up the genes of opened counts; of tokens there is nothing to look up.

        `species` stands in for that of the verb's options.
        """
        if isinstance(counts, TokenCells):
            return Cells(counts=counts, genes=token_map(len(self.header.table)))
        genes = self.header.map_genes(
            counts.var,
            gene_key=gene_key,
            species=species or part_of(InputOptions, self.options).species,
            cells=counts.cell_names,
            name=counts.name,
        )
        return Cells(counts=counts, genes=genes)

    def tokenizer(self, counts: CountsKind) -> Tokenizer:
        """Make the model's tokeniser, for tokens that are written cell by cell.

        Raises
        ------
        InputError
            A cell's tokens depend on the other cells of the file.
        """
        if counts == "tpm" and self.header.family == "scfoundation":
            raise InputError(
                f"{self.header.name}: its rule for bulk samples depends on all samples, so that "
                "their tokens cannot be written one by one; give raw counts, or embed them"
            )
        return self.header.tokenizer()

    @property
    def embedder(self) -> Embedder:
        """The loaded model; read on first use.

        Raises
        ------
        InputError
            See `load`.
        """
        if self._embedder is None:
            from cellscribe.inference.embedder import load

            device = part_of(DeviceOptions, self.options)
            self._embedder = load(
                self.header,
                device=device.device,
                precision=device.precision,
                threads=device.threads,
                options=part_of(ModelOptions, self.options),
            )
            if self._embedder.note:
                self.log(self._embedder.note)
        return self._embedder

    def about(self, cells: Cells, **more: Any) -> dict[str, Any]:
        """Provenance of what this session makes of `cells`: the same keys whoever calls.

        Parameters
        ----------
        cells
            The input.
        **more
            What the verb adds.
        """
        counts, genes, embedder = cells.counts, cells.genes, self.embedder
        known = {"n_genes": genes.n_genes, "n_genes_known": genes.n_known}
        return {
            "cellscribe": metadata.version("cellscribe"),
            "model": self.header.name,
            "model_hash": embedder.hash,
            "vocabulary_hash": self.header.table.hash,
            "pooling": embedder.pooling,
            "context": embedder.context,
            "precision": embedder.precision,
            "device": embedder.device.type,
            "source": Path(counts.name).name,
            "layer": counts.layer,
            "counts": counts.kind,
            "gene_key": genes.key,
            "species": genes.species,
            "n_cells": counts.n_cells,
            **({} if isinstance(counts, TokenCells) else known),
            **more,
        }


@contextmanager
def open_session(
    model: str | Path | Embedder | None, options: Options, *, log: Log = log_stderr
) -> Iterator[Session]:
    """Open a session; the files that it opens are closed at its end.

    Parameters
    ----------
    model
        A bundled model's name, a checkpoint directory or a loaded model; None for the one that
        `options` name.
    options
        Options of the verb.
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        Unknown or damaged model; a model given twice; options that a loaded model cannot follow.
    """
    with ExitStack() as stack:
        yield Session(choose_model(model, options), options, log=log, stack=stack)


def choose_model(model: str | Path | Embedder | None, options: Options) -> str | Path | Embedder:
    """The model of a call, given by itself or in the options.

    Raises
    ------
    InputError
        It is given in both, or is no model.
    """
    named: str = getattr(options, "model", DEFAULT_MODEL)
    if model is None:
        return local_model(named)
    if named != DEFAULT_MODEL:
        raise InputError(
            f"a model is given by itself and in options ({named!r}); leave one of them out"
        )
    if isinstance(model, str | Path):
        return local_model(model)
    if hasattr(model, "header"):
        return model
    raise InputError(
        f"model must be a name, a path or a loaded model (cellscribe.load), not a "
        f"{type(model).__name__}"
    )


def checkpoint_path(model: str | Path | Embedder) -> str | Path:
    """Name or directory of a model that may be loaded."""
    chosen = choose_model(model, Options())
    return chosen if isinstance(chosen, str | Path) else chosen.header.directory


def check_loaded(model: Embedder, options: Options) -> Embedder:
    """Refuse options that say again what was settled when the model was loaded."""
    for kind in (DeviceOptions, ModelOptions):
        if not isinstance(options, kind):
            continue
        for field in fields(kind):
            if getattr(options, field.name) != field.default:
                raise InputError(
                    f"{field.name} is settled when a model is loaded; give it to cellscribe.load, "
                    "or give the model's name here"
                )
    return model


def part_of(kind: type[Any], options: Options) -> Any:
    """The fields of `kind` in options that inherit it, else its defaults."""
    if not isinstance(options, kind):
        return kind()
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})
