"""Start from another model's weights, on a corpus that may have another gene table.

Genes that both have keep their vectors and their bias; genes that the model lacks start as in any
new model; genes that the corpus lacks are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellscribe.cells.gene_names.vocabulary import ALSO_CALLED, Vocabulary
from cellscribe.config import ModelConfig
from cellscribe.errors import InputError
from cellscribe.families.named import local_model
from cellscribe.model.checkpoint import CELL_HEAD, Checkpoint, load_checkpoint
from cellscribe.model.encoder import MaskedGeneModel
from cellscribe.model.metadata import find_checkpoint

BY_GENE = ("encoder.genes.weight", "bias")
"""Parameters with one row per token."""
HEAD = ("transform", "bias")
"""Prefixes of the names of the masked-gene head's own parameters."""
FEWEST = 0.5
"""Smallest share of the corpus's genes that the model must have."""


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """A model to start from."""

    checkpoint: Checkpoint
    directory: Path
    rows: npt.NDArray[np.int64]
    """``[V]`` token in the model of each token of the corpus; -1 where it is new."""
    changed_medians: int
    """Number of genes that both have and whose medians differ by more than 1%."""

    @classmethod
    def read(cls, name: str | Path, vocabulary: Vocabulary) -> InitFrom:
        """Load a model and compare its genes with those of a corpus.

        Raises
        ------
        InputError
            There is no such model, or it has less than half of the corpus's genes.
        """
        directory = find_checkpoint(local_model(name))
        checkpoint = load_checkpoint(directory)
        theirs = {gene: token for token, gene in enumerate(checkpoint.vocabulary.ids)}
        for name, other in ALSO_CALLED.items():
            theirs.setdefault(name, theirs.get(other, -1))
        rows = np.array([theirs.get(gene, -1) for gene in vocabulary.ids])
        genes = np.arange(len(rows)) >= vocabulary.n_special
        known = genes & (rows >= 0)
        if known.sum() < FEWEST * genes.sum():
            raise InputError(
                f"{checkpoint.name} knows {known.sum():,} of the corpus's {genes.sum():,} genes; "
                "build the corpus with --vocabulary and the model's genes.tsv, or begin anew"
            )
        ours, before = vocabulary.medians[known], checkpoint.vocabulary.medians[rows[known]]
        return cls(
            checkpoint=checkpoint,
            directory=directory,
            rows=rows,
            changed_medians=int((np.abs(ours / before - 1) > 0.01).sum()),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: what is kept and what is new."""
        name, known = self.checkpoint.name, int((self.rows >= 0).sum())
        gone = len(self.checkpoint.vocabulary) - known
        lines = [
            f"From {name}: {known:,} tokens keep their vectors, {len(self.rows) - known:,} are "
            f"new, {gone:,} of the model's are not in the corpus."
        ]
        if not self.has_head:
            lines.append("Its masked-gene head is missing (all zeros): a new one begins.")
        if self.changed_medians:
            lines.append(
                f"The corpus has other medians for {self.changed_medians:,} of these genes, which "
                "ranks them otherwise than the model knows; to keep the model's, build the corpus "
                "with --vocabulary and its genes.tsv."
            )
        return tuple(lines)

    @property
    def has_head(self) -> bool:
        """Whether the model has a masked-gene head; classifiers have none."""
        return bool(self.checkpoint.model.transform.weight.any())

    def check(self, config: ModelConfig) -> None:
        """Check that the weights fit a shape.

        Raises
        ------
        InputError
            A size differs.
        """
        ours, theirs = shapes(config), shapes(self.checkpoint.config)
        for name, shape in ours.items():
            if name.startswith(CELL_HEAD) and name not in theirs:
                continue
            if name not in BY_GENE and theirs.get(name) != shape:
                raise InputError(
                    f"{name} of {self.checkpoint.name} has shape {theirs.get(name)}, not {shape}; "
                    "leave the model's shape as it is"
                )

    def record(self) -> dict[str, Any]:
        """Return the entry of the run's header."""
        return {
            "name": self.checkpoint.name,
            "hash": self.checkpoint.hash,
            "kept": int((self.rows >= 0).sum()),
            "new": int((self.rows < 0).sum()),
        }


def shapes(config: ModelConfig) -> dict[str, list[int]]:
    """Return the shape of every parameter, without allocating any."""
    with torch.device("meta"):
        return {name: list(p.shape) for name, p in MaskedGeneModel(config).named_parameters()}


def continue_from(model: MaskedGeneModel, init_from: InitFrom) -> None:
    """Copy the weights into an initialised model; new genes keep their initial values."""
    rows = torch.from_numpy(init_from.rows)
    known = rows >= 0
    theirs = dict(init_from.checkpoint.model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in theirs or (name.startswith(HEAD) and not init_from.has_head):
                continue
            if name in BY_GENE:
                parameter[known] = theirs[name][rows[known]]
            else:
                parameter.copy_(theirs[name])
        # A gene that the model never saw gets the bias of the rarest gene that it saw.
        if init_from.has_head:
            model.bias[~known] = model.bias[known].min() if known.any() else 0.0
