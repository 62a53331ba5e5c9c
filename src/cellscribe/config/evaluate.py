"""Options of the verbs that judge a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellscribe.config.embed import Precision
from cellscribe.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How `cellscribe evaluate` works."""

    label: str = "cell_type"
    """Column of obs with cell types."""
    group: str | None = None
    """Column of obs that no fold splits (donor, batch); found by its name if not given."""
    batch: str | None = None
    """Column of obs with batches to be mixed; found by its name if not given."""
    condition: str | None = None
    """Column of obs with perturbations; found by its name if not given."""
    gene_list: Path | None = None
    """Genes and their labels (CSV or TSV with columns gene and label), for the task genes."""
    cells: int = 4_000
    """Most cells of a file that are looked at, drawn at random."""
    seeds: int = 3
    """Repetitions with other folds, masks and draws."""
    seed: int = 0
    """Of the first repetition; cells are drawn with it."""
    bootstrap: int = 200
    """Draws behind the 95 % interval of a figure."""
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
    overwrite: bool = False
    """Measure anew what the folder of results already has."""

    def __post_init__(self) -> None:
        for name, least in (("cells", 50), ("seeds", 1), ("bootstrap", 20)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"seed {self.seed} is no seed; give 0 or more, less than 2**32")


@dataclass(frozen=True, kw_only=True)
class PerturbOptions:
    """How `cellscribe perturb` works."""

    model: str = "mini"
    """A bundled model's name or a checkpoint directory."""
    mode: Literal["delete", "promote"] = "delete"
    """Take the genes out of every cell, or put them in front."""
    genes: tuple[str, ...] = ()
    """Genes to perturb, by Ensembl id or symbol."""
    top: int | None = None
    """Perturb so many of the genes that most cells show, one by one; named ones come on top."""
    combine: bool = False
    """Perturb all named genes together, instead of one by one."""
    group_by: str | None = None
    """Column of obs; figures are given for each of its values."""
    start: str | None = None
    """Value of group_by whose cells are perturbed."""
    goal: str | None = None
    """Value of group_by towards whose centre a move counts."""
    cells: int = 1_000
    """Most cells that are perturbed, and most that make a goal, drawn at random with the seed."""
    seed: int = 0
    """Of all draws."""
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
    overwrite: bool = False
    """Replace an output that exists."""

    def __post_init__(self) -> None:
        for name in ("cells", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be 1 or more, not {value}")
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"seed {self.seed} is no seed; give 0 or more, less than 2**32")
