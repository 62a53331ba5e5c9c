"""Options of the verb finetune."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellscribe.config.renamed import accept_former_names
from cellscribe.config.shared_options import (
    DeviceOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    SeedOptions,
    check_positive,
)
from cellscribe.errors import InputError

Mode = Literal["head", "last", "lora", "all"]


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(SeedOptions):
    """How labels are held out to learn when a cell is better called unknown."""

    group: str | None = None
    """Column of obs whose groups are held out whole: donor, batch or dataset."""
    accuracy: float = 0.9
    """Accuracy wanted among the held-out cells that get a label; the others are unknown."""
    min_cells: int = 10
    """Fewest cells of a label; one with fewer is left out."""
    folds: int = 5
    """Parts of the groups, held out in turn; with fewer groups, each is a part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("min_cells",))
        if not 0 < self.accuracy <= 1:
            raise InputError(
                f"accuracy {self.accuracy} is not a share; give more than 0, at most 1"
            )
        if self.folds < 2:
            raise InputError(
                f"folds {self.folds}: at least 2 are needed, one held out and one to learn"
            )


@accept_former_names
@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(OutputOptions, DeviceOptions, InputOptions, ModelOptions, CalibrationOptions):
    """How `cellscribe finetune` works."""

    label: tuple[str, ...] | str = ()
    """Column of obs with the labels to learn; several times: a head for each, on one encoder."""
    loss_weight: tuple[str, ...] = ()
    """COLUMN=NUMBER: weight of a column's loss where layers are trained for several; else 1."""
    target: str | None = None
    """In place of labels, column of obs with a number to predict: age, dose, score."""
    coverage: float | None = None
    """With --target, share of new cells that the interval around a prediction holds; 0.9 if not
    given."""
    gene_list: Path | None = None
    """Learn labels of genes in place of cells': a CSV or TSV with columns gene and label."""
    mode: Mode = "head"
    """What is trained: head alone, head and last layers, head and LoRA adapters, or all."""
    layers: int = 2
    """Last layers that are trained with --mode last."""
    rank: int = 8
    """Rank of the adapters of --mode lora."""
    calibration_folds: int = 1
    """Folds held out to calibrate where layers are trained; each is a training of its own."""
    epochs: int = 10
    """Most passes over the training cells where layers are trained."""
    patience: int = 5
    """Passes without a lower held-out loss after which training ends."""
    batch_cells: int = 16
    """Cells a step."""
    genes_per_cell: int | None = None
    """Genes of a cell that a step looks at, a random subset with its ranks; all if not given."""
    learning_rate: float | None = None
    """Peak where layers are trained; by default 1e-3 for lora, else 3e-4."""
    trials: int | None = None
    """Recipes (rate, layers, passes) that are tried on held-out groups; the best is taken."""
    weight_decay: float = 0.01
    """AdamW's decay; none on norms, biases and embeddings."""
    no_report: bool = False
    """Leave out report.html and metrics.json, and the baselines that are fitted for them."""
    compare: bool = False
    """Train head, last layers and adapters too, and say which way is best for these cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.label, str):
            object.__setattr__(self, "label", (self.label,))
        if [bool(self.label), self.target is not None, self.gene_list is not None].count(True) != 1:
            raise InputError(
                "say what to learn: --label COLUMN of obs, or --target COLUMN with a number, or "
                "--gene-list FILE with labels of genes; one of them, as each makes its own model"
            )
        self._check_target()
        written = [name.replace("/", "_") for name in self.labels]
        for name in self.labels:
            if written.count(name.replace("/", "_")) > 1:
                raise InputError(
                    f"column {name!r} is named twice (--label), or differs from another in a slash "
                    "for _ alone; name it once, or rename it"
                )
        self._check_loss_weight()
        if self.gene_list is not None and (self.mode, self.group) != ("head", None):
            raise InputError(
                "--gene-list learns a head on vectors of genes, so that no layers are trained and "
                "no groups of cells are held out; leave out --mode and --group"
            )
        if self.compare and self.gene_list is not None:
            raise InputError("--compare is of labels of cells; leave it out with --gene-list")
        counts = ("layers", "rank", "calibration_folds", "epochs", "patience", "batch_cells")
        check_positive(self, (*counts, "genes_per_cell", "learning_rate", "trials"))
        if self.trials is not None and self.mode == "head":
            raise InputError(
                "--trials searches how layers are trained; --mode head trains none, its penalty "
                "is chosen on held-out groups anyway; take --mode last, lora or all"
            )
        if self.weight_decay < 0:
            raise InputError(f"weight_decay must not be negative, as {self.weight_decay} is")

    def _check_target(self) -> None:
        """Refuse what belongs to labels where a number is learnt, and the reverse."""
        if self.target is None:
            if self.coverage is not None:
                raise InputError("--coverage is of the interval of --target; leave it out")
            return
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise InputError(
                f"coverage {self.coverage} is not a share; give more than 0, less than 1"
            )
        if self.compare:
            raise InputError("--compare is of labels; --target is compared with baselines anyway")
        if self.accuracy != type(self).accuracy:
            raise InputError(
                "--accuracy is of labels; for the interval of --target give --coverage"
            )

    def _check_loss_weight(self) -> None:
        """Refuse weights that have nothing to share out."""
        if self.loss_weight and (len(self.labels) < 2 or self.mode == "head"):
            raise InputError(
                "--loss-weight shares out the loss of several columns where layers are trained; "
                "name several with --label and take --mode last, lora or all, or leave it out"
            )
        for text in self.loss_weight:
            name, _, number = text.rpartition("=")
            if name not in self.labels:
                raise InputError(
                    f"--loss-weight {text}: write COLUMN=NUMBER with a column of --label "
                    f"({', '.join(self.labels)})"
                )
            try:
                above = 0 < float(number) < float("inf")
            except ValueError:
                above = False
            if not above:
                raise InputError(f"--loss-weight {text}: give a number above 0 after =")

    @property
    def labels(self) -> tuple[str, ...]:
        """Columns of labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each column of labels."""
        given = dict.fromkeys(self.labels, 1.0)
        for text in self.loss_weight:
            name, _, number = text.rpartition("=")
            given[name] = float(number)
        return given

    @property
    def learnt(self) -> str:
        """Name of what is learnt: the columns, or the list's file."""
        return (
            ", ".join(self.labels) or self.target or (self.gene_list.stem if self.gene_list else "")
        )

    @property
    def peak_rate(self) -> float:
        """Learning rate at its highest."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.mode == "lora" else 3e-4
