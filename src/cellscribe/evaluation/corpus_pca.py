"""The baseline that a fixed map of cells should beat: a PCA of its own training corpus.

A PCA of the evaluated file has seen the very cells; a model has not. Principal components that were
fitted on the model's training corpus, and are applied as they are, know what the model could know.
Models that were trained with the second objective carry them (`corpus.components`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from cellscribe.corpus.components import COMPONENTS, Components, read_components
from cellscribe.errors import InputError
from cellscribe.evaluation.models import Method
from cellscribe.model.checksums import check_sum

if TYPE_CHECKING:
    from cellscribe.evaluation.data import Cells
    from cellscribe.evaluation.models import Model

AXES = 50
"""Most components of a row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorpusPca:
    """Principal components of a model's training corpus."""

    model: Model
    components: Components

    @property
    def name(self) -> str:
        """Name of its row."""
        axes = min(AXES, len(self.components.spread))
        return f"log-norm PCA-{axes} of the training corpus of {self.model.name}"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of all that decides the scores except the cells."""
        parts = [self.model.header.table.hash.encode()]
        parts += [part.tobytes() for part in vars(self.components).values()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def scores(self, cells: Cells) -> npt.NDArray[np.float64]:
        """Project cells, ``[B, AXES]``."""
        genes = self.model.header.map_genes(
            cells.var, gene_key=cells.gene_key, species=cells.species, name=cells.name
        )
        known = np.flatnonzero(genes.token >= 0)
        shape = (cells.counts.shape[1], len(self.model.header.table))
        to_tokens = csr_matrix((np.ones(len(known)), (known, genes.token[known])), shape=shape)
        scores = self.components.scores((cells.counts @ to_tokens).tocsr())
        return scores[:, :AXES].astype(np.float64)


def components_of(model: Model) -> Components | None:
    """Read the components that lie next to a model's weights; None if it has none.

    Raises
    ------
    InputError
        The file is damaged, or of another gene table.
    """
    path = model.header.directory / COMPONENTS
    found = read_components(model.header.directory)
    if found is None:
        return None
    if found.tokens[-1] >= len(model.header.table):
        raise InputError(
            f"{path}: has token {found.tokens[-1]:,}, the gene table only "
            f"{len(model.header.table):,}; copy the whole model folder again"
        )
    check_sum(path)
    return found


def corpus_rows(
    models: Sequence[Model], predict: Callable[[CorpusPca], Any], more: str = ""
) -> list[Method]:
    """Return a row of a table for each model that carries its corpus's components.

    Parameters
    ----------
    models
        Of the case.
    predict
        Makes what the task's `score` takes.
    more
        Added to the name: what follows the components.

    Raises
    ------
    InputError
        A model's components are damaged.
    """
    return [
        Method(
            name=pca.name + more,
            kind="baseline",
            predict=partial(predict, pca),
            fitted=pca.fingerprint,
        )
        for pca in corpus_pcas(models)
    ]


def corpus_pcas(models: Sequence[Model]) -> list[CorpusPca]:
    """Read the components of each model's training corpus, of models that carry them.

    Raises
    ------
    InputError
        A model's components are damaged.
    """
    found = []
    for model in models:
        components = None if model.random else components_of(model)
        if components is not None:
            found.append(CorpusPca(model=model, components=components))
    return found
