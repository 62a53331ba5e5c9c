"""Options of the verbs that learn labels from annotated cells, and that give them to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cellscribe.config.embed import Precision
from cellscribe.errors import InputError

Mode = Literal["head", "last", "lora", "all"]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How `cellscribe finetune` works."""

    label: str
    """Column of obs with the labels to learn."""
    group: str | None = None
    """Column of obs whose groups are held out whole: donor, batch or dataset."""
    mode: Mode = "head"
    """What is trained: head alone, head and last layers, head and LoRA adapters, or all."""
    layers: int = 2
    """Last layers that are trained with --mode last."""
    rank: int = 8
    """Of the adapters of --mode lora."""
    accuracy: float = 0.9
    """Wanted among the held-out cells that get a label; the others are unknown."""
    fewest_cells: int = 10
    """A label with fewer cells is left out."""
    folds: int = 5
    """Parts of the groups, held out in turn; of fewer groups, each is a part."""
    calibration_folds: int = 1
    """Of these, held out to calibrate where layers are trained; each is a training of its own."""
    epochs: int = 10
    """Most passes over the training cells where layers are trained."""
    patience: int = 5
    """End when the held-out loss has not fallen for so many passes."""
    batch_cells: int = 16
    """Cells a step."""
    genes_per_cell: int | None = None
    """Genes of a cell that a step looks at, a random subset with its ranks; all if not given."""
    learning_rate: float | None = None
    """Peak where layers are trained; by default 1e-3 for lora, else 3e-4."""
    weight_decay: float = 0.01
    """AdamW's decay; none on norms, biases and embeddings."""
    layer: str | None = None
    """Where the raw counts are: X (default), raw, or a layer's name."""
    gene_key: str | None = None
    """Column of var with Ensembl ids or symbols; found by its values if not given."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Of matrix products; auto takes bf16 where the hardware has it."""
    threads: int | None = None
    """CPU workers; all usable cores if not given."""
    seed: int = 0
    """Of folds, order of cells, subsets of genes and dropout."""
    overwrite: bool = False
    """Replace an output that exists."""

    def __post_init__(self) -> None:
        counts = ("layers", "rank", "fewest_cells", "calibration_folds", "epochs", "patience")
        check_positive(self, (*counts, "batch_cells", "genes_per_cell", "learning_rate", "threads"))
        check_calling(self.accuracy, self.folds, self.seed)
        if self.weight_decay < 0:
            raise InputError(f"weight_decay must not be negative, as {self.weight_decay} is")

    @property
    def peak_rate(self) -> float:
        """Learning rate at its highest."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.mode == "lora" else 3e-4


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """How `cellscribe annotate` works."""

    model: str = "mini"
    """A fine-tuned model's directory; with --reference, the model whose vectors are compared."""
    reference: str | None = None
    """Labelled cells, whose nearest give the label; nothing is trained."""
    label: str | None = None
    """Column of the reference's obs with the labels."""
    group: str | None = None
    """Column of the reference's obs whose groups are held out whole: donor, batch or dataset."""
    neighbours: int = 15
    """Reference cells that vote on a label."""
    accuracy: float = 0.9
    """Wanted among the held-out reference cells that get a label; the others are unknown."""
    fewest_cells: int = 10
    """A label of the reference with fewer cells is left out."""
    folds: int = 5
    """Parts of the reference's groups, held out in turn; of fewer groups, each is a part."""
    reference_layer: str | None = None
    """Where the reference's raw counts are: X (default), raw, or a layer's name."""
    layer: str | None = None
    """Where the raw counts are: X (default), raw, or a layer's name."""
    gene_key: str | None = None
    """Column of var with Ensembl ids or symbols; found by its values if not given."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Of matrix products; auto takes bf16 where the hardware has it."""
    threads: int | None = None
    """CPU workers; all usable cores if not given."""
    seed: int = 0
    """Of the reference's folds."""
    overwrite: bool = False
    """Replace an output that exists."""

    def __post_init__(self) -> None:
        check_positive(self, ("neighbours", "fewest_cells", "threads"))
        check_calling(self.accuracy, self.folds, self.seed)
        if self.reference is not None and self.label is None:
            raise InputError("say which column of the reference's obs holds the labels: --label")
        if self.reference is None:
            for name in ("label", "group", "reference_layer"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name.replace('_', '-')} is the reference's; give --reference too"
                    )


def check_positive(options: Any, names: tuple[str, ...]) -> None:
    """Refuse a setting that is given and not above zero."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, not {value}")


def check_calling(accuracy: float, folds: int, seed: int) -> None:
    """Refuse what no calibration can be made with."""
    if not 0 < accuracy <= 1:
        raise InputError(f"accuracy {accuracy} is not a share; give more than 0, at most 1")
    if folds < 2:
        raise InputError(f"folds {folds}: at least 2 are needed, one held out and one to learn")
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed {seed} is no seed; give 0 or more, less than 2**32")
