"""Models that are evaluated: loaded at first use, their vectors computed once and kept on disk.

Each model is compared with its random twin: the same network, tokens and pooling, with random
weights. The figures of the twin are what architecture and tokens give without any training.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.config import EvaluateOptions, ModelOptions
from cellscribe.errors import InputError
from cellscribe.evaluation.scores import Kind
from cellscribe.families.base import copy_of
from cellscribe.families.named import local_model
from cellscribe.families.registry import ModelHeader, RankedHeader, read_model
from cellscribe.training.runs import HEADER
from cellscribe.writing import writing

if TYPE_CHECKING:
    import torch

    from cellscribe.evaluation.data import Cells
    from cellscribe.inference.embedder import Embedder
    from cellscribe.inference.gene_vectors import GeneVectors

RANDOM = "random weights"
SPREAD = 0.02
"""Standard deviation of random weights: BERT's."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a model or a baseline, for one case."""

    name: str
    kind: Kind
    predict: Callable[[], Any]
    """Makes what the task's `score` takes; called once for all seeds."""
    model: Model | None = None
    """The model, where the method is one."""
    fitted: str | None = None
    """Fingerprint of what a baseline brings with it, where it is not fitted on the cells."""


@dataclass(eq=False)
class Model:
    """A model, or its random twin."""

    name: str
    """Name of its rows in tables."""
    path: str
    """Name or directory for `load`."""
    header: ModelHeader
    options: EvaluateOptions
    random: bool = False
    cache: Path | None = None
    """Folder of vectors."""
    run: Path | None = None
    """Folder of the training run, where a run was given; None for a twin."""
    loaded: Embedder | None = None
    """The model itself, where a loaded one was given; for a twin, the model it is made from."""
    _genes: dict[str, GeneVectors] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Kind of its rows."""
        return "random" if self.random else "model"

    def row(self, predict: Callable[[], Any]) -> Method:
        """Return its row of a table."""
        return Method(name=self.name, kind=self.kind, predict=predict, model=self)

    @property
    def has_gene_vectors(self) -> bool:
        """Whether its family has vectors of genes."""
        from cellscribe.families.base import GeneModel

        return isinstance(self.embedder.cells, GeneModel)

    @property
    def device_settings(self) -> dict[str, Any]:
        """Device, precision and threads for `load`."""
        given: EvaluateOptions | Embedder = self.loaded or self.options
        return {
            "device": str(given.device),
            "precision": given.precision,
            "threads": given.threads,
        }

    @cached_property
    def embedder(self) -> Embedder:
        """The loaded model."""
        from cellscribe.inference.embedder import load

        if self.loaded is None:
            found = load(self.path, **self.device_settings, options=model_options(self.options))
        elif self.random:
            # a copy: the directory does not know the pooling that the loaded model has
            found = copy.copy(self.loaded)
            found.cells = copy_of(self.loaded.cells)
        else:
            return self.loaded
        if self.random:
            randomise(found.cells.network, seed=self.options.seed)
        return found

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of the model in a result's file. JSON."""
        import torch

        embedder = self.embedder
        return {
            "name": self.header.name,
            "family": self.header.family,
            "hash": embedder.hash,
            "config": self.header.config_hash,
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
        """16 hexadecimal digits of all that decides the vectors except the cells."""
        facts = self.facts
        # the same weights give other vectors with another configuration, pooling or gene table
        decisive = ("hash", "config", "pooling", "genes", "random", "precision")
        parts = [facts[name] for name in decisive]
        chosen = model_options(self.options)
        if chosen != ModelOptions():  # results without these options keep their fingerprint
            parts.append(dataclasses.asdict(chosen))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def vectors(self, cells: Cells) -> npt.NDArray[np.float32]:
        """Return vectors of cells, ``[B, D]``; computed once, then read from `cache`."""
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
        vectors = self.embedder.embed(cells.open(), gene_key=cells.gene_key, species=cells.species)
        return vectors.astype(np.float32, copy=False)

    def gene_vectors(self, cells: Cells) -> GeneVectors:
        """Return the mean contextual vector of each gene over cells; computed once, then read.

        Raises
        ------
        InputError
            The model's family has no vectors of genes.
        """
        from cellscribe.inference.gene_vectors import GeneVectors, gene_vectors

        if cells.hash in self._genes:
            return self._genes[cells.hash]
        path = self.cache and self.cache / f"{self.fingerprint}-{cells.hash}-genes.npz"
        if path and path.exists():
            with np.load(path, allow_pickle=False) as kept:
                found = GeneVectors(**{name: kept[name] for name in kept.files})
        else:
            with cells.open() as counts:
                genes = self.header.map_genes(
                    counts.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
                )
                found = gene_vectors(self.embedder, counts, genes)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                with writing(path) as partial, partial.open("wb") as file:
                    np.savez(file, **vars(found))
        self._genes[cells.hash] = found
        return found


def model_options(options: EvaluateOptions) -> ModelOptions:
    """Return the fields of `options` that say how a model makes vectors."""
    names = [field.name for field in dataclasses.fields(ModelOptions)]
    return ModelOptions(**{name: getattr(options, name, None) for name in names})


def read_models(
    models: Sequence[str | Path | Embedder], options: EvaluateOptions, cache: Path | None = None
) -> list[Model]:
    """Read the headers of models, and add a random twin for every shape of network.

    Parameters
    ----------
    models
        Names of bundled models, checkpoint directories, folders of training runs, or loaded models.
        A loaded model is used as it is, with its own device, precision and pooling.
    options
        Device, precision and pooling of the models that are not loaded yet; seed of the twins.
    cache
        Folder where vectors are kept.

    Raises
    ------
    InputError
        No such model, a run without a model so far, a model that is given twice, or a pooling for a
        model that is loaded already.
    """
    found: list[Model] = []
    for each in models:
        model = _read(each, options, cache)
        if any(other.name == model.name for other in found):
            model.name = str(each) if isinstance(each, str | Path) else model.path
        there = [other.header.directory.resolve() for other in found]
        if model.header.directory.resolve() in there:
            given = each if isinstance(each, str | Path) else model.path
            raise InputError(f"{given} is given twice; name each model once")
        found.append(model)
    twins: dict[tuple[str, ...], Model] = {}
    for model in found:
        pooling = "" if model.loaded is None else model.loaded.pooling
        header = model.header
        network = header.config if isinstance(header, RankedHeader) else header.settings
        table = getattr(header.table, "hash", model.name)
        shape = (header.family, repr(network), table, pooling)
        if shape not in twins:
            twins[shape] = Model(
                name=f"{model.name}, {RANDOM}", path=model.path, header=model.header,
                options=options, random=True, cache=cache, loaded=model.loaded,
            )  # fmt: skip
    return [*found, *twins.values()]


def _read(model: str | Path | Embedder, options: EvaluateOptions, cache: Path | None) -> Model:
    """Read the header of a model, or take that of a loaded one."""
    if isinstance(model, str | Path):
        model = local_model(model)
        header = read_model(model)
        run = Path(model) if (Path(model) / HEADER).is_file() else None
        path = str(model if run is None else header.directory)
        return Model(
            name=header.name, path=path, header=header, options=options, cache=cache, run=run
        )
    header = model.header
    chosen = [name for name, value in vars(model_options(options)).items() if value is not None]
    if chosen:
        raise InputError(
            f"{header.name} is loaded already, so that {', '.join(chosen)} cannot be chosen; give "
            "its name or directory, or load it that way"
        )
    return Model(
        name=header.name, path=str(header.directory), header=header, options=options, cache=cache,
        loaded=model,
    )  # fmt: skip


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Replace all weights of a network by random ones, as `model.encoder.initialise` draws them.

    Matrices are normal with a standard deviation of `SPREAD`, vectors of weights 1, biases 0.
    Buffers (a Performer's projection, positions in a table) stay as they are.
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
