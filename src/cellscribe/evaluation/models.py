"""Models under judgement: loaded when first asked, their vectors made once and kept on disk.

Beside every model stands its twin of random weights: the same network, tokens and pooling, told
nothing. What the twin reaches, the architecture and the way of reading a cell give for nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.config import EvaluateOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.task import Kind, Method
from cellscribe.families.registry import ModelHeader, RankedHeader, read_model
from cellscribe.training.runs import HEADER, MODEL
from cellscribe.writing import writing

if TYPE_CHECKING:
    import torch

    from cellscribe.evaluation.data import Cells
    from cellscribe.inference.embedder import Embedder
    from cellscribe.inference.gene_vectors import GeneVectors

RANDOM = "random weights"
SPREAD = 0.02
"""Standard deviation of random weights: BERT's."""


@dataclass(eq=False)
class Model:
    """A model, or the twin of one."""

    name: str
    """As rows of tables call it."""
    path: str
    """What to load."""
    header: ModelHeader
    options: EvaluateOptions
    random: bool = False
    cache: Path | None = None
    """Folder of vectors."""
    run: Path | None = None
    """Folder of the training run that it comes from, where a run was named; a twin has none."""
    _genes: dict[str, GeneVectors] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Of its rows."""
        return "random" if self.random else "model"

    def row(self, answer: Callable[[], Any]) -> Method:
        """Its row of a table."""
        return Method(name=self.name, kind=self.kind, answer=answer, model=self)

    @property
    def has_gene_vectors(self) -> bool:
        """Whether its family has vectors of genes."""
        from cellscribe.families.base import GeneModel

        return isinstance(self.embedder.cells, GeneModel)

    @cached_property
    def embedder(self) -> Embedder:
        """The loaded model."""
        from cellscribe.inference.embedder import load

        options = self.options
        found = load(
            self.path, device=options.device, precision=options.precision, threads=options.threads
        )
        if self.random:
            randomise(found.cells.network, seed=options.seed)
        return found

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a result tells of the model. JSON."""
        import torch

        embedder = self.embedder
        return {
            "name": self.header.name,
            "family": self.header.family,
            "hash": embedder.hash,
            "parameters": sum(p.numel() for p in embedder.cells.network.parameters()),
            "pooling": embedder.pooling,
            "genes": self.header.table.hash,
            "random": self.options.seed if self.random else None,
            "precision": embedder.precision,
            "device": embedder.device.type,
            "torch": torch.__version__,
        }

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name all that decides vectors, but for the cells."""
        facts = self.facts
        # the same weights give other vectors where a cell is read otherwise
        told = [facts[name] for name in ("hash", "pooling", "genes", "random", "precision")]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def vectors(self, cells: Cells) -> npt.NDArray[np.float32]:
        """``[B, D]`` vectors of cells; computed once, then read from `cache`."""
        if self.cache is None:
            return self._embed(cells)
        path = self.cache / f"{self.fingerprint}-{cells.hash}.npy"
        if path.exists():
            return np.load(path, allow_pickle=False)
        vectors = self._embed(cells)
        self.cache.mkdir(parents=True, exist_ok=True)
        with writing(path) as partial, partial.open("wb") as file:
            np.save(file, vectors)
        return vectors

    def _embed(self, cells: Cells) -> npt.NDArray[np.float32]:
        vectors = self.embedder.embed(cells.adata, gene_key=cells.gene_key)
        return vectors.astype(np.float32, copy=False)

    def gene_vectors(self, cells: Cells) -> GeneVectors:
        """Mean contextual vector of each gene over cells, see `inference.genes`; kept likewise.

        Raises
        ------
        InputError
            The model's family has no vectors of genes.
        """
        from cellscribe.cells.counts import open_counts
        from cellscribe.inference.gene_vectors import GeneVectors, gene_vectors

        if cells.hash in self._genes:
            return self._genes[cells.hash]
        path = self.cache and self.cache / f"{self.fingerprint}-{cells.hash}-genes.npz"
        if path and path.exists():
            with np.load(path, allow_pickle=False) as kept:
                found = GeneVectors(**{name: kept[name] for name in kept.files})
        else:
            with open_counts(cells.adata) as counts:
                genes = self.header.map_genes(counts.var, gene_key=cells.gene_key, name=cells.name)
                found = gene_vectors(self.embedder, counts, genes)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                with writing(path) as partial, partial.open("wb") as file:
                    np.savez(file, **vars(found))
        self._genes[cells.hash] = found
        return found


def read_models(
    paths: Sequence[str | Path], options: EvaluateOptions, cache: Path | None = None
) -> list[Model]:
    """Read the headers of models, and add a twin of random weights for every shape.

    Raises
    ------
    InputError
        No such model, a run that has none yet, or two of one name.
    """
    models: list[Model] = []
    for path in paths:
        run = _run_folder(path)
        inside = path if run is None else run / MODEL
        header = read_model(inside)
        name = header.name if run is None else run.resolve().name
        if any(model.name == name for model in models):
            name = str(path)
        there = [model.header.directory.resolve() for model in models]
        if header.directory.resolve() in there:
            raise InputError(f"{path} is given twice; name each model once")
        models.append(
            Model(name=name, path=str(inside), header=header, options=options, cache=cache, run=run)
        )
    twins: dict[tuple[str, str, str], Model] = {}
    for model in models:
        header = model.header
        of_network = header.config if isinstance(header, RankedHeader) else header.settings
        shape = (header.family, repr(of_network), getattr(header.table, "hash", model.name))
        if shape not in twins:
            twins[shape] = Model(
                name=f"{model.name}, {RANDOM}", path=model.path, header=model.header,
                options=options, random=True, cache=cache,
            )  # fmt: skip
    return [*models, *twins.values()]


def _run_folder(path: str | Path) -> Path | None:
    """The path, if it is the folder of a training run."""
    folder = Path(path)
    if not (folder / HEADER).is_file():
        return None
    if not (folder / MODEL).is_dir():
        raise InputError(f"{folder}: the run has no model yet; let it end, or resume it")
    return folder


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Draw all weights of a network anew, as `model.encoder.initialise` does, in place.

    Matrices are normal with a deviation of `SPREAD`, vectors of weights 1, biases 0; buffers (a
    Performer's projection, positions in a table) stay.
    """
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                drawn = torch.empty(parameter.shape).normal_(0.0, SPREAD, generator=generator)
                parameter.copy_(drawn)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
